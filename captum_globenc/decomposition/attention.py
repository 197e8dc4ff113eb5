"""Attention probabilities of one layer, a tile of receivers at a time.

B batch, H heads, N tokens, d head size, R receivers in a tile. A tile is laid out sources-major,
`(H, N, R)`: the receivers are the fast axis, on which softmax and the quadratic forms of
:mod:`captum_globenc.decomposition.mixing` are vectorised.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

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

    def tile(self, example: int, receivers: slice, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(H, N, R)` with which `receivers` attend to every source.

        They may lie in `out`, of that shape and contiguous, but need not.
        """
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
    """

    query: Tensor
    key: Tensor
    scaling: float
    mask: Tensor | None = None
    causal: bool = False

    @property
    def heads(self) -> int:
        """H."""
        return self.query.shape[1]

    def tile(self, example: int, receivers: slice, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(H, N, R)` with which `receivers` attend to every source."""
        query = self.query[example, :, receivers] * self.scaling
        key = share_heads(self.key[example], query.shape[0])
        scores = torch.bmm(key, query.transpose(1, 2), out=out)
        if self.mask is not None:
            mask = self._of(self.mask, example, receivers)
            if mask.dtype == torch.bool:
                scores.masked_fill_(~mask, -torch.inf)
            else:
                scores += mask
        if self.causal:
            source = torch.arange(scores.shape[1], device=scores.device)
            scores.masked_fill_(source[:, None] > source[None, receivers], -torch.inf)
        return torch.softmax(scores, dim=1, out=scores)

    def rows(self, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` with which one receiver of each example, `(B,)`, attends."""
        batch, heads, _, size = self.query.shape
        example = torch.arange(batch, device=receivers.device)
        query = (self.query[example, :, receivers] * self.scaling).reshape(batch, self.key.shape[1], -1, size)
        scores = (query @ self.key.transpose(-1, -2)).reshape(batch, heads, -1)
        if self.mask is not None:
            row = self.mask.expand(batch, -1, self.query.shape[2], -1)[example, :, receivers]
            scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row
        if self.causal:
            source = torch.arange(self.tokens, device=scores.device)
            scores = scores.masked_fill(source > receivers[:, None, None], -torch.inf)
        return scores.softmax(dim=-1)

    @property
    def tokens(self) -> int:
        """N, of the sources."""
        return self.key.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """In which it was computed."""
        return self.query.dtype

    def visible(self) -> Tensor | None:
        """Return `(B, N)`: whether any receiver may see the source; None where nothing is masked."""
        if self.mask is None:
            return None
        batch, _, tokens, _ = self.query.shape
        return _not_hidden(self.mask).any(dim=1).any(dim=1).expand(batch, tokens)

    def to(self, dtype: torch.dtype) -> "QueryKeyAttention":
        """Return the same attention, computed in `dtype`."""
        return replace(self, query=self.query.to(dtype), key=self.key.to(dtype))

    def _of(self, mask: Tensor, example: int, receivers: slice) -> Tensor:
        """Return what `mask` holds for a tile, `(H or 1, N, R or 1)`."""
        rows = mask[example if mask.shape[0] > 1 else 0]
        if rows.shape[1] > 1:
            rows = rows[:, receivers]
        return rows.transpose(1, 2)


@dataclass(frozen=True)
class GivenAttention:
    """Probabilities that the model itself multiplied its values with.

    Args:
        probabilities: `(B, H, N, N)`, receivers first.
        scores: what they are the softmax of, likewise; None where that is not known.
    """

    probabilities: Tensor
    scores: Tensor | None = None

    @property
    def heads(self) -> int:
        """H."""
        return self.probabilities.shape[1]

    def tile(self, example: int, receivers: slice, out: Tensor | None = None) -> Tensor:
        """Return the probabilities `(H, N, R)` with which `receivers` attend to every source."""
        return self.probabilities[example, :, receivers].transpose(1, 2).contiguous()

    def rows(self, receivers: Tensor) -> Tensor:
        """Return the probabilities `(B, H, N)` with which one receiver of each example, `(B,)`, attends."""
        return self.probabilities[torch.arange(len(receivers), device=receivers.device), :, receivers]

    @property
    def tokens(self) -> int:
        """N, of the sources."""
        return self.probabilities.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """In which it was computed."""
        return self.probabilities.dtype

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


def share_heads(heads: Tensor, number: int) -> Tensor:
    """Repeat each of the heads `(G, N, d)` for its group, giving `(number, N, d)`."""
    groups, tokens, size = heads.shape
    if groups == number:
        return heads
    shared = heads[:, None].expand(groups, number // groups, tokens, size)
    return shared.reshape(number, tokens, size)
