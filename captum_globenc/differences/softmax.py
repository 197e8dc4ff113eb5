"""Softmax and its kin, by the logarithmic mean L(a, b) = (a - b) / (ln a - ln b).

With D = s - s0 the difference of the scores and d that of ln Z, Z = sum exp(s):

    d             = sum_k w_k D_k              w_k = L(e_k, e0_k) / L(Z, Z0), e = exp(s)
    p_j - p0_j    = L(p_j, p0_j) (D_j - d)

Stable by L(a, b) = (a + b) / 2 tanh(t) / t with t = (ln a - ln b) / 2, whatever the scores.
"""

from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Pair
from captum_globenc.differences.scalars import tanhc_of_half

__all__ = ["log_softmax", "logsumexp", "shares", "softmax"]


def shares(difference: Tensor, p: Tensor, p0: Tensor, shift: Tensor) -> Tensor:
    """Return w: what each score has to do with the logarithm of their sum of exponentials.

    Args:
        difference: D, of any shape, 0 where a score is -inf in both runs.
        p: the softmax of one run.
        p0: that of the other.
        shift: d, which broadcasts to them.

    Example:
        >>> s, s0 = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> d = s.logsumexp(0) - s0.logsumexp(0)
        >>> w = shares(s - s0, s.softmax(0), s0.softmax(0), d)
        >>> torch.allclose((w * (s - s0)).sum(), d)
        True
    """
    size = shift.abs()
    # (1 - e^-|d|) / |d|, 1 at 0, is the scaled L(Z, Z0).
    above_0 = size + torch.finfo(size.dtype).tiny * 1e4
    scale = above_0 / (-2 * torch.expm1(-above_0))
    weighted = (p * (scale * ((shift - size) / 2).exp())).addcmul_(p0, scale * ((-shift - size) / 2).exp())
    return weighted.mul_(tanhc_of_half(difference))


def _scores(input: Pair, dim: int, dtype: torch.dtype | int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return D, d and both softmaxes; all 0 in rows that are masked as a whole.

    torch.nn.functional has a whole number where torch has the dtype.
    """
    dtype = dtype if isinstance(dtype, torch.dtype) else None
    value, base = (side if dtype is None else side.to(dtype) for side in (input.value, input.base))
    lost = torch.isneginf(value) & torch.isneginf(base)
    difference = (value - base).masked_fill(lost, 0)
    shift = value.logsumexp(dim, keepdim=True) - base.logsumexp(dim, keepdim=True)
    none = lost.all(dim, keepdim=True)
    p, p0 = (side.softmax(dim).masked_fill(none, 0) for side in (value, base))
    return difference, shift.masked_fill(none, 0), p, p0


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
    """m_k = L(p_k, p0_k) g_k - w_k sum_j L(p_j, p0_j) g_j."""
    dim = _place(dim, input)
    difference, shift, p, p0 = _scores(input, dim, dtype or _stacklevel)
    means = (p + p0) / 2 * tanhc_of_half(difference - shift)
    weights = shares(difference, p, p0, shift)

    def backward(grad: Tensor) -> Any:
        through = means * grad
        made = through - weights * through.sum(dim, keepdim=True)
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
    difference, shift, p, p0 = _scores(input, dim, dtype or _stacklevel)
    weights = shares(difference, p, p0, shift)

    def backward(grad: Tensor) -> Any:
        return [(input, (grad - weights * grad.sum(dim, keepdim=True)).to(input.value.dtype))]

    return backward


def logsumexp(output: Pair, input: Pair, dim: int | tuple[int, ...], keepdim: bool = False) -> Backward:
    """m_k = w_k g."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) != 1:
        raise ValueError("it sums over several dimensions")
    difference, shift, p, p0 = _scores(input, dims[0], None)
    weights = shares(difference, p, p0, shift)

    def backward(grad: Tensor) -> Any:
        return [(input, weights * (grad if keepdim else grad.unsqueeze(dims[0])))]

    return backward
