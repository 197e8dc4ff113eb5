"""Softmax and its kin, by the logarithmic mean L(a, b) = (a - b) / (ln a - ln b).

With D = s - s0 the difference of the scores, d that of ln sum exp(s), and L_j = L(p_j, p0_j):

    p_j - p0_j    = L_j (D_j - d)
    d             = sum_k w_k D_k              w_k = L_k / sum_i L_i

The second follows of the first, as probabilities add up to 1 in both runs. The w add up to 1, so that what is
the same for all scores, which no softmax tells apart, has no part in any probability.
Stable by L(a, b) = (a + b) / 2 tanh(t) / t with t = (ln a - ln b) / 2, whatever the scores.
"""

from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Pair
from captum_globenc.differences.scalars import tanhc_of_half

__all__ = ["log_softmax", "logsumexp", "softmax"]


def _means(input: Pair, dim: int, dtype: torch.dtype | int | None) -> tuple[Tensor, Tensor]:
    """Return L and w; both are 0 where a score is -inf in both runs.

    torch.nn.functional has a whole number where torch has the dtype.
    """
    dtype = dtype if isinstance(dtype, torch.dtype) else None
    value, base = (side if dtype is None else side.to(dtype) for side in (input.value, input.base))
    lost = torch.isneginf(value) & torch.isneginf(base)
    log_p, log_p0 = (side.log_softmax(dim) for side in (value, base))
    difference = (log_p - log_p0).masked_fill_(lost, 0)
    means = log_p.exp().add_(log_p0.exp()).div_(2).mul_(tanhc_of_half(difference)).masked_fill_(lost, 0)
    total = means.sum(dim, keepdim=True)
    return means, means / torch.where(total > 0, total, 1)


def _place(dim: int | None, input: Pair) -> int:
    """Return the dimension that torch takes where none is given."""
    return (0 if input.value.dim() in (0, 1, 3) else 1) if dim is None else dim


def softmax(
    output: Pair,
    input: Pair,
    dim: int | None = None,
    _stacklevel: int | torch.dtype = 3,
    dtype: torch.dtype | None = None,
) -> Backward:
    """m_k = L_k (g_k - sum_j w_j g_j)."""
    dim = _place(dim, input)
    means, weights = _means(input, dim, dtype or _stacklevel)

    def backward(grad: Tensor) -> Any:
        # What all outputs have in common has no part. It is taken off where nearly all of the weight is, so
        # that little is left to cancel.
        grad = grad - grad.gather(dim, weights.argmax(dim, keepdim=True))
        made = means * (grad - (weights * grad).sum(dim, keepdim=True))
        return [(input, made.to(input.value.dtype))]

    return backward


def log_softmax(
    output: Pair,
    input: Pair,
    dim: int | None = None,
    _stacklevel: int | torch.dtype = 3,
    dtype: torch.dtype | None = None,
) -> Backward:
    """m_k = g_k - w_k sum_j g_j."""
    dim = _place(dim, input)
    _, weights = _means(input, dim, dtype or _stacklevel)

    def backward(grad: Tensor) -> Any:
        return [(input, (grad - weights * grad.sum(dim, keepdim=True)).to(input.value.dtype))]

    return backward


def logsumexp(output: Pair, input: Pair, dim: int | tuple[int, ...], keepdim: bool = False) -> Backward:
    """m_k = w_k g."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) != 1:
        raise ValueError("it sums over several dimensions")
    _, weights = _means(input, dims[0], None)

    def backward(grad: Tensor) -> Any:
        return [(input, weights * (grad if keepdim else grad.unsqueeze(dims[0])))]

    return backward
