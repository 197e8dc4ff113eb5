"""Attention probabilities of one layer, a tile of receivers and sources at a time.

B batch, H heads, N tokens, d head size, and of a tile b texts, S sources, R receivers. A tile is laid out
sources-major, `(b, H, S, R)`: the receivers are the fast axis, on which exponentials and the quadratic
forms of :mod:`captum_globenc.decomposition.norms` are vectorised.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captum_globenc.decomposition.workspace import Tile

LOG2_E = math.log2(math.e)


class Weights(Protocol):
    """Gives the tiles of one layer's attention."""

    @property
    def in_blocks(self) -> bool:
        """Whether a tile may have some of the sources that its receivers see; otherwise it has all."""
        ...

    def seen(self, tile: Tile) -> Tile:
        """Return the tile without sources at its ends that none of its receivers sees.

        The receivers themselves stay among the sources.
        """
        ...

    def tile(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(b, H, S, R)` with which receivers attend to sources.

        They may lie in `out`, of that shape and contiguous, but need not.
        """
        ...

    def own(self) -> Tensor | None:
        """Return `(B, H, N)`, with which tokens attend to themselves; None where tiles have to tell."""
        ...


@dataclass(frozen=True)
class Scores:
    """The tiles of queries and keys.

    Args:
        query: `(B, H, N, d)`, scaled.
        key: `(B, H or fewer, N, d)`.
        mask: broadcastable to `(B, H, N, N)`, boolean or additive, or None.
        causal: whether receivers see only what stands before them.
        shift: `(B, H, N)`, less the logarithm of each receiver's denominator; None where it is not known.
            To base 2, for which queries are scaled then: powers of 2 take half as long.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool
    shift: Tensor | None

    @property
    def in_blocks(self) -> bool:
        """Whether denominators are known, so that a tile may have some of the sources of its receivers."""
        return self.shift is not None

    def seen(self, tile: Tile) -> Tile:
        """Return the tile without sources at its ends that none of its receivers sees."""
        first, last = tile.sources.start, tile.sources.stop
        if self.causal:
            last = tile.receivers.stop
        mask = self.mask
        if mask is not None and mask.dtype == torch.bool and mask.shape[3] > 1:
            there = self._of(mask, tile).flatten(0, 1).any(dim=0).any(dim=1).nonzero()
            if len(there):
                first, last = int(there[0]), int(there[-1]) + 1
        start, stop = min(first, tile.receivers.start), max(last, tile.receivers.stop)
        return tile._replace(sources=slice(start, stop))

    def tile(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(b, H, S, R)` with which receivers attend to sources."""
        query = self.query[tile.examples, :, tile.receivers]
        key = share_heads(self.key[tile.examples, :, tile.sources], query.shape[1])
        shape = (*key.shape[:3], query.shape[2])
        room = None if out is None else out.view(-1, *shape[2:])
        scores = torch.bmm(key.flatten(0, 1), query.flatten(0, 1).transpose(1, 2), out=room).view(shape)
        if self.mask is not None:
            self._hide(scores, self._of(self.mask, tile))
        if self.causal:
            place = torch.arange(self.query.shape[2], device=scores.device)
            scores.masked_fill_(place[tile.sources, None] > place[None, tile.receivers], -torch.inf)
        if self.shift is None:
            return torch.softmax(scores, dim=2, out=scores)
        return scores.add_(self.shift[tile.examples, :, None, tile.receivers]).exp2_()

    def own(self) -> Tensor | None:
        """Return `(B, H, N)`, with which tokens attend to themselves; None where tiles have to tell."""
        if self.shift is None:
            return None
        scores: Tensor = torch.linalg.vecdot(self.query, share_heads(self.key, self.query.shape[1]))
        if self.mask is not None:
            tokens = scores.shape[2]
            self._hide(scores, self.mask.expand(-1, -1, tokens, tokens).diagonal(dim1=2, dim2=3))
        return scores.add_(self.shift).exp2_()

    def _hide(self, scores: Tensor, mask: Tensor) -> None:
        """Apply the part of a mask that belongs to some scores."""
        if mask.dtype == torch.bool:
            scores.masked_fill_(~mask, -torch.inf)
        else:
            scores.add_(mask, alpha=1 if self.shift is None else LOG2_E)

    def _of(self, mask: Tensor, tile: Tile) -> Tensor:
        """Return what `mask` holds for a tile, `(b or 1, H or 1, S or 1, R or 1)`."""
        if mask.shape[0] > 1:
            mask = mask[tile.examples]
        if mask.shape[2] > 1:
            mask = mask[:, :, tile.receivers]
        if mask.shape[3] > 1:
            mask = mask[..., tile.sources]
        return mask.transpose(2, 3)


def share_heads(heads: Tensor, number: int) -> Tensor:
    """Repeat each of the heads `(B, G, N, d)` for its group, giving `(B, number, N, d)`."""
    batch, groups, tokens, size = heads.shape
    if groups == number:
        return heads
    shared = heads[:, :, None].expand(batch, groups, number // groups, tokens, size)
    return shared.reshape(batch, number, tokens, size)
