"""Maxima: the difference goes to the arguments that changed it.

For two, max(u, w) = (u + w + |u - w|) / 2, by the secant of the absolute value. Of more, only the ones
that are largest in either run count, and these are two.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair

__all__ = ["extreme_of_dimension", "extreme_of_two", "max_pool"]


def _share(difference: Tensor, base: Tensor) -> Tensor:
    """Return what part the first of two has in their maximum, from their differences in both runs."""
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
    """Return the rule of the largest, or smallest, along a dimension (max, amax) or of all."""

    def rule(call: Call) -> Backward:
        if (len(call.args) > 1 and isinstance(call.args[1], Pair | Tensor)) or "other" in call.kwargs:
            return extreme_of_two(largest)(call)
        pair = call.pair
        further = [arg for arg in call.args if not isinstance(arg, Pair)]
        dim = call.kwargs.get("dim", further[0] if further else None)
        keepdim = call.kwargs.get("keepdim", further[1] if len(further) > 1 else False)
        if isinstance(dim, tuple | list):
            if len(dim) != 1:
                raise ValueError("it goes along several dimensions")
            dim = dim[0]
        sides = [side.flatten() if dim is None else side for side in (pair.value, pair.base)]
        place = 0 if dim is None else dim
        found = [
            side.argmax(place, keepdim=True) if largest else side.argmin(place, keepdim=True)
            for side in sides
        ]
        spread = _between(sides[0], sides[1], found[0], found[1], place, 1 if largest else -1)

        def backward(grad: Tensor) -> Any:
            if dim is None:
                return [(pair, spread(grad.reshape(1)).reshape(pair.value.shape))]
            return [(pair, spread(grad if keepdim else grad.unsqueeze(dim)))]

        return backward

    return rule


def _between(
    value: Tensor, base: Tensor, one: Tensor, other: Tensor, dim: int, sign: int
) -> Callable[[Tensor], Tensor]:
    """Share a multiplier out between the places that are extreme in either run."""
    differences = [sign * (side.gather(dim, one) - side.gather(dim, other)) for side in (value, base)]
    share = _share(*differences)

    def spread(grad: Tensor) -> Tensor:
        made = torch.zeros_like(value)
        return made.scatter_add_(dim, one, grad * share).scatter_add_(dim, other, grad * (1 - share))

    return spread


def max_pool(call: Call) -> Backward:
    """The rule of max_pool1d, 2d, 3d and their adaptive kin."""
    pair = call.pair
    name = call.function.__name__.removesuffix("_with_indices")
    dims = int(name[-2])
    pool = getattr(torch.nn.functional, f"{name}_with_indices")
    args, kwargs = (
        call.args[1:],
        {key: it for key, it in call.kwargs.items() if key not in ("input", "return_indices")},
    )
    if len(args) > 5 or (name.startswith("adaptive") and len(args) > 1):
        args = args[:-1]
    sides = pair.value, pair.base
    found = [pool(side, *args, **kwargs)[1].flatten(-dims) for side in sides]
    flat = [side.flatten(-dims) for side in sides]
    spread = _between(flat[0], flat[1], found[0], found[1], -1, 1)

    def backward(grad: Tensor, *_: Any) -> Any:
        return [(pair, spread(grad.flatten(-dims)).reshape(pair.value.shape))]

    return backward
