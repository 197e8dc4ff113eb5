"""Tiles, the memory they share, and the precision they are computed in.

B batch, N tokens, H heads; in a tile S sources, R receivers.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

WHOLE = slice(None)


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the floating-point dtype in which to compute with tensors of `dtype`.

    Example:
        >>> import torch
        >>> at_least_float32(torch.bfloat16), at_least_float32(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Turn off gradients, inference mode and autocast, which would lower the precision.

    Args:
        like: a tensor on the device used.
    """
    device = like.device.type
    lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    plain = torch.autocast(device, enabled=False) if lowered else nullcontext()
    # Tensors made in inference mode could not be changed after it.
    with torch.inference_mode(False), torch.no_grad(), plain:
        yield


@dataclass(frozen=True)
class TileBudget:
    """The size of tiles on a device.

    Args:
        cells: most entries of the largest tensor of a tile.
        receivers: fewest receivers of a tile, unless the text has fewer.
        sources: fewest sources of a tile, unless the text has fewer.
        syncs: whether reading a number synchronizes the device, as on an accelerator.
    """

    cells: int
    receivers: int
    sources: int
    syncs: bool


CPU = TileBudget(cells=2**18, receivers=128, sources=512, syncs=False)
"""Small enough for the cache."""

ACCELERATOR = TileBudget(cells=2**26, receivers=128, sources=512, syncs=True)
"""Few kernel launches for any number of texts; a tile takes 256 MB in float32."""


class Tile(NamedTuple):
    """The examples, receivers and sources of one block of token-to-token matrices."""

    examples: slice
    receivers: slice
    sources: slice

    def diagonal(self, values: Tensor) -> tuple[slice, Tensor]:
        """Return the tokens that are both receivers and sources, and their entries.

        Args:
            values: `(..., S, R)`.

        Returns:
            The n tokens, and a view `(..., n)` of their entries; n is 0 in tiles off the diagonal.
        """
        start = max(self.receivers.start, self.sources.start)
        stop = max(min(self.receivers.stop, self.sources.stop), start)
        rows = slice(start - self.sources.start, stop - self.sources.start)
        columns = slice(start - self.receivers.start, stop - self.receivers.start)
        values = values if values.shape[-2:] == (stop - start, stop - start) else values[..., rows, columns]
        return slice(start, stop), values.diagonal(dim1=-2, dim2=-1)


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


class Workspace:
    """Memory that the tiles of all layers share.

    Allocating a tensor of a few megabytes takes about as long as computing it.

    Args:
        budget: the size of tiles.
    """

    def __init__(self, budget: TileBudget = CPU) -> None:
        self.budget = budget
        self._buffers: dict[str, Tensor] = {}
        self._taken: dict[tuple[object, ...], Tensor] = {}  # views of the buffers

    @classmethod
    def on(cls, device: torch.device) -> "Workspace":
        """Return a workspace with the budget of a device."""
        return cls(CPU if device.type == "cpu" else ACCELERATOR)

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return an uninitialized tensor, valid until `name` is taken again.

        Args:
            name: of the buffer.
            shape: of the tensor.
            like: a tensor of the same dtype and device.
        """
        key = name, tuple(shape), like.dtype, like.device
        if key not in self._taken:
            size, buffer = math.prod(shape), self._buffers.get(name)
            if (
                buffer is None
                or buffer.numel() < size
                or (buffer.dtype, buffer.device) != (like.dtype, like.device)
            ):
                buffer = self._buffers[name] = like.new_empty(size)
                self._taken = {other: it for other, it in self._taken.items() if other[0] != name}
            self._taken[key] = buffer[:size].view(*shape)
        return self._taken[key]

    def columns(self, batch: int, tokens: int, heads: int, within: slice | None = None) -> Iterator[Tile]:
        """Yield tiles that hold all sources of their receivers.

        Args:
            batch: B.
            tokens: N.
            heads: H.
            within: the receivers; None for all.
        """
        start, stop = (0, tokens) if within is None else (within.start, within.stop)
        receivers = min(max(self.budget.cells // (heads * tokens), self.budget.receivers), stop - start)
        examples = max(self.budget.cells // (heads * tokens * receivers), 1)
        for some in slices(batch, examples):
            for each in slices(stop - start, receivers):
                yield Tile(some, slice(start + each.start, start + each.stop), slice(0, tokens))

    def blocks(self, tile: Tile, heads: int) -> Iterator[Tile]:
        """Split a tile along its sources."""
        receivers = tile.receivers.stop - tile.receivers.start
        size = max(self.budget.cells // (heads * receivers), self.budget.sources)
        start, stop = tile.sources.start, tile.sources.stop
        for each in slices(stop - start, size):
            yield tile._replace(sources=slice(start + each.start, start + each.stop))
