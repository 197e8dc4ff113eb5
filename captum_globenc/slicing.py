"""Slices of dimensions, to compute large tensors in parts."""

from collections.abc import Iterator

from torch import Tensor

WHOLE = slice(None)


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `range(count)`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def part(tensor: Tensor, *index: slice) -> Tensor:
    """Return `tensor[index]`, without an operation if that is the whole tensor.

    Example:
        >>> import torch
        >>> tensor = torch.zeros(2, 3)
        >>> part(tensor, slice(0, 2), WHOLE) is tensor, part(tensor, WHOLE, slice(0, 2)).shape
        (True, torch.Size([2, 2]))
    """
    whole = all(it.indices(size) == (0, size, 1) for it, size in zip(index, tensor.shape, strict=False))
    return tensor if whole else tensor[index]
