"""Attention of one layer as it was recorded, and its probabilities in tiles.

B batch, H heads, G groups of heads that share keys, N tokens, d head size; in a tile b texts, S sources, R
receivers. Tiles are stored sources-major, `(b, H, S, R)`: receivers are the contiguous axis, on which
exponentials and the quadratic forms of :mod:`captum_globenc.decomposition.norms` are vectorized.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_globenc.decomposition.workspace import WHOLE, Tile, Workspace, at_least_float32, part

LOG2_E = math.log2(math.e)

HIDDEN_BELOW = 5e3
"""An entry of an additive mask this far below the largest of its row hides its source."""


@dataclass(frozen=True)
class QueryKeyAttention:
    """Softmax attention, given by the queries and keys that the model passed to its attention function.

    Args:
        query: `(B, H, N, d)`, after positions are applied.
        key: `(B, G, N, d)`; each key head is shared by H / G query heads.
        scaling: factor of the scores.
        mask: broadcastable to `(B, H, N, N)`; boolean (True: visible) or additive, including any position
            bias. None: no mask.
        causal: whether a receiver sees only itself and earlier tokens.
        logsumexp: `(B, H, N)`, the logarithm of each softmax's denominator, if it is known.
    """

    query: Tensor
    key: Tensor
    scaling: float
    mask: Tensor | None = None
    causal: bool = False
    logsumexp: Tensor | None = None

    @property
    def heads(self) -> int:
        """H."""
        return self.query.shape[1]

    @property
    def tokens(self) -> int:
        """N, the number of sources."""
        return self.key.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the model computed it in."""
        return self.query.dtype

    @property
    def size(self) -> int:
        """Number of entries of the stored tensors."""
        return self.query.numel() + self.key.numel()

    def weights(self, dtype: torch.dtype) -> "Weights":
        """Return the probabilities in tiles of `dtype`."""
        it = self.to(dtype)
        factor, shift = it.scaling, None
        if it.logsumexp is not None:
            factor, shift = it.scaling * LOG2_E, it.logsumexp * -LOG2_E
        # Contiguous, so that heads of several texts are one batch.
        query = torch.mul(it.query, factor, out=it.query.new_empty(it.query.shape))
        key = it.key.contiguous() if len(it.key) > 1 else it.key
        weights = ScoreWeights(query, key, it.mask, it.causal, shift)
        batch, heads, tokens, _ = query.shape
        if batch * heads * tokens * self.tokens > Workspace.on(query.device).budget.cells:
            return weights
        # All of them in one tile, for the check and the mixing.
        tile = weights.tile(Tile(slice(0, batch), slice(0, tokens), slice(0, self.tokens)))
        return GivenAttention(tile.transpose(2, 3))

    def visible(self) -> Tensor | None:
        """Return `(B, N)`, True for sources that any receiver may attend to; None without a mask."""
        if self.mask is None:
            return None
        batch, _, tokens, _ = self.query.shape
        return _not_hidden(self.mask).any(dim=1).any(dim=1).expand(batch, tokens)

    def to(self, dtype: torch.dtype) -> "QueryKeyAttention":
        """Return the same attention in `dtype`."""
        if self.query.dtype == dtype and (self.logsumexp is None or self.logsumexp.dtype == dtype):
            return self
        logsumexp = None if self.logsumexp is None else self.logsumexp.to(dtype)
        return replace(self, query=self.query.to(dtype), key=self.key.to(dtype), logsumexp=logsumexp)


