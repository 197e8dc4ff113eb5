"""The rule of fused attention, computed in tiles, without keeping tensors of size N x M.

B batch, H heads, N receivers, M sources, d head size; in a tile G heads of the batch, R receivers, S sources.
"""

import math
from typing import Any

import torch
from torch import Tensor

from captum_globenc.decomposition.workspace import part, slices
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
    kept: tuple[()],
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
        pairs = (query, key, value)
        alike = len({pair.value.shape for pair in pairs}) == 1
        groups = [pairs] if alike else [(pair,) for pair in pairs]
        both = [_both_runs(*group) for group in groups]
        means = [it.mean(1) for it in both]
        q, k, _ = (part for it in both for part in it.flatten(0, 1).unbind(1))
        q_mean, k_mean, v_mean = (part for it in means for part in it.unbind(1))
        grad = grad.reshape(-1, *grad.shape[-2:])
        mask = _Mask(attn_mask, is_causal, (*shape[:-1], sources), grad.device)
        cells, most = (TILE, ROWS) if grad.device.type == "cpu" else (ACCELERATOR_TILE, receivers)
        count = max(min(most, cells // sources, receivers), 1)
        once = count >= receivers and attn_mask is None and not is_causal  # each element is written once
        create = grad.new_empty if once else grad.new_zeros
        made = [create(it.shape[1], len(it), *it.shape[2:]) for it in means]
        of_query, of_key, of_value = (part for it in made for part in it.unbind())
        beta = 0 if once else 1
        for rows in slices(receivers, count):
            visible = mask.visible(rows)
            width = visible.stop - visible.start
            for heads in slices(len(grad), max(cells // (count * width), 1)) if width else ():
                seen = mask.part(heads, rows, visible)
                runs = slice(2 * heads.start, 2 * heads.stop)
                tile = _Tile(part(q, runs, rows), part(k, runs, visible), factor, seen)
                g, key_mean = tile.received(part(grad, heads, rows)), part(k_mean, heads, visible)
                part(of_value, heads, visible).baddbmm_(tile.mean.mT, g, beta=beta)
                scores = tile.backward(torch.bmm(g, part(v_mean, heads, visible).mT))
                part(of_query, heads, rows).baddbmm_(scores, key_mean, beta=0, alpha=factor)
                query_mean = part(q_mean, heads, rows)
                part(of_key, heads, visible).baddbmm_(scores.mT, query_mean, beta=beta, alpha=factor)
        arranged = (_arranged(it, group[0].value) for it, group in zip(made, groups, strict=True))
        return list(zip(pairs, (part for it in arranged for part in it.unbind()), strict=True))

    return backward


def _both_runs(*pairs: Pair) -> Tensor:
    """Return both values of P pairs of equal shapes, `(B H, 2, P, N, d)`, contiguous."""
    both = torch.stack([*(pair.value for pair in pairs), *(pair.base for pair in pairs)], -3)
    return both.view(-1, 2, len(pairs), *both.shape[-2:])


def _arranged(multipliers: Tensor, like: Tensor) -> Tensor:
    """Return P multipliers `(P, B H, N, d)` as `(P, *like.shape)`, with the order in memory of `like`.

    Torch's gradients of the model's transpositions would otherwise copy each of them.
    """
    made = multipliers.view(len(multipliers), *like.shape)
    transposed = like.dim() == 4 and like.stride(1) < like.stride(2)
    return made.transpose(2, 3).contiguous().transpose(2, 3) if transposed else made


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
        self._receivers, self._count = shape[-2:]
        self._device = device
        self._leading = shape[:-2]

    def visible(self, rows: slice) -> slice:
        """Return a range of sources that includes all that the receivers see in any head."""
        if self._causal:
            return slice(0, min(rows.stop, self._count))
        given = self._given
        if given is None or given.shape[-1] == 1 or rows.stop - rows.start == self._receivers:
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
        if heads.stop - heads.start == math.prod(self._leading):
            tile = self._expanded[..., rows, sources]
            return tile.reshape(-1, *tile.shape[-2:])
        numbers = torch.arange(heads.start, heads.stop, device=self._expanded.device)
        index: tuple[Any, ...] = torch.unravel_index(numbers, self._leading) if self._leading else ()
        return self._expanded[(*index, ..., rows, sources)]


class _Tile:
    """The attention `(G, R, S)` of a tile in both runs, with the rule of softmax.

    Args:
        q: queries `(2G, R, d)`, of each head at the input and at the baseline.
        k: keys `(2G, S, d)`, of each head at the input and at the baseline.
        factor: scale of the scores.
        mask: boolean or additive; None without a mask.
    """

    def __init__(self, q: Tensor, k: Tensor, factor: float, mask: Tensor | None) -> None:
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.mT, beta=0, alpha=factor)
        scores = scores.view(-1, 2, *scores.shape[1:])
        if mask is not None:
            scores = _apply_mask(scores, mask if mask.dim() == 2 else mask[:, None])
            top = scores[:, 0].amax(-1, keepdim=True)
        log_p = scores.log_softmax(-1)
        p, p0 = log_p.unbind(1)
        difference = torch.sub(p, p0, out=scores[:, 0])
        log_p.exp_()
        self.mean = torch.lerp(p, p0, 0.5)
        means = tanhc_of_half(difference).mul_(self.mean)
        self._total = means.sum(-1, keepdim=True)
        self._weights = means.div_(self._total)
        self._seeing = None
        if mask is not None:
            self._total *= top > absorbing(top.dtype)
            self._seeing = top > UNSEEN / 2

    def received(self, grad: Tensor) -> Tensor:
        """Return multipliers of the output `(G, R, d)`, 0 for receivers that see nothing."""
        return grad if self._seeing is None else grad * self._seeing

    def backward(self, grad: Tensor) -> Tensor:
        """Return the multipliers of the scores from the multipliers of the probabilities."""
        # L (g - sum w g) is the gradient of a softmax with the probabilities w, times the sum of L.
        made: Tensor = torch._softmax_backward_data(grad, self._weights, -1, grad.dtype)
        return made.mul_(self._total)


def _apply_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Apply a boolean (True: visible) or additive mask to scores, in place."""
    if mask.dtype is torch.bool:
        return scores.masked_fill_(~mask, UNSEEN)
    return scores.add_(mask).clamp_min_(MASKED).masked_fill_(mask == -math.inf, UNSEEN)
