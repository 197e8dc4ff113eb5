"""Attention of one layer, as it was recorded.

B batch, H heads, N tokens, d head size, and of a tile b texts, S sources, R receivers.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from captum_globenc.decomposition.weights import LOG2_E, Scores, Weights
from captum_globenc.decomposition.workspace import Tile

HIDDEN = 1e3
"""How far below the largest of its row an entry of an additive mask hides a source."""


class Attention(Protocol):
    """What the engine needs of a layer's attention."""

    @property
    def heads(self) -> int:
        """H."""
        ...

    @property
    def tokens(self) -> int:
        """N, of the sources."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In which it was computed."""
        ...

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        ...

    def weights(self, dtype: torch.dtype) -> Weights:
        """Return what gives its tiles, in `dtype`."""
        ...

    def rows(self, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` with which one receiver of each example, `(B,)`, attends."""
        ...

    def visible(self) -> Tensor | None:
        """Return `(B, N)`: whether any receiver may see the source; None where nothing is masked."""
        ...

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same attention, computed in `dtype`."""
        ...


@dataclass(frozen=True)
class QueryKeyAttention:
    """Softmax attention from the queries and keys that the model handed to its attention function.

    Args:
        query: `(B, H, N, d)`, positions already applied.
        key: `(B, H or fewer, N, d)`; fewer heads than queries are shared by groups of them.
        scaling: factor of the scores.
        mask: broadcastable to `(B, H, N, N)`; boolean (True: may be seen) or additive, a
            position bias with it. None: no mask.
        causal: whether receivers see only what stands before them.
        logsumexp: `(B, H, N)`, the logarithm of each softmax's denominator, where the model's own attention
            told it.
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
        """N, of the sources."""
        return self.key.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """In which it was computed."""
        return self.query.dtype

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return self.query.numel() + self.key.numel()

    def weights(self, dtype: torch.dtype) -> Weights:
        """Return what gives its tiles, in `dtype`."""
        it = self.to(dtype)
        if it.logsumexp is None:
            return Scores(it.query * it.scaling, it.key, it.mask, it.causal, None)
        return Scores(it.query * (it.scaling * LOG2_E), it.key, it.mask, it.causal, it.logsumexp * -LOG2_E)

    def rows(self, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` with which one receiver of each example, `(B,)`, attends."""
        batch, heads, _, size = self.query.shape
        example = torch.arange(batch, device=receivers.device)
        query = (self.query[example, :, receivers] * self.scaling).reshape(
            -1, heads // self.key.shape[1], size
        )
        scores = torch.bmm(query, self.key.flatten(0, 1).transpose(1, 2)).view(batch, heads, -1)
        if self.mask is not None:
            row = self.mask.expand(batch, -1, self.query.shape[2], -1)[example, :, receivers]
            scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row
        if self.causal:
            source = torch.arange(self.tokens, device=scores.device)
            scores = scores.masked_fill(source > receivers[:, None, None], -torch.inf)
        if self.logsumexp is None:
            return scores.softmax(dim=-1)
        return (scores - self.logsumexp[example, :, receivers, None]).exp()

    def visible(self) -> Tensor | None:
        """Return `(B, N)`: whether any receiver may see the source; None where nothing is masked."""
        if self.mask is None:
            return None
        batch, _, tokens, _ = self.query.shape
        return _not_hidden(self.mask).any(dim=1).any(dim=1).expand(batch, tokens)

    def to(self, dtype: torch.dtype) -> "QueryKeyAttention":
        """Return the same attention, computed in `dtype`."""
        if self.query.dtype == dtype and (self.logsumexp is None or self.logsumexp.dtype == dtype):
            return self
        told = None if self.logsumexp is None else self.logsumexp.to(dtype)
        return replace(self, query=self.query.to(dtype), key=self.key.to(dtype), logsumexp=told)


@dataclass(frozen=True)
class GivenAttention:
    """Probabilities that the model itself multiplied its values with.

    Args:
        probabilities: `(B, H, N, N)`, receivers first.
        scores: what they are the softmax of, likewise; None where that is not known.
    """

    probabilities: Tensor
    scores: Tensor | None = None

    in_blocks = True

    @property
    def heads(self) -> int:
        """H."""
        return self.probabilities.shape[1]

    @property
    def tokens(self) -> int:
        """N, of the sources."""
        return self.probabilities.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """In which it was computed."""
        return self.probabilities.dtype

    @property
    def size(self) -> int:
        """How many numbers it is made of."""
        return self.probabilities.numel()

    def weights(self, dtype: torch.dtype) -> Weights:
        """Return what gives its tiles, in `dtype`."""
        return self.to(dtype)

    def seen(self, tile: Tile) -> Tile:
        """Return the tile: nothing tells what is not seen."""
        return tile

    def tile(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(b, H, S, R)` with which receivers attend to sources."""
        rows = self.probabilities[tile.examples, :, tile.receivers, tile.sources]
        return rows.transpose(2, 3).contiguous()

    def own(self) -> Tensor:
        """Return `(B, H, N)`, with which tokens attend to themselves."""
        return self.probabilities.diagonal(dim1=2, dim2=3)

    def rows(self, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` with which one receiver of each example, `(B,)`, attends."""
        return self.probabilities[torch.arange(len(receivers), device=receivers.device), :, receivers]

    def visible(self) -> Tensor:
        """Return `(B, N)`: whether any receiver may see the source.

        A probability may be too small for a real token to be told from padding; its score is not.
        """
        seen = self.probabilities > 0 if self.scores is None else _not_hidden(self.scores)
        return seen.any(dim=1).any(dim=1)

    def to(self, dtype: torch.dtype) -> "GivenAttention":
        """Return the same attention, computed in `dtype`."""
        return GivenAttention(self.probabilities.to(dtype))


def _not_hidden(scores: Tensor) -> Tensor:
    """Return where a mask, boolean or additive, or scores that one was added to, hide no source.

    An additive mask hides a source with -inf, with about the smallest number there is, or with one so
    far below the others that nothing of its weight is left, such as -1e4.
    """
    if scores.dtype == torch.bool:
        return scores
    lowest = torch.finfo(scores.dtype).min
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return (scores > lowest / 2) & (scores > scores.amax(dim=-1, keepdim=True) - HIDDEN)
