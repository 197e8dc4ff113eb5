"""What one layer passes between tokens, in tiles: kept where they are small, else made as often as asked for.

B batch, N tokens, P rows, and of a tile b texts, S sources, R receivers.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import Attention
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.weights import Weights
from captum_globenc.decomposition.workspace import Tile, Workspace


class Kind(Protocol):
    """What becomes of a layer's attention."""

    @property
    def in_blocks(self) -> bool:
        """Whether a tile may have some of the sources of its receivers; otherwise it has all."""
        ...

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return what a tile passes, `(b, S, R)`, of attention `(b, H, S, R)`."""
        ...


class Mixture:
    """A matrix `(B, N, N)`, [receiver, source], of one layer, that is never held whole where it is large.

    Where queries and keys take less memory than the tiles that are not empty, they are kept in their place
    and the tiles made anew, so that memory grows as the number of tokens does.

    Args:
        shape: `(B, N)`.
        like: has the dtype and the device.
        tiles: what is kept; None where it is made.
        maker: makes the tiles of which `wanted` is true.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        like: Tensor,
        tiles: Sequence[tuple[Tile, Tensor]] | None = None,
        maker: "_Maker | None" = None,
    ) -> None:
        self.shape = shape
        self.dtype = like.dtype
        self.device = like.device
        self._tiles = tiles
        self._maker = maker

    @classmethod
    def of(cls, record: LayerRecord, kind: Kind, weights: Weights, workspace: Workspace) -> "Mixture":
        """Return the mixture of a layer.

        Args:
            record: the layer; it is not held.
            kind: what becomes of attention.
            weights: the layer's attention.
            workspace: memory to work in.
        """
        shape = (record.stream.shape[0], record.stream.shape[1])
        like = record.stream.new_empty(0)
        maker = _Maker(shape, record.attention, kind, record.real, like, workspace)
        plan = list(maker.plan(weights))
        cells = sum(_length(tile.examples) * _length(tile.sources) * _length(tile.receivers) for tile in plan)
        if cells <= record.attention.size:
            return cls(shape, like, tiles=[(tile, maker.make(tile, weights)) for tile in plan])
        return cls(shape, like, maker=maker)

    def carry(self, rows: Tensor) -> Tensor:
        """Return rows `(B, P, N)` of weights of the receivers, times the matrix."""
        carried = torch.zeros_like(rows)
        for tile, passed in self._made(rows):
            chosen = rows[tile.examples, :, tile.receivers]
            carried[tile.examples, :, tile.sources] += chosen @ passed.transpose(1, 2)
        return carried

    def matrix(self) -> Tensor:
        """Return the matrix `(B, N, N)`, [receiver, source]."""
        batch, tokens = self.shape
        matrix = torch.zeros(batch, tokens, tokens, dtype=self.dtype, device=self.device)
        for tile, passed in self._made(None):
            matrix[tile.examples, tile.receivers, tile.sources] = passed.transpose(1, 2)
        return matrix

    def _made(self, rows: Tensor | None) -> Iterator[tuple[Tile, Tensor]]:
        """Give the tiles, but those that no row has a weight for, where that is cheap to ask."""
        if self._tiles is not None:
            yield from self._tiles
            return
        assert self._maker is not None
        maker = self._maker
        weights = maker.attention.weights(self.dtype)
        for tile in maker.plan(weights):
            if (
                rows is None
                or maker.workspace.room.waits
                or bool(rows[tile.examples, :, tile.receivers].any())
            ):
                yield tile, maker.make(tile, weights)


class _Maker:
    """Makes the tiles of a layer."""

    def __init__(
        self,
        shape: tuple[int, int],
        attention: Attention,
        kind: Kind,
        real: Tensor | None,
        like: Tensor,
        workspace: Workspace,
    ) -> None:
        self.attention = attention
        self.workspace = workspace
        self._shape = shape
        self._kind = kind
        self._real = None if real is None else real.expand(shape)
        self._like = like

    def plan(self, weights: Weights) -> Iterator[Tile]:
        heads, workspace = self.attention.heads, self.workspace
        for column in workspace.columns(*self._shape, heads):
            tile = column if workspace.room.waits else weights.seen(column)
            if weights.in_blocks and self._kind.in_blocks:
                yield from workspace.blocks(tile, heads)
            else:
                yield tile

    def make(self, tile: Tile, weights: Weights) -> Tensor:
        """Return what a tile passes, `(b, S, R)`; exactly 0 at padding."""
        shape = (_length(tile.examples), self.attention.heads, _length(tile.sources), _length(tile.receivers))
        room = self.workspace.take("weights", shape, like=self._like)
        return without_padding(self._kind.tile(weights.tile(tile, room), tile), tile, self._real)


def without_padding(passed: Tensor, tile: Tile, real: Tensor | None) -> Tensor:
    """Zero what a tile `(b, S, R)` passes from and to padding, NaN included."""
    if real is None:
        return passed
    texts = real[tile.examples]
    return passed.where(texts[:, tile.sources, None] & texts[:, None, tile.receivers], 0)


def _length(some: slice) -> int:
    return int(some.stop - some.start)
