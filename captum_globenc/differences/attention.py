"""The rule of fused attention, computed in tiles, without keeping tensors of size N x M.

B batch, H heads, N receivers, M sources, d head size; in a tile G heads of the batch, R receivers, S sources.
"""

import math
from typing import Any

import torch
from torch import Tensor

from captum_globenc.decomposition.workspace import WHOLE, part, slices
from captum_globenc.differences.call import Backward, Pair
from captum_globenc.differences.decompositions import absorbing
from captum_globenc.differences.scalars import tanhc_of_half

TILE = 1 << 18
"""Scores per tile on a CPU; a few matrices of this size fit the cache."""
ROWS = 128
"""Most receivers of a tile on a CPU."""
ACCELERATOR_TILE = 1 << 24
"""Scores per tile on an accelerator, which needs few kernels."""
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
        q, k, v = (_both_runs(pair) for pair in (query, key, value))
        q_mean, k_mean, v_mean = (it.mean(1) for it in (q, k, v))
        grad = grad.reshape(-1, *grad.shape[-2:])
        mask = _Mask(attn_mask, is_causal, (*shape[:-1], sources), grad.device)
        cells, most = (TILE, ROWS) if grad.device.type == "cpu" else (ACCELERATOR_TILE, receivers)
        count = max(min(most, cells // sources, receivers), 1)
        once = count >= receivers and attn_mask is None and not is_causal  # each element is written once
        create = torch.empty_like if once else torch.zeros_like
        of_query, of_key, of_value = (create(it) for it in (q_mean, k_mean, v_mean))
        beta = 0 if once else 1
        for rows in slices(receivers, count):
            visible = mask.visible(rows)
            width = visible.stop - visible.start
            for heads in slices(len(grad), max(cells // (count * width), 1)) if width else ():
                seen = mask.part(heads, rows, visible)
                tile = _Tile(part(q, heads, WHOLE, rows), part(k, heads, WHOLE, visible), factor, seen)
                g, key_mean = part(grad, heads, rows), part(k_mean, heads, visible)
                part(of_value, heads, visible).baddbmm_(tile.mean.mT, g, beta=beta)
                scores = tile.backward(torch.bmm(g, part(v_mean, heads, visible).mT))
                part(of_query, heads, rows).baddbmm_(scores, key_mean, beta=0, alpha=factor)
                query_mean = part(q_mean, heads, rows)
                part(of_key, heads, visible).baddbmm_(scores.mT, query_mean, beta=beta, alpha=factor)
        multipliers = zip((query, key, value), (of_query, of_key, of_value), strict=True)
        return [(pair, it.reshape(pair.value.shape)) for pair, it in multipliers]

    return backward


def _both_runs(pair: Pair) -> Tensor:
    """Return both values of a pair, `(B H, 2, N, d)`, contiguous."""
    both = torch.stack((pair.value, pair.base), -3)
    return both.view(-1, 2, *both.shape[-2:])


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
        self._count = shape[-1]
        self._device = device
        self._leading = shape[:-2]

    def visible(self, rows: slice) -> slice:
        """Return the range of all sources that some receivers see in any head."""
        if self._causal:
            return slice(0, min(rows.stop, self._count))
        given = self._given
        if given is None or given.shape[-1] == 1:
            return slice(0, self._count)
        part = given[..., rows, :] if given.dim() > 1 and given.shape[-2] > 1 else given
        visible = part if part.dtype is torch.bool else part > MASKED / 2
        if part.dtype is not torch.bool:  # in a row of large negative numbers, all finite ones are visible
            visible = visible | (~visible.any(-1, keepdim=True) & (part > -math.inf))
        found = visible.reshape(-1, self._count).any(0).nonzero()
        return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)

    def part(self, heads: slice, rows: slice, sources: slice) -> Tensor | None:
        """Return the mask of a tile, `(G, R, S)` or `(R, S)`; heads are numbered across the batch."""
        if self._causal:
            receivers = torch.arange(rows.start, rows.stop, device=self._device)
            return torch.arange(sources.start, sources.stop, device=self._device) <= receivers[:, None]
        if self._expanded is None:
            return None
        numbers = torch.arange(heads.start, heads.stop, device=self._expanded.device)
        index: tuple[Any, ...] = torch.unravel_index(numbers, self._leading) if self._leading else ()
        return self._expanded[(*index, ..., rows, sources)]


class _Tile:
    """The attention `(G, R, S)` of a tile in both runs, with the rule of softmax.

    Args:
        q: queries `(G, 2, R, d)` at the input and at the baseline.
        k: keys `(G, 2, S, d)` at the input and at the baseline.
        factor: scale of the scores.
        mask: boolean or additive; None without a mask.
    """

    def __init__(self, q: Tensor, k: Tensor, factor: float, mask: Tensor | None) -> None:
        heads, both, receivers, _ = q.shape
        joined = q.flatten(0, 1), k.flatten(0, 1).mT
        scores = torch.baddbmm(q.new_empty(1, 1, 1), *joined, beta=0, alpha=factor)
        scores = scores.view(heads, both, receivers, -1)
        if mask is not None:
            scores = _apply_mask(scores, mask if mask.dim() == 2 else mask[:, None])
            top = scores[:, 0].amax(-1, keepdim=True)
        log_p = scores.log_softmax(-1)
        difference = torch.sub(log_p[:, 0], log_p[:, 1], out=scores[:, 0])
        log_p.exp_()
        self.mean = torch.lerp(log_p[:, 0], log_p[:, 1], 0.5)
        exact = None if mask is None else top > absorbing(top.dtype)
        if exact is not None and not bool(exact.all()):
            self.mean *= top > UNSEEN / 2
        self._means = tanhc_of_half(difference).mul_(self.mean)
        if exact is not None:
            self._means *= exact

    def backward(self, grad: Tensor) -> Tensor:
        """Return the multipliers of the scores, given those of the probabilities, which it overwrites."""
        through = grad.mul_(self._means)
        total = self._means.sum(-1, keepdim=True).clamp_min_(torch.finfo(grad.dtype).tiny)
        average = through.sum(-1, keepdim=True).div_(total)
        return through.addcmul_(self._means, average, value=-1)


def _apply_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Apply a boolean (True: visible) or additive mask to scores, in place."""
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, UNSEEN)
    return scores.add_(mask).clamp_min_(MASKED).masked_fill_(mask == -math.inf, UNSEEN)
