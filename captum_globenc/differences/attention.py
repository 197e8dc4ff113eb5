"""Fused attention: products and softmax as one, with nothing of the size N x N kept.

B batch, H heads, N receivers, M sources, d head size; G heads of the batch at a time.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Pair
from captum_globenc.differences.decompositions import absorbing
from captum_globenc.differences.scalars import tanhc_of_half

TILE = 1 << 18
"""Scores that are worked on at a time: a few matrices of them fit a cache."""
ROWS = 128
"""Receivers of a tile, at most."""
MASKED, UNSEEN = -1e30, -1e35
"""Scores under a mask of a large negative number, and under False or -inf: finite, so differences are."""


def fused_attention(
    output: Pair,
    query: Pair,
    key: Pair,
    value: Pair,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Backward:
    """softmax(Q K^T scale + mask) V: two products and a softmax, recomputed in tiles by the backward pass."""
    shape, sources = query.value.shape, key.value.shape[-2]
    receivers, width = shape[-2:]
    factor = 1 / math.sqrt(width) if scale is None else scale

    def backward(grad: Tensor) -> Any:
        sides = (side for pair in (query, key, value) for side in (pair.value, pair.base))
        q, q0, k, k0, v, v0 = (side.reshape(-1, *side.shape[-2:]) for side in sides)
        grad = grad.reshape(-1, *grad.shape[-2:])
        q, q0 = q * factor, q0 * factor
        q_mean, k_mean, v_mean = (q + q0) / 2, (k + k0) * (factor / 2), (v + v0) / 2
        of_query, of_key, of_value = (torch.zeros_like(side) for side in (q, k, v))
        mask = _Mask(attn_mask, is_causal, (*shape[:-1], sources), grad.device)
        count = max(min(ROWS, TILE // sources), 1)
        for rows in slices(receivers, count):
            seen = mask.seen(rows)
            wide = seen.stop - seen.start
            for heads in slices(len(grad), max(TILE // (count * wide), 1)) if wide else ():
                there = heads, seen
                here = mask.part(heads, rows, seen)
                tile = _Tile(q[heads, rows], q0[heads, rows], k[there], k0[there], here)
                g = grad[heads, rows]
                of_value[there].baddbmm_(tile.mean.mT, g)
                scores = tile.backward(g @ v_mean[there].mT)
                of_query[heads, rows] = scores @ k_mean[there]
                of_key[there].baddbmm_(scores.mT, q_mean[heads, rows])
        made = zip((query, key, value), (of_query, of_key, of_value), strict=True)
        return [(pair, part.reshape(pair.value.shape)) for pair, part in made]

    return backward


def slices(count: int, size: int) -> Iterator[slice]:
    """Cut `count` into slices of at most `size`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class _Mask:
    """What hides sources from receivers, a tile at a time.

    Args:
        given: broadcastable to `shape`, boolean or additive; None for none.
        causal: whether no receiver sees a later source.
        shape: `(..., H, N, M)`.
        device: which one.
    """

    def __init__(
        self, given: Tensor | None, causal: bool, shape: tuple[int, ...], device: torch.device
    ) -> None:
        given = given.reshape(1) if given is not None and given.dim() == 0 else given
        self._given = given
        self._expanded = None if given is None else given.expand(shape)
        self._causal = causal
        self._sources = torch.arange(shape[-1], device=device)
        self._leading = shape[:-2]

    def seen(self, rows: slice) -> slice:
        """Return the sources among which are all that some receivers see, of any head."""
        sources = self._sources
        if self._causal:
            return slice(0, min(rows.stop, len(sources)))
        given = self._given
        if given is None or given.shape[-1] == 1:
            return slice(0, len(sources))
        part = given[..., rows, :] if given.dim() > 1 and given.shape[-2] > 1 else given
        visible = part if part.dtype is torch.bool else part > MASKED / 2
        if part.dtype is not torch.bool:  # a row of large negative numbers sees all that are finite
            visible = visible | (~visible.any(-1, keepdim=True) & (part > -math.inf))
        places = visible.reshape(-1, len(sources)).any(0).nonzero()
        return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)

    def part(self, heads: slice, rows: slice, seen: slice) -> Tensor | None:
        """Return the mask `(G or nothing, R, S)` of a tile, whose heads are numbered through the batch."""
        if self._causal:
            receivers = torch.arange(rows.start, rows.stop, device=self._sources.device)
            return self._sources[seen] <= receivers[:, None]
        if self._expanded is None:
            return None
        places = torch.arange(heads.start, heads.stop, device=self._expanded.device)
        where: tuple[Any, ...] = torch.unravel_index(places, self._leading) if self._leading else ()
        return self._expanded[(*where, ..., rows, seen)]


class _Tile:
    """The attention `(G, R, M)` of R receivers of G heads in both runs, as `softmax` has it.

    Args:
        q: scaled queries `(G, R, d)`.
        q0: those of the other run.
        k: keys `(G, M, d)`.
        k0: those of the other run.
        mask: what hides some; None for none.
    """

    def __init__(self, q: Tensor, q0: Tensor, k: Tensor, k0: Tensor, mask: Tensor | None) -> None:
        scores, base = q @ k.mT, q0 @ k0.mT
        if mask is not None:
            scores, base = _hidden(scores, mask), _hidden(base, mask)
            top = scores.amax(-1, keepdim=True)
        log_p, log_p0 = scores.log_softmax(-1), base.log_softmax(-1)
        difference = torch.sub(log_p, log_p0, out=scores)
        self.mean = log_p.exp_().lerp_(log_p0.exp_(), 0.5)
        exact = None if mask is None else top > absorbing(top.dtype)
        if exact is not None and not bool(exact.all()):
            self.mean *= top > UNSEEN / 2
        self._means = tanhc_of_half(difference).mul_(self.mean)
        if exact is not None:
            self._means *= exact

    def backward(self, grad: Tensor) -> Tensor:
        """From the multipliers of the probabilities to those of the scores."""
        through = grad.mul_(self._means)
        total = self._means.sum(-1, keepdim=True)
        average = through.sum(-1, keepdim=True).div_(torch.where(total > 0, total, 1))
        return through.addcmul_(self._means, average, value=-1)


def _hidden(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores under a mask, boolean (True: may be seen) or additive."""
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, UNSEEN)
    return scores.add_(mask).clamp_min_(MASKED).masked_fill_(mask == -math.inf, UNSEEN)
