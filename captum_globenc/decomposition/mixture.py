"""What one layer passes between tokens, in tiles: kept where they are small, else made as often as asked for.

B batch, N tokens, P rows, and of a tile b texts, S sources, R receivers.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

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

    Args:
        record: the layer; of it, attention is held.
        kind: what becomes of attention.
        weights: the layer's attention, ready to be used.
        workspace: memory to work in.
    """

    def __init__(self, record: LayerRecord, kind: Kind, weights: Weights, workspace: Workspace) -> None:
        self.shape = (record.stream.shape[0], record.stream.shape[1])
        self.dtype = record.stream.dtype
        self.device = record.stream.device
        self._tiles: Sequence[tuple[Tile, Tensor]] | None = None
        self._maker: _Maker | None = _Maker(self.shape, record, kind, workspace)
        self._weights: Weights | None = weights

    def settle(self) -> None:
        """Keep the tiles in place of what they are made of, or let go of what can be made again.

        Where queries and keys take less memory than the tiles that are not empty, they are what is kept,
        and the tiles are made as often as asked for: so memory grows as the number of tokens does.
        """
        maker, weights = self._maker, self._weights
        assert maker is not None
        assert weights is not None
        self._weights = None
        plan = list(maker.plan(weights))
        cells = sum(_length(tile.examples) * _length(tile.sources) * _length(tile.receivers) for tile in plan)
        if cells <= maker.attention.size:
            self._tiles = [(tile, maker.make(tile, weights)) for tile in plan]
            self._maker = None

    def carry(self, rows: Tensor) -> Tensor:
        """Return rows `(B, P, N)` of weights of the receivers, times the matrix."""
        carried = torch.zeros_like(rows)
        for tile, passed in self._made(rows):
            if passed.shape == (*self.shape, self.shape[1]):
                return torch.bmm(rows, passed.transpose(1, 2))
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
        """Give the tiles; of those that are made, not those without a weight, where that is cheap to ask."""
        if self._tiles is not None:
            yield from self._tiles
            return
        maker = self._maker
        assert maker is not None
        weights = maker.attention.weights(self.dtype) if self._weights is None else self._weights
        within = None
        if rows is not None and not maker.workspace.room.waits:
            wanted = rows.flatten(0, 1).any(dim=0).nonzero()
            within = slice(int(wanted[0]), int(wanted[-1]) + 1) if len(wanted) else slice(0, 1)
        for tile in maker.plan(weights, within):
            yield tile, maker.make(tile, weights)


class _Maker:
    """Makes the tiles of a layer."""

    def __init__(self, shape: tuple[int, int], record: LayerRecord, kind: Kind, workspace: Workspace) -> None:
        self.attention = record.attention
        self.workspace = workspace
        self._shape = shape
        self._kind = kind
        self._real = None if record.real is None else record.real.expand(shape)
        self._like = record.stream.new_empty(0)

    def plan(self, weights: Weights, within: slice | None = None) -> Iterator[Tile]:
        """Cut the matrix, or the part of some receivers, into tiles, without the sources that none sees."""
        heads, workspace = self.attention.heads, self.workspace
        for column in workspace.columns(*self._shape, heads, within):
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
