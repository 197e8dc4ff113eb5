"""Where and how the engine computes: in memory that tiles share, at full precision.

B batch, N tokens, H heads, S sources and R receivers in a tile.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Compute without gradients, inference mode, and the caller's autocast, which would lower the precision.

    Args:
        like: lies on the device that is computed on.
    """
    device = like.device.type
    lowered = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    plain = torch.autocast(device, enabled=False) if lowered else nullcontext()
    # What is made in inference mode could not be worked on when that is over.
    with torch.inference_mode(False), torch.no_grad(), plain:
        yield


@dataclass(frozen=True)
class Room:
    """How much a device works on at once.

    Args:
        cells: how many numbers the largest tensor of a tile may hold.
        receivers: how many receivers a tile has at least, where there are as many.
        sources: how many sources, likewise.
        waits: whether to look at a number waits for everything before it, as on an accelerator.
    """

    cells: int
    receivers: int
    sources: int
    waits: bool


CPU = Room(cells=2**18, receivers=128, sources=512, waits=False)
"""What a tile needs stays in the cache."""

ACCELERATOR = Room(cells=2**26, receivers=128, sources=512, waits=True)
"""Few kernels, however many texts: a tile is a quarter of a gigabyte in float32."""


class Tile(NamedTuple):
    """Texts, receivers and sources that are worked on at once."""

    examples: slice
    receivers: slice
    sources: slice

    def own(self, values: Tensor) -> tuple[slice, Tensor]:
        """Return which tokens are receivers and sources, and a view of what they pass to themselves.

        Args:
            values: `(..., S, R)`.

        Returns:
            Those tokens, of the text, and `(..., n)`; none where the tile is off the diagonal.
        """
        start = max(self.receivers.start, self.sources.start)
        stop = max(min(self.receivers.stop, self.sources.stop), start)
        rows = slice(start - self.sources.start, stop - self.sources.start)
        columns = slice(start - self.receivers.start, stop - self.receivers.start)
        return slice(start, stop), values[..., rows, columns].diagonal(dim1=-2, dim2=-1)


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut `count` into slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class Workspace:
    """Memory that the tiles of all layers share.

    The pages of a fresh tensor of a few megabytes cost about as much time as what is computed in it.

    Args:
        room: how much is worked on at once.
    """

    def __init__(self, room: Room = CPU) -> None:
        self.room = room
        self._buffers: dict[str, Tensor] = {}

    @classmethod
    def on(cls, device: torch.device) -> "Workspace":
        """Return one for a device."""
        return cls(CPU if device.type == "cpu" else ACCELERATOR)

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor with whatever it holds, valid until `name` is taken again.

        Args:
            name: which piece of memory.
            shape: of the tensor.
            like: has the dtype and the device that are wanted.
        """
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < size
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
        ):
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(*shape)

    def columns(self, batch: int, tokens: int, heads: int, within: slice | None = None) -> Iterator[Tile]:
        """Cut what is passed between tokens into tiles that hold all sources of their receivers.

        Args:
            batch: B.
            tokens: N.
            heads: H.
            within: which receivers; left out, all.
        """
        start, stop = (0, tokens) if within is None else (within.start, within.stop)
        receivers = min(max(self.room.cells // (heads * tokens), self.room.receivers), stop - start)
        examples = max(self.room.cells // (heads * tokens * receivers), 1)
        for some in slices(batch, examples):
            for each in slices(stop - start, receivers):
                yield Tile(some, slice(start + each.start, start + each.stop), slice(0, tokens))

    def blocks(self, tile: Tile, heads: int) -> Iterator[Tile]:
        """Cut a tile along its sources."""
        receivers = tile.receivers.stop - tile.receivers.start
        size = max(self.room.cells // (heads * receivers), self.room.sources)
        start, stop = tile.sources.start, tile.sources.stop
        for each in slices(stop - start, size):
            yield tile._replace(sources=slice(start + each.start, start + each.stop))
