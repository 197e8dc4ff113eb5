"""Check that both residual connections of a layer carry each token, unscaled, in every pass.

GlobEnc adds what a residual connection carries to what the branch beside it computes. So a tensor that a norm
reads must be the sum of the tensor at the start of the connection and something else. The sums are seen as
torch runs them. B batch, N tokens, D hidden size.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_globenc.recording.adding_up import ROUNDINGS
from captum_globenc.recording.streams import Written

__all__ = ["SumWatcher", "carries"]

SUMS = frozenset({"add", "__add__", "__radd__", "add_", "__iadd__"})
"""Names of torch's functions that add two tensors."""


class SumWatcher(TorchFunctionMode):
    """Records the sums of two tensors of one shape: the result and both terms.

    Example:
        >>> with SumWatcher() as watcher:
        ...     total = torch.ones(1, 2, 3) + torch.ones(1, 2, 3)
        >>> watcher.sums[0][0].value is total
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[tuple[Written, Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, and record it if it is a sum."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if getattr(func, "__name__", "") in SUMS and isinstance(output, Tensor) and output.ndim > 1:
            terms = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
            plain = len(terms) == 2 and kwargs.get("alpha", 1) == 1
            if plain and all(isinstance(it, Tensor) and it.shape == output.shape for it in terms):
                self.sums.append((Written(output), *terms))
        return output


def carries(
    start: Sequence[Written],
    end: Sequence[Tensor],
    sums: Sequence[tuple[Written, Tensor, Tensor]],
    real: Tensor | None,
) -> bool:
    """Return whether a residual connection carries every token from `start` to `end` exactly once.

    Objects are compared first, which costs nothing. Values are compared where the model or a hook copied or
    cast a tensor, or runs the feed-forward network in chunks of tokens.

    Args:
        start: `(B, N, D)`, or chunks of it along the tokens.
        end: likewise.
        sums: the sums that ran in between.
        real: `(B, N)`, False at padding; None where every token is real.
    """
    if any(it.changed for it in start):
        return False
    if len(end) == 1:
        held = {id(it.value) for it in start}
        if len(start) == 1 and id(end[0]) in held:
            return True
        for result, one, other in sums:
            if (id(one) in held) != (id(other) in held) and not result.changed:
                held.add(id(result.value))
        if len(start) == 1 and id(end[0]) in held:
            return True
    values = [it.value for it in start]
    if _found(torch.cat(values, 1), torch.cat(list(end), 1), real, iter(sums)):
        return True
    # Chunks follow each other, so each continues where the sums of the one before it end.
    left = iter(sums)
    return max(len(values), len(end)) > 1 and all(
        _found(one, other, mask, left) for one, other, mask in _chunks(values, end, real)
    )


def _chunks(
    start: Sequence[Tensor], end: Sequence[Tensor], real: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Cut both ends, and the mask, into the chunks of the one that has more."""
    sizes = [it.shape[1] for it in (start if len(start) > len(end) else end)]
    masks = [None] * len(sizes) if real is None else torch.split(real, sizes, 1)
    starts, ends = (torch.split(torch.cat(list(it), 1), sizes, 1) for it in (start, end))
    yield from zip(starts, ends, masks, strict=True)


def _found(
    start: Tensor, end: Tensor, real: Tensor | None, sums: Iterator[tuple[Written, Tensor, Tensor]]
) -> bool:
    """Return whether sums lead from `start` to `end`, and consume those that do."""
    carried = [start]
    if _same(start, end, real):
        return True
    for result, one, other in sums:
        terms = [any(_same(term, it, real) for it in carried) for term in (one, other)]
        if terms[0] != terms[1]:
            carried.append(result.value)
            if _same(result.value, end, real):
                return True
    return False


def _same(one: Tensor, other: Tensor, real: Tensor | None) -> bool:
    """Return whether two tensors are equal at real tokens, up to the rounding of a cast."""
    if one is other:
        return True
    if one.numel() != other.numel():
        return False
    dtype = min((one.dtype, other.dtype), key=lambda it: torch.finfo(it).bits)
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    first, second = one.reshape(other.shape).to(other.device, wide), other.to(wide)
    if real is not None:
        first, second = (it[real.to(other.device)] for it in (first, second))
    if not first.numel():
        return True
    bound = ROUNDINGS * torch.finfo(dtype).eps * second.abs().max()
    return bool((first - second).abs().max() <= bound)
