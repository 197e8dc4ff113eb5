"""Normalisation by a statistic of the input itself: the product of what is normed and of 1 / deviation.

D elements are normed together.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair

__all__ = ["batch_norm", "layer_norm", "vector_norm"]


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
    count = math.prod(normalized_shape)
    centred = (c + c0) / 2
    inverse = (1 / size + 1 / size0) / 2
    slope = -2 / (count * size * size0 * (size + size0))

    def backward(grad: Tensor) -> Any:
        if weight is not None:
            grad = grad * weight
        # What the mean takes off has no part, and is taken off first, before anything is rounded.
        grad = grad - grad.mean(dims, keepdim=True)
        along = (grad * centred).sum(dims, keepdim=True) * slope
        return [(input, (grad * inverse).addcmul_(centred, along))]

    return backward


def batch_norm(
    output: Pair,
    input: Pair,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Backward:
    """Linear, with statistics that are kept; those of a batch make its examples depend on each other."""
    if training or running_var is None:
        raise ValueError("it takes the statistics of the batch: call model.eval()")
    scale = (running_var + eps).rsqrt()
    scale = (scale if weight is None else scale * weight).reshape(-1, *[1] * (input.value.dim() - 2))
    return lambda grad: [(input, grad * scale)]


def vector_norm(call: Call) -> Backward:
    """|u| - |u0| = (u + u0) (u - u0) / (|u| + |u0|), summed; 0 where both are 0."""
    further = {**dict(zip(("p", "dim", "keepdim"), call.args[1:], strict=False)), **call.kwargs}
    p, dim = further.get("p", further.get("ord")), further.get("dim")
    x, output = call.pair, call.outputs[0]
    total, double = output.value + output.base, x.value + x.base
    matrix = double.dim() == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if p not in (2, None, "fro") or (p == 2 and matrix and call.function is torch.linalg.norm):
        raise ValueError(f"its order is {p}")
    inverse = torch.where(total > 0, 1 / total, 0)

    def backward(grad: Tensor) -> Any:
        made = grad * inverse
        if not further.get("keepdim") and dim is not None:
            dims = (dim,) if isinstance(dim, int) else dim
            for place in sorted(it % double.dim() for it in dims):
                made = made.unsqueeze(place)
        return [(x, made * double)]

    return backward