@dataclass(frozen=True)
class GivenAttention:
    """Attention given by the probabilities that the model multiplied with its values.

    Args:
        probabilities: `(B, H, N, N)`, [receiver, source].
        scores: `(B, H, N, N)`, the softmax's input; None if it is not known.
    """

    probabilities: Tensor
    scores: Tensor | None = None

    splits_sources = True

    @property
    def heads(self) -> int:
        """H."""
        return self.probabilities.shape[1]

    @property
    def tokens(self) -> int:
        """N, the number of sources."""
        return self.probabilities.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the model computed it in."""
        return self.probabilities.dtype

    @property
    def size(self) -> int:
        """Number of entries of the stored tensors."""
        return self.probabilities.numel()

    def weights(self, dtype: torch.dtype) -> "Weights":
        """Return the probabilities in tiles of `dtype`."""
        return self.to(dtype)

    def trim(self, tile: Tile) -> Tile:
        """Return the tile, because probabilities do not show which sources are masked."""
        return tile

    def tile(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(b, H, S, R)`; `out` may be used for the result."""
        rows = part(self.probabilities, tile.examples, WHOLE, tile.receivers, tile.sources)
        return rows.transpose(2, 3).contiguous()

    def diagonal(self) -> Tensor:
        """Return the probabilities `(B, H, N)` of each token for itself."""
        return self.probabilities.diagonal(dim1=2, dim2=3)

    def rows(self, examples: Tensor, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` of one receiver per example, both `(B,)`."""
        return self.probabilities[examples, :, receivers]

    def visible(self) -> Tensor:
        """Return `(B, N)`, True for sources that any receiver may attend to.

        The scores decide if they are known, because the probability of a real token may underflow to 0.
        """
        visible = self.probabilities > 0 if self.scores is None else _not_hidden(self.scores)
        return visible.any(dim=1).any(dim=1)

    def to(self, dtype: torch.dtype) -> "GivenAttention":
        """Return the same attention in `dtype`."""
        return GivenAttention(self.probabilities.to(dtype))


def _not_hidden(scores: Tensor) -> Tensor:
    """Return where a boolean or additive mask, or scores that include one, hide no source.

    An additive mask hides a source with -inf, with about the smallest number of the dtype, or with one so far
    below the others that its probability is 0, such as -1e4.
    """
    if scores.dtype == torch.bool:
        return scores
    lowest = torch.finfo(scores.dtype).min
    scores = scores.to(at_least_float32(scores.dtype))
    # NaN hides nothing: a layer that is not finite raises an error.
    return ~((scores <= lowest / 2) | (scores <= scores.amax(dim=-1, keepdim=True) - HIDDEN_BELOW))


@dataclass(frozen=True)
class ScoreWeights:
    """Attention probabilities computed from queries and keys.

    Args:
        query: `(B, H, N, d)`, scaled; with `shift`, also by log2(e).
        key: `(B, G, N, d)`.
        mask: broadcastable to `(B, H, N, N)`, boolean or additive, or None.
        causal: whether a receiver sees only itself and earlier tokens.
        shift: `(B, H, N)`, minus the base-2 logarithm of each receiver's denominator; None if it is not
            known. Base 2, because powers of 2 take half as long.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool
    shift: Tensor | None

    @property
    def splits_sources(self) -> bool:
        """Whether denominators are known, so that a tile may hold some of its receivers' sources."""
        return self.shift is not None

    def trim(self, tile: Tile) -> Tile:
        """Return the tile without sources at its ends that none of its receivers attends to.

        The receivers themselves stay among the sources.
        """
        first, last = tile.sources.start, tile.sources.stop
        if self.causal:
            last = tile.receivers.stop
        mask = self.mask
        if mask is not None and mask.dtype == torch.bool and mask.shape[3] > 1:
            visible = self._mask_of(mask, tile).flatten(0, 1).any(dim=0).any(dim=1).nonzero()
            if len(visible):
                first, last = int(visible[0]), int(visible[-1]) + 1
        start, stop = min(first, tile.receivers.start), max(last, tile.receivers.stop)
        return tile._replace(sources=slice(start, stop))

    def tile(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(b, H, S, R)`; `out` may be used for the result."""
        query = part(self.query, tile.examples, WHOLE, tile.receivers)
        key = share_heads(part(self.key, tile.examples, WHOLE, tile.sources), query.shape[1])
        shape = (*key.shape[:3], query.shape[2])
        flat = None if out is None else out.view(-1, *shape[2:])
        scores = torch.bmm(key.flatten(0, 1), query.flatten(0, 1).transpose(1, 2), out=flat).view(shape)
        if self.mask is not None:
            self._apply_mask(scores, self._mask_of(self.mask, tile))
        if self.causal:
            position = torch.arange(self.query.shape[2], device=scores.device)
            scores.masked_fill_(position[tile.sources, None] > position[None, tile.receivers], -torch.inf)
        if self.shift is None:
            return torch.softmax(scores, dim=2, out=scores)
        shift = part(self.shift, tile.examples, WHOLE, tile.receivers)
        return scores.add_(shift.unsqueeze(2)).exp2_()

    def rows(self, examples: Tensor, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` of one receiver per example, both `(B,)`."""
        batch, heads, tokens, size = self.query.shape
        keys = self.key.flatten(0, 1)
        query = self.query[examples, :, receivers].view(len(keys), -1, size)
        scores = torch.bmm(query, keys.transpose(1, 2)).view(batch, heads, -1)
        if self.mask is not None:
            self._apply_mask(scores, self.mask.expand(batch, -1, tokens, -1)[examples, :, receivers])
        if self.causal:
            source = torch.arange(tokens, device=scores.device)
            scores.masked_fill_(source > receivers[:, None, None], -torch.inf)
        if self.shift is None:
            return scores.softmax(dim=-1)
        return scores.add_(self.shift[examples, :, receivers].unsqueeze(2)).exp2_()

    def diagonal(self) -> Tensor | None:
        """Return the probabilities `(B, H, N)` of each token for itself; None without denominators."""
        if self.shift is None:
            return None
        scores: Tensor = torch.linalg.vecdot(self.query, share_heads(self.key, self.query.shape[1]))
        if self.mask is not None:
            tokens = scores.shape[2]
            self._apply_mask(scores, self.mask.expand(-1, -1, tokens, tokens).diagonal(dim1=2, dim2=3))
        return scores.add_(self.shift).exp2_()

    def _apply_mask(self, scores: Tensor, mask: Tensor) -> None:
        """Apply a boolean or additive mask to scores, in place."""
        if mask.dtype == torch.bool:
            scores.masked_fill_(~mask, -torch.inf)
        else:
            scores.add_(mask, alpha=1 if self.shift is None else LOG2_E)

    def _mask_of(self, mask: Tensor, tile: Tile) -> Tensor:
        """Return the part of `mask` for a tile, `(b or 1, H or 1, S or 1, R or 1)`."""
        if mask.shape[0] > 1:
            mask = mask[tile.examples]
        if mask.shape[2] > 1:
            mask = mask[:, :, tile.receivers]
        if mask.shape[3] > 1:
            mask = mask[..., tile.sources]
        return mask.transpose(2, 3)


Attention = QueryKeyAttention | GivenAttention
"""The attention of one layer, as far as it was recorded."""

Weights = ScoreWeights | GivenAttention
"""Attention probabilities in tiles.

`splits_sources` says whether a tile may hold some of its receivers' sources; otherwise it must hold all.
"""


def share_heads(heads: Tensor, number: int) -> Tensor:
    """Repeat each key or value head `(B, G, N, d)` for its group of query heads: `(B, number, N, d)`."""
    batch, groups, tokens, size = heads.shape
    if groups == number:
        return heads
    shared = heads[:, :, None].expand(batch, groups, number // groups, tokens, size)
    return shared.reshape(batch, number, tokens, size)
