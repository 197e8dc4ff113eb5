"""Functions that are linear in each of their arguments: their gradient at the mean of both runs.

f(u, w) - f(u0, w0) = f(u - u0, (w + w0) / 2) + f((u + u0) / 2, w - w0)
"""

from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, replaced
from captum_globenc.differences.names import functions

__all__ = ["divide", "matmul", "multiply", "quadratic"]

THIRD_DEGREE = functions("einsum bilinear")
"""Products that may be of more than two."""


def quadratic(call: Call) -> Backward:
    """Any function of the second degree: its gradient at the mean, which is that of its path."""
    pairs = call.pairs
    if len(pairs) > 2 and call.function in THIRD_DEGREE:
        raise ValueError("more than two of its factors depend on the input")
    means = {id(pair): pair.mean for pair in pairs}

    def backward(*grads: Tensor) -> Any:
        with torch.enable_grad():
            at = {key: mean.detach().requires_grad_() for key, mean in means.items()}
            # A leaf itself cannot be written into, should the function do that.
            args, kwargs = replaced(
                (call.args, dict(call.kwargs)),
                lambda leaf: at[id(leaf)].clone() if isinstance(leaf, Pair) else leaf,
            )
            output = call.function(*args, **kwargs)
        made = torch.autograd.grad(output, [at[id(pair)] for pair in pairs], grads[0])
        return list(zip(pairs, made, strict=True))

    return backward


def multiply(call: Call) -> Backward:
    """U w: m_u = g (w + w0) / 2, m_w = g (u + u0) / 2."""
    one, other = call.pairs
    means = one.mean, other.mean

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad * means[1]).sum_to_size(means[0].shape)),
            (other, (grad * means[0]).sum_to_size(means[1].shape)),
        ]

    return backward


def divide(call: Call) -> Backward:
    """U / w: a product with 1 / w, and 1/w - 1/w0 = -(w - w0) / (w w0)."""
    if call.kwargs.get("rounding_mode") is not None:
        raise ValueError("it rounds")
    one, other = (*call.args, *(call.kwargs[name] for name in ("input", "other") if name in call.kwargs))
    divisor = other if isinstance(other, Pair) else None
    if divisor is not None:
        inverse = (1 / divisor.value + 1 / divisor.base) / 2
        mean = one.mean if isinstance(one, Pair) else one
        slope = -mean / (divisor.value * divisor.base)

    def backward(grad: Tensor) -> Any:
        made = []
        if isinstance(one, Pair):
            quotient = grad * inverse if divisor is not None else grad / other
            made.append((one, quotient.sum_to_size(one.value.shape)))
        if divisor is not None:
            made.append((divisor, (grad * slope).sum_to_size(divisor.value.shape)))
        return made

    return backward


def matmul(call: Call) -> Backward:
    """U W: m_U = g W^T and m_W = U^T g, at the means; vectors as torch takes them."""
    one, other = call.pairs
    other_way = call.function is torch.Tensor.__rmatmul__ or len(call.args) < 2
    if other_way or one.value.dim() < 2 or other.value.dim() < 2:
        return quadratic(call)
    means = one.mean, other.mean

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad @ means[1].mT).sum_to_size(means[0].shape)),
            (other, (means[0].mT @ grad).sum_to_size(means[1].shape)),
        ]

    return backward
