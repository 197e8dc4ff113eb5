"""The rule of fused attention, computed in tiles, without keeping tensors of size N x M.

B batch, H heads, N receivers, M sources, d head size; in a tile G heads of the batch, R receivers, S sources.
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
"""Scores per tile; a few matrices of this size fit the cache."""
ROWS = 128
"""Most receivers of a tile."""
MASKED, UNSEEN = -1e30, -1e35
"""Scores masked by a large negative number, and by False or -inf; finite, so that differences are finite."""


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
    """softmax(Q K^T scale + mask) V: two products and a softmax, recomputed in tiles in the backward pass."""
    shape, sources = query.value.shape, key.value.shape[-2]
    receivers, size = shape[-2:]
    factor = 1 / math.sqrt(size) if scale is None else scale

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
            visible = mask.visible(rows)
            width = visible.stop - visible.start
            for heads in slices(len(grad), max(TILE // (count * width), 1)) if width else ():
                columns = heads, visible
                part = mask.part(heads, rows, visible)
                tile = _Tile(q[heads, rows], q0[heads, rows], k[columns], k0[columns], part)
                g = grad[heads, rows]
                of_value[columns].baddbmm_(tile.mean.mT, g)
                scores = tile.backward(g @ v_mean[columns].mT)
                of_query[heads, rows] = scores @ k_mean[columns]
                of_key[columns].baddbmm_(scores.mT, q_mean[heads, rows])
        multipliers = zip((query, key, value), (of_query, of_key, of_value), strict=True)
        return [(pair, it.reshape(pair.value.shape)) for pair, it in multipliers]

    return backward


def slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of at most `size` that cover `range(count)`."""
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


class _Mask:
    """An attention mask, in tiles.

    Args:
        given: broadcastable to `shape`, boolean or additive; None without a mask.
        causal: whether receivers only see themselves and earlier sources.
        shape: `(..., H, N, M)`.
        device: of the result.
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

    def visible(self, rows: slice) -> slice:
        """Return the range of all sources that some receivers see in any head."""
        sources = self._sources
        if self._causal:
            return slice(0, min(rows.stop, len(sources)))
        given = self._given
        if given is None or given.shape[-1] == 1:
            return slice(0, len(sources))
        part = given[..., rows, :] if given.dim() > 1 and given.shape[-2] > 1 else given
        visible = part if part.dtype is torch.bool else part > MASKED / 2
        if part.dtype is not torch.bool:  # in a row of large negative numbers, all finite ones are visible
            visible = visible | (~visible.any(-1, keepdim=True) & (part > -math.inf))
        found = visible.reshape(-1, len(sources)).any(0).nonzero()
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)

    def part(self, heads: slice, rows: slice, sources: slice) -> Tensor | None:
        """Return the mask of a tile, `(G, R, S)` or `(R, S)`; heads are numbered across the batch."""
        if self._causal:
            receivers = torch.arange(rows.start, rows.stop, device=self._sources.device)
            return self._sources[sources] <= receivers[:, None]
        if self._expanded is None:
            return None
        numbers = torch.arange(heads.start, heads.stop, device=self._expanded.device)
        index: tuple[Any, ...] = torch.unravel_index(numbers, self._leading) if self._leading else ()
        return self._expanded[(*index, ..., rows, sources)]


class _Tile:
    """The attention `(G, R, S)` of a tile in both runs, with the rule of softmax.

    Args:
        q: scaled queries `(G, R, d)` at the input.
        q0: scaled queries `(G, R, d)` at the baseline.
        k: keys `(G, S, d)` at the input.
        k0: keys `(G, S, d)` at the baseline.
        mask: boolean or additive; None without a mask.
    """

    def __init__(self, q: Tensor, q0: Tensor, k: Tensor, k0: Tensor, mask: Tensor | None) -> None:
        scores, base = q @ k.mT, q0 @ k0.mT
        if mask is not None:
            scores, base = _apply_mask(scores, mask), _apply_mask(base, mask)
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
        """Return the multipliers of the scores, given those of the probabilities."""
        through = grad.mul_(self._means)
        total = self._means.sum(-1, keepdim=True)
        average = through.sum(-1, keepdim=True).div_(torch.where(total > 0, total, 1))
        return through.addcmul_(self._means, average, value=-1)


def _apply_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Apply a boolean (True: visible) or additive mask to scores, in place."""
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, UNSEEN)
    return scores.add_(mask).clamp_min_(MASKED).masked_fill_(mask == -math.inf, UNSEEN)
