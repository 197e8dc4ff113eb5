"""Rules of maxima, minima, max pooling and topk; equal elements get equal shares.

Maxima of two use max(u, w) = (u + w + |u - w|) / 2 and the secant of the absolute value. For more elements, u
is the mean of the largest elements at the input, and w the mean of the largest elements at the baseline:
the maximum is max(u, w) in both runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair


def _share(difference: Tensor, base: Tensor) -> Tensor:
    """Return the share of the first of two numbers in their maximum, given their difference in both runs."""
    change = difference - base
    secant = torch.where(change == 0, difference.sign(), (difference.abs() - base.abs()) / change)
    return (1 + secant) / 2


def extreme_of_two(largest: bool) -> Callable[[Call], Backward]:
    """Return the rule of maximum, or minimum, of two tensors."""
    sign = 1 if largest else -1

    def rule(call: Call) -> Backward:
        sides = [
            arg if isinstance(arg, Pair) else Pair(arg, arg) for arg in (*call.args, *call.kwargs.values())
        ]
        one, other = sides
        share = _share(sign * (one.value - other.value), sign * (one.base - other.base))

        def backward(grad: Tensor) -> Any:
            made = [
                (one, (grad * share).sum_to_size(one.value.shape)),
                (other, (grad * (1 - share)).sum_to_size(other.value.shape)),
            ]
            return [(pair, multiplier) for pair, multiplier in made if pair in call.pairs]

        return backward

    return rule


def extreme_of_dimension(largest: bool) -> Callable[[Call], Backward]:
    """Return the rule of the largest, or smallest, along some dimensions (max, amax) or of all elements."""

    def rule(call: Call) -> Backward:
        if (len(call.args) > 1 and isinstance(call.args[1], Pair | Tensor)) or "other" in call.kwargs:
            return extreme_of_two(largest)(call)
        pair = call.pair
        further = [arg for arg in call.args if not isinstance(arg, Pair)]
        dim = call.kwargs.get("dim", further[0] if further else None)
        keepdim = call.kwargs.get("keepdim", further[1] if len(further) > 1 else False)
        count = pair.value.dim()
        given = range(count) if dim is None or dim == () else (dim,) if isinstance(dim, int) else dim
        dims = tuple(sorted(it % max(count, 1) for it in given)) if count else ()

        def backward(grad: Tensor) -> Any:
            for position in () if keepdim else dims:
                grad = grad.unsqueeze(position)
            return [(pair, _spread(grad, pair.value, pair.base, dims, 1 if largest else -1))]

        return backward

    return rule


def _spread(grad: Tensor, value: Tensor, base: Tensor, dims: tuple[int, ...], sign: int) -> Tensor:
    """Distribute a multiplier over the elements along some dimensions that are extreme in either run."""
    if not dims:
        return grad.clone()
    sides = sign * value, sign * base
    tops = [side.amax(dims, keepdim=True) for side in sides]
    ties = [(side == top).to(grad.dtype) for side, top in zip(sides, tops, strict=True)]
    one, other = (tie / tie.sum(dims, keepdim=True) for tie in ties)
    # Elements that are extreme in neither run may be -inf.
    means = [
        torch.where(part > 0, part * side, 0).sum(dims, keepdim=True)
        for part, side in ((other, sides[0]), (one, sides[1]))
    ]
    share = _share(tops[0] - means[0], means[1] - tops[1])
    shares: Tensor = share * one + (1 - share) * other
    return grad * shares


def top(call: Call) -> Backward:
    """Return the rule of the values of topk: each is the value of the selected element.

    Elements that equal it in both runs get equal shares.

    Raises:
        ValueError: other elements were selected at the baseline.
    """
    names = ("k", "dim", "largest", "sorted")
    pair = call.pair
    given = {"dim": -1, **dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
    dim = given["dim"]
    indices, indices0 = (
        call.function(side, *call.args[1:], **_without_input(call)).indices
        for side in (pair.value, pair.base)
    )
    if not torch.equal(indices, indices0):
        raise ValueError(
            "it selects other elements at the baseline than at the input, or the same ones in another order: "
            'choose a closer baseline, or decisions="follow"'
        )

    def backward(grad: Tensor) -> Any:
        sides = [side.movedim(dim, -1) if side.dim() else side[None] for side in (pair.value, pair.base)]
        selected = indices.movedim(dim, -1) if indices.dim() else indices[None]
        grads = grad.movedim(dim, -1) if grad.dim() else grad[None]
        made = torch.zeros_like(sides[0])
        for rank in range(selected.shape[-1]):
            where = selected[..., rank : rank + 1]
            alike = torch.stack([side == side.gather(-1, where) for side in sides]).all(0).to(grad.dtype)
            made += grads[..., rank : rank + 1] * alike / alike.sum(-1, keepdim=True)
        return [(pair, made.movedim(-1, dim) if pair.value.dim() else made[0])]

    return backward


def _without_input(call: Call) -> dict[str, Any]:
    return {name: it for name, it in call.kwargs.items() if not isinstance(it, Pair)}


def max_pool(call: Call) -> Backward:
    """Return the rule of max_pool1d, 2d, 3d and their adaptive variants: a maximum per window."""
    pair = call.pair
    name = call.function.__name__.removesuffix("_with_indices")
    count = int(name[-2])
    names = ("input", "kernel_size", "stride", "padding", "dilation")
    given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
    shape, made = pair.value.shape[-count:], call.outputs[0].value.shape[-count:]
    axes = [
        _adaptive(*sizes) if name.startswith("adaptive") else _strided(*sizes, *options)
        for *sizes, options in zip(shape, made, _options(given, count), strict=True)
    ]
    windows = _windows(axes, shape).to(pair.value.device)

    def backward(grad: Tensor, *_: Any) -> Any:
        flat = [side.flatten(-count) for side in (pair.value, pair.base)]
        inside = windows >= 0
        value, base = (side[..., windows.clamp(min=0)].masked_fill(~inside, -torch.inf) for side in flat)
        spread = _spread(grad.flatten(-count).unsqueeze(-1), value, base, (value.dim() - 1,), 1)
        spread = spread.masked_fill(~inside, 0).flatten(-2)
        total = torch.zeros_like(flat[0]).index_add_(-1, windows.clamp(min=0).flatten(), spread)
        return [(pair, total.reshape(pair.value.shape))]

    return backward


def _options(given: dict[str, Any], count: int) -> list[tuple[int, ...]]:
    """Return the kernel size, stride, padding and dilation of each dimension."""
    size = given.get("kernel_size", 1)
    options = (size, given.get("stride") or size, given.get("padding", 0), given.get("dilation", 1))
    each = [it if isinstance(it, tuple | list) else (it,) for it in options]
    return list(zip(*(it * count if len(it) == 1 else it for it in each), strict=True))


def _strided(size: int, made: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Return the elements of the windows along one dimension `(windows, elements)`; -1 for padding."""
    elements = torch.arange(made)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return torch.where((elements >= 0) & (elements < size), elements, -1)


def _adaptive(size: int, made: int) -> Tensor:
    starts = torch.arange(made) * size // made
    ends = -(-(torch.arange(1, made + 1) * size) // made)
    elements = starts[:, None] + torch.arange(int((ends - starts).max()))
    return torch.where(elements < ends[:, None], elements, -1)


def _windows(axes: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Return the flat indices of the elements of all windows, `(windows, elements)`; -1 for padding."""
    made = axes[0]
    for axis, size in zip(axes[1:], shape[1:], strict=True):
        joined = made[:, None, :, None] * size + axis[None, :, None, :]
        joined = torch.where((made[:, None, :, None] >= 0) & (axis[None, :, None, :] >= 0), joined, -1)
        made = joined.flatten(2).flatten(0, 1)
    return made
