"""The frozen network of DecompX: its rules, and the mode that applies them to one run.

Attention and the standard deviations of norms are constants, an activation is replaced by its slope
phi(u) / u, and a product of two values that depend on the input gives half to each (Modarressi et al. 2023,
section 3). The network is then linear except for its biases, and multipliers are its gradient.

Activations may be written out: x (1 + erf(x / sqrt 2)) / 2 is an activation with slope
(1 + erf(x / sqrt 2)) / 2, not a product of two values. So the mode follows which values are elementwise
functions of which others.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.differences.call import (
    CONSTANT,
    LINEAR,
    Backward,
    Call,
    Pair,
    Rule,
    bound,
    leaves,
    replaced,
)
from captum_globenc.differences.decompositions import FROM_THE_RIGHT
from captum_globenc.differences.mode import DifferenceMode
from captum_globenc.differences.op_sets import functions
from captum_globenc.differences.rules import EXACT, Row, matmul, multiply, quadratic
from captum_globenc.differences.scalars import SCALARS, power
from captum_globenc.differences.trace import Trace
from captum_globenc.errors import UnsupportedOperationError


class Rules(NamedTuple):
    """The rules of a run without a baseline.

    Attributes:
        table: rows by function.
        slopes: whether activations that are written out get their slope, as in `FROZEN`, or their gradient.
    """

    table: Mapping[Callable[..., Any], Row]
    slopes: bool = True


def _slope(rule: Rule) -> Rule:
    """Return the rule of an activation: its secant from 0, with the limit at 0."""

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
    """Return the rule of a product that gives half to each factor."""

    def halved(call: Call) -> Backward:
        backward = rule(call)
        return lambda grad: [(pair, multiplier / 2) for pair, multiplier in backward(grad)]

    return halved


def _quotient(call: Call) -> Backward:
    """U / w, with w constant."""
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
    """Centered, and divided by a constant standard deviation."""
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
    """Probabilities are constant, so the values get everything."""

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
        raise ValueError("its dropout is active: call model.eval()")
    return backward


def _power(depends: Any, input: Any, exponent: Any) -> Any:
    """Compute powers that are statistics of norms by the functions in CONSTANTS."""
    roots = {0.5: torch.sqrt, -0.5: torch.rsqrt, -1: torch.reciprocal}
    root = roots.get(exponent) if isinstance(exponent, int | float) else None
    return NotImplemented if root is None else root(input)


CONSTANTS = functions(
    "softmax _softmax log_softmax rsqrt sqrt reciprocal var std norm linalg_norm linalg_vector_norm "
    "vector_norm"
)
"""Statistics and probabilities, whose results are constant."""

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
"""The frozen rules of all supported functions."""


ROOT = "_captum_globenc_root"
PRODUCTS = functions("mul multiply")
SCALED = PRODUCTS | functions("div divide true_divide truediv neg negative")
ELEMENTWISE = functions("add sub rsub subtract").union(SCALED, *(functions(names) for names, _ in SCALARS))


class _Root(NamedTuple):
    """The value that a value is an elementwise function of, and whether it is a multiple of it.

    Attributes:
        token: identifies the root value.
        scaled: whether the value is a multiple of the root.
        version: version of the tensor; after an in-place write, the root is no longer valid.
    """

    token: object
    scaled: bool
    version: int


class FrozenMode(DifferenceMode):
    """The mode of the one run of a frozen network.

    Args:
        trace: of the run.
        rules: the rules of the network.
    """

    def __init__(self, trace: Trace, rules: Rules) -> None:
        super().__init__(trace, None, rules.table, alone=True)
        self._slopes = rules.slopes
        self._roots = _Roots()

    def completed(self, output: Any) -> Any:
        """Return the output, after checking that it depends on the input.

        Args:
            output: the function's output.

        Raises:
            UnsupportedOperationError: it does not depend on the input in the frozen network.
        """
        if not any(self.depends(leaf) for leaf in leaves(output)):
            super().completed(output)
            raise UnsupportedOperationError(
                "The output does not depend on the input in the frozen network, in which probabilities of a "
                "softmax are constants: explain logits. Ids must be looked up by an embedding."
            )
        return super().completed(output)

    def _unwrapped(self, leaf: Any, in_place: bool = False) -> Any:
        unwrapped = super()._unwrapped(leaf, in_place)
        if unwrapped is not leaf:
            self._roots.share(leaf, unwrapped)
        return unwrapped

    def _apply_row(self, row: Row, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        dependents = [leaf for leaf in leaves((args, kwargs)) if self.depends(leaf)]
        gate, given = self._roots.gate(func, dependents), args
        if gate is not None and self._slopes:
            given = tuple(leaf.detach() if leaf is gate else leaf for leaf in args)
        elif gate is not None:
            row = Row(LINEAR)
        root = self._roots.of_result(func, args, dependents)
        output = super()._apply_row(row, func, given, kwargs)
        if root is not None and isinstance(output, Tensor):
            setattr(output, ROOT, root._replace(version=output._version))
        return output


class _Roots:
    """Follow which values of a run are elementwise functions of which others."""

    def gate(self, function: Any, dependents: Sequence[Tensor]) -> Tensor | None:
        """Return the factor of a product that is the slope of the other factor; None if it is not."""
        if function not in PRODUCTS or len(dependents) != 2:
            return None
        one, other = dependents
        if one is other or self._of(one).token is not self._of(other).token:
            return None
        return other if self._of(one).scaled else one if self._of(other).scaled else None

    def share(self, tensor: Tensor, same: Tensor) -> None:
        """Record that two tensors are the same value."""
        setattr(same, ROOT, self._of(tensor)._replace(version=same._version))

    def of_result(self, function: Any, args: Sequence[Any], dependents: Sequence[Tensor]) -> _Root | None:
        """Return the root of a function's result; None if the result is a new root."""
        roots = {self._of(tensor).token for tensor in dependents}
        known = {id(tensor) for tensor in dependents}
        others = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() and id(arg) not in known]
        if len(roots) != 1 or others or function not in ELEMENTWISE:
            return None
        scaled = function in SCALED and len(dependents) == 1 and self._of(dependents[0]).scaled
        # A number divided by a value is not a multiple of it.
        return _Root(roots.pop(), scaled and args[0] is dependents[0], 0)

    def _of(self, tensor: Tensor) -> _Root:
        root: _Root | None = getattr(tensor, ROOT, None)
        if root is None or root.version != tensor._version:
            root = _Root(object(), True, tensor._version)
            setattr(tensor, ROOT, root)
        return root
