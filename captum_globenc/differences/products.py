"""Functions that are linear in each of their arguments: multipliers are the gradient at the mean of both runs.

f(u, w) - f(u0, w0) = f(u - u0, (w + w0) / 2) + f((u + u0) / 2, w - w0)
"""

from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, replaced

__all__ = ["matmul", "multiply", "quadratic"]


def quadratic(call: Call) -> Backward:
    """Any function of the second degree: its gradient at the mean, which is that of its path."""
    pairs = call.pairs
    means = {id(pair): pair.mean for pair in pairs}

    def backward(*grads: Tensor) -> Any:
        with torch.enable_grad():
            at = {key: mean.detach().requires_grad_() for key, mean in means.items()}
            args, kwargs = replaced(
                (call.args, dict(call.kwargs)), lambda leaf: at[id(leaf)] if isinstance(leaf, Pair) else leaf
            )
            output = call.function(*args, **kwargs)
        made = torch.autograd.grad(output, [at[id(pair)] for pair in pairs], grads[0])
        return list(zip(pairs, made, strict=True))

    return backward


def multiply(call: Call) -> Backward:
    """u w: m_u = g (w + w0) / 2, m_w = g (u + u0) / 2."""
    one, other = call.pairs
    means = one.mean, other.mean

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad * means[1]).sum_to_size(means[0].shape)),
            (other, (grad * means[0]).sum_to_size(means[1].shape)),
        ]

    return backward


def matmul(call: Call) -> Backward:
    """U W: m_U = g W^T and m_W = U^T g, at the means; vectors as torch takes them."""
    one, other = call.pairs
    if one.value.dim() < 2 or other.value.dim() < 2 or call.function is torch.Tensor.__rmatmul__:
        return quadratic(call)
    means = one.mean, other.mean

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad @ means[1].mT).sum_to_size(means[0].shape)),
            (other, (means[0].mT @ grad).sum_to_size(means[1].shape)),
        ]

    return backward
