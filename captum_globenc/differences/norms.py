"""Normalisation by a statistic of the input itself: the product of what is normed and of 1 / deviation.

D elements are normed together.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Pair

__all__ = ["layer_norm", "vector_norm"]


def layer_norm(
    output: Pair,
    input: Pair,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Backward:
    """C / sqrt(v), c the centred input and v its variance and eps.

    With r = v^-1/2:  r - r0 = -(v - v0) / (sqrt(v) sqrt(v0) (sqrt(v) + sqrt(v0))),
    v - v0 = 2/D sum c_mean (c - c0), and c r is a product.
    """
    dims = tuple(range(-len(normalized_shape), 0))
    c, c0 = (side - side.mean(dims, keepdim=True) for side in (input.value, input.base))
    size, size0 = ((side.square().mean(dims, keepdim=True) + eps).sqrt() for side in (c, c0))
    count = c[(0,) * (c.dim() - len(dims))].numel()
    centred = (c + c0) / 2
    inverse = (1 / size + 1 / size0) / 2
    slope = -2 / (count * size * size0 * (size + size0))

    def backward(grad: Tensor) -> Any:
        if weight is not None:
            grad = grad * weight
        along = (grad * centred).sum(dims, keepdim=True) * slope
        made = (grad * inverse).addcmul_(centred, along)
        return [(input, made.sub_(made.mean(dims, keepdim=True)))]

    return backward


def vector_norm(
    output: Pair,
    x: Pair,
    p: float | str | None = 2,
    dim: int | Sequence[int] | None = None,
    keepdim: bool = False,
    **kwargs: Any,
) -> Backward:
    """|u| - |u0| = (u + u0) (u - u0) / (|u| + |u0|), summed; 0 where both are 0."""
    if p not in (2, None, "fro"):
        raise ValueError(f"its order is {p}")
    total = output.value + output.base
    inverse = torch.where(total > 0, 1 / total, 0)
    double = x.value + x.base

    def backward(grad: Tensor) -> Any:
        made = grad * inverse
        if not keepdim and dim is not None:
            dims = (dim,) if isinstance(dim, int) else dim
            for place in sorted(it % double.dim() for it in dims):
                made = made.unsqueeze(place)
        return [(x, made * double)]

    return backward
