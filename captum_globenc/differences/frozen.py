"""Rules of the frozen network: one run, in which what a model makes of its input is held as it is.

Attention and the deviations of norms count as constants, an activation as its slope phi(u) / u, and a product
of two values that depend on the input gives half to each (Modarressi et al. 2023, DecompX, section 3).
Then the network is linear but for its biases, and multipliers are its gradient.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.differences.call import CONSTANT, Backward, Call, Pair, Rule, bound, replaced
from captum_globenc.differences.compositions import FROM_THE_RIGHT
from captum_globenc.differences.names import functions
from captum_globenc.differences.products import matmul, multiply, quadratic
from captum_globenc.differences.scalars import SCALARS, power
from captum_globenc.differences.table import EXACT, Row

__all__ = ["CONSTANTS", "FROZEN", "Rules"]


class Rules(NamedTuple):
    """What one run goes by.

    Attributes:
        table: rows by function.
        slopes: whether an activation that is written out has its slope, as in `FROZEN`, or its gradient.
    """

    table: Mapping[Callable[..., Any], Row]
    slopes: bool = True


def _slope(rule: Rule) -> Rule:
    """Return the rule of an activation: its secant from 0, which has its limit at 0."""

    def from_zero(call: Call) -> Backward:
        (pair,), (output,) = call.pairs, call.outputs
        zero = Pair(pair.value, torch.zeros_like(pair.value))
        args, kwargs = replaced((call.args, dict(call.kwargs)), lambda leaf: zero if leaf is pair else leaf)
        plain_args, plain_kwargs = replaced(
            (args, kwargs), lambda leaf: zero.base.clone() if leaf is zero else leaf
        )
        at_zero = call.function(*plain_args, **plain_kwargs)
        backward = rule(Call(call.function, args, kwargs, (Pair(output.value, at_zero),)))
        return lambda grad: [(pair, multiplier) for _, multiplier in backward(grad)]

    return from_zero


def _half(rule: Rule) -> Rule:
    """Return the rule of a product, of which each factor has half."""

    def halved(call: Call) -> Backward:
        backward = rule(call)
        return lambda grad: [(pair, multiplier / 2) for pair, multiplier in backward(grad)]

    return halved


def _quotient(call: Call) -> Backward:
    """U / w with w as it is."""
    one, other = (*call.args, *(call.kwargs[name] for name in ("input", "other") if name in call.kwargs))

    def backward(grad: Tensor) -> Any:
        divisor = other.value if isinstance(other, Pair) else other
        return [(one, (grad / divisor).sum_to_size(one.value.shape))] if isinstance(one, Pair) else []

    return backward


def _layer_norm(
    output: Pair,
    input: Pair,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Backward:
    """Centred, and divided by the deviation that was."""
    dims = tuple(range(-len(normalized_shape), 0))
    inverse = (input.value.var(dims, correction=0, keepdim=True) + eps).rsqrt()

    def backward(grad: Tensor) -> Any:
        made = (grad if weight is None else grad * weight) * inverse
        return [(input, made - made.mean(dims, keepdim=True))]

    return backward


def _attention(
    output: Pair,
    query: Pair | Tensor,
    key: Pair | Tensor,
    value: Pair | Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Backward:
    """Probabilities are as they are: the values have all."""

    def backward(grad: Tensor) -> Any:
        if not isinstance(value, Pair):
            return []
        q, k = (it.value.detach() if isinstance(it, Pair) else it for it in (query, key))
        with torch.enable_grad():
            values = value.value.detach().requires_grad_()
            attended = torch.nn.functional.scaled_dot_product_attention(
                q,
                k,
                values,
                attn_mask,
                is_causal=is_causal,
                scale=scale,
                enable_gqa=enable_gqa,
            )
        return [(value, torch.autograd.grad(attended, values, grad)[0])]

    if dropout_p:
        raise ValueError("it drops at random")
    return backward


def _power(depends: Any, input: Any, exponent: Any) -> Any:
    """Roots by the name that they have as statistics of norms."""
    roots = {0.5: torch.sqrt, -0.5: torch.rsqrt, -1: torch.reciprocal}
    root = roots.get(exponent) if isinstance(exponent, int | float) else None
    return NotImplemented if root is None else root(input)


CONSTANTS = functions(
    "softmax _softmax log_softmax rsqrt sqrt reciprocal var std norm linalg_norm linalg_vector_norm "
    "vector_norm"
)
"""Statistics and probabilities: what comes of them is held as it is."""

FROZEN = Rules(
    {
        **EXACT,
        **{function: Row(_slope(rule)) for names, rule in SCALARS for function in functions(names)},
        **{
            function: Row(_half(rule))
            for function, row in EXACT.items()
            for rule in (quadratic, multiply, matmul)
            if row.rule is rule
        },
        **dict.fromkeys(functions("pow"), Row(_slope(power), _power)),
        **dict.fromkeys(functions("div divide true_divide truediv"), Row(_quotient)),
        **{function: EXACT[function] for function in FROM_THE_RIGHT},
        **dict.fromkeys(functions("layer_norm"), Row(bound(_layer_norm))),
        **dict.fromkeys(functions("scaled_dot_product_attention"), Row(bound(_attention))),
        **dict.fromkeys(CONSTANTS, Row(CONSTANT)),
    }
)
"""Every function that has a frozen rule."""
