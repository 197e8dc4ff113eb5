"""Fused attention: products and softmax as one, with nothing of the size N x N kept.

B batch, H heads, N receivers, M sources, d head size; G heads of the batch at a time.
"""

import math
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Pair
from captum_globenc.differences.scalars import tanhc
from captum_globenc.differences.softmax import shares

__all__ = ["fused_attention"]

TILE = 1 << 18
"""Scores that are worked on at a time: a few matrices of them fit a cache."""
ROWS = 128
MASKED = -1e30
"""What a score counts as that is masked: below all others, and finite, so that differences are."""


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
    mask = _additive(attn_mask, query.value.dtype)
    if mask is not None:
        mask = mask.expand(*shape[:-1], sources)

    def backward(grad: Tensor) -> Any:
        flat = [
            side.reshape(-1, *side.shape[-2:])
            for pair in (query, key, value)
            for side in (pair.value, pair.base)
        ]
        grad = grad.reshape(-1, *grad.shape[-2:])
        made = [torch.zeros_like(side) for side in flat[::2]]
        heads = max(1, TILE // (min(ROWS, receivers) * sources))
        for start in range(0, len(grad), heads):
            group = slice(start, start + heads)
            q, q0, k, k0, v, v0 = (side[group] for side in flat)
            k_mean, v_mean = ((k + k0) / 2 * factor), (v + v0) / 2
            for row in range(0, receivers, ROWS):
                rows = slice(row, row + ROWS)
                here = None if mask is None else _part(mask, group, rows)
                if is_causal:
                    later = torch.ones(receivers, sources, dtype=torch.bool, device=grad.device).triu(1)[rows]
                    here = torch.zeros(later.shape, dtype=grad.dtype, device=grad.device).masked_fill(
                        later, MASKED
                    )
                tile = _Tile(q[:, rows], q0[:, rows], k, k0, factor, here)
                g = grad[group, rows]
                made[2][group] += tile.mean.mT @ g
                scores = tile.backward(g @ v_mean.mT)
                made[0][group, rows] = scores @ k_mean
                made[1][group] += scores.mT @ ((q[:, rows] + q0[:, rows]) * (factor / 2))
        return [
            (pair, part.reshape(pair.value.shape))
            for pair, part in zip((query, key, value), made, strict=True)
        ]

    return backward


class _Tile:
    """The attention `(G, R, M)` of R receivers of G heads in both runs."""

    def __init__(
        self, q: Tensor, q0: Tensor, k: Tensor, k0: Tensor, factor: float, mask: Tensor | None
    ) -> None:
        scores, base = (q * factor) @ k.mT, (q0 * factor) @ k0.mT
        if mask is not None:
            scores, base = ((side + mask).clamp_min_(MASKED) for side in (scores, base))
        p, p0 = scores.softmax(-1), base.softmax(-1)
        # ln Z = the largest score less the logarithm of its probability.
        largest, largest0 = scores.amax(-1, keepdim=True), base.amax(-1, keepdim=True)
        shift = (largest - largest0) - (p.amax(-1, keepdim=True).log() - p0.amax(-1, keepdim=True).log())
        if mask is not None:
            seen = largest > MASKED / 2
            p, p0, shift = p * seen, p0 * seen, shift * seen
        difference = scores.sub_(base)
        self.mean = (p + p0).mul_(0.5)
        self._weights = shares(difference, p, p0, shift)
        self._means = tanhc(difference.sub_(shift).mul_(0.5)).mul_(self.mean)

    def backward(self, grad: Tensor) -> Tensor:
        """From the multipliers of the probabilities to those of the scores."""
        through = grad.mul_(self._means)
        return through.addcmul_(self._weights, through.sum(-1, keepdim=True), value=-1)


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, MASKED)


def _part(mask: Tensor, group: slice, rows: slice) -> Tensor:
    """Return the mask of a tile from one that was broadcast to `(..., N, M)`, whose heads are numbered."""
    leading = mask.shape[:-2]
    heads = torch.arange(group.start, min(group.stop, math.prod(leading)), device=mask.device)
    where = torch.unravel_index(heads, leading) if leading else ()
    return mask[where][..., rows, :] if where else mask[rows]
