"""The table of rules, and the rules of products, normalization and softmax.

Each function of torch has one row: its rule, or its decomposition into other functions. Functions without a
row are rejected.

*Products* are linear in each of their arguments; their multipliers are gradients at the mean of both runs:

    f(u, w) - f(u0, w0) = f(u - u0, (w + w0) / 2) + f((u + u0) / 2, w - w0)

*Normalization* is the product of the centered input and the reciprocal of its standard deviation, over D
elements.

*Softmax* uses the logarithmic mean L(a, b) = (a - b) / (ln a - ln b). With D = s - s0 the difference of the
scores, and d the difference of ln sum exp(s):

    p_j - p0_j    = L_j (D_j - d)
    d             = sum_k w_k D_k              w_k = L_k / sum_i L_i

The second equation follows from the first, because probabilities sum to 1 in both runs. The w sum to 1, so a
difference that is the same for all scores, which does not change a softmax, contributes nothing. The formula
L(a, b) = (a + b) / 2 tanh(t) / t with t = (ln a - ln b) / 2 is stable for any scores.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from captum_globenc.differences.attention import fused_attention
from captum_globenc.differences.call import (
    LINEAR,
    QUADRATIC,
    Backward,
    Call,
    Pair,
    Rule,
    averages,
    bound,
    replaced,
)
from captum_globenc.differences.decompositions import DECOMPOSITIONS, FROM_THE_RIGHT
from captum_globenc.differences.losses import LOSSES
from captum_globenc.differences.op_sets import (
    IDENTITIES,
    LINEAR_FUNCTIONS,
    QUADRATIC_FUNCTIONS,
    functions,
    table,
)
from captum_globenc.differences.recurrent import RECURRENT
from captum_globenc.differences.scalars import SCALARS, tanhc_of_half
from captum_globenc.differences.selection import extreme_of_dimension, extreme_of_two, max_pool, top

THIRD_DEGREE = functions("einsum bilinear")
"""Products that may have more than two factors."""


def quadratic(call: Call) -> Backward:
    """Return the rule of functions of the second degree: their gradient at the mean of both runs."""
    pairs = call.pairs
    if len(pairs) > 2 and call.function in THIRD_DEGREE:
        raise ValueError("more than two of its factors depend on the input")
    means = {id(pair): pair.mean for pair in pairs}

    def backward(*grads: Tensor) -> Any:
        with torch.enable_grad():
            at = {key: mean.detach().requires_grad_() for key, mean in means.items()}
            # Cloned, because the function may write to its argument, which autograd forbids for leaves.
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
    means = averages(one, other)

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad * means[1]).sum_to_size(means[0].shape)),
            (other, (grad * means[0]).sum_to_size(means[1].shape)),
        ]

    return backward


def divide(call: Call) -> Backward:
    """U / w: a product with 1 / w, where 1/w - 1/w0 = -(w - w0) / (w w0)."""
    if call.kwargs.get("rounding_mode") is not None:
        raise ValueError("it rounds its result")
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
    """U W: m_U = g W^T and m_W = U^T g, at the means."""
    one, other = call.pairs
    reversed_ = call.function is torch.Tensor.__rmatmul__ or len(call.args) < 2
    if reversed_ or one.value.dim() < 2 or other.value.dim() < 2:
        return quadratic(call)
    means = averages(one, other)

    def backward(grad: Tensor) -> Any:
        return [
            (one, (grad @ means[1].mT).sum_to_size(means[0].shape)),
            (other, (means[0].mT @ grad).sum_to_size(means[1].shape)),
        ]

    return backward


def solve(output: Pair, A: Pair | Tensor, B: Pair | Tensor, *, left: bool = True) -> Backward:
    """The solution X of A X = B, see :func:`_solution`."""
    return _solution(output, A, B, lambda matrix, grad: torch.linalg.solve(matrix.mT, grad), lambda it: it)


def solve_triangular(
    output: Pair,
    input: Pair | Tensor,
    B: Pair | Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Backward:
    """The solution X of A X = B, see :func:`_solution`; only one triangle of A is read."""

    def transposed(matrix: Tensor, grad: Tensor) -> Tensor:
        options = {"upper": not upper, "unitriangular": unitriangular}
        made: Tensor = torch.linalg.solve_triangular(matrix.mT, grad, **options)
        return made

    def triangle(it: Tensor) -> Tensor:
        return it.triu(int(unitriangular)) if upper else it.tril(-int(unitriangular))

    return _solution(output, input, B, transposed, triangle)


def _solution(
    output: Pair,
    matrix: Pair | Tensor,
    right: Pair | Tensor,
    transposed: Callable[[Tensor, Tensor], Tensor],
    read: Callable[[Tensor], Tensor],
) -> Backward:
    """X - X0 = A^-1 (B - B0) - A^-1 (A - A0) X0, averaged with the same equation of exchanged runs.

    Args:
        output: X.
        matrix: A.
        right: B.
        transposed: solves a system of the transposed matrix, given A and the right side.
        read: sets entries of A that are not read to 0.
    """
    value, base = (matrix.value, matrix.base) if isinstance(matrix, Pair) else (matrix, matrix)

    def backward(grad: Tensor) -> Any:
        one, other = (transposed(it, grad) / 2 for it in (value, base))
        made = []
        if isinstance(right, Pair):
            made.append((right, (one + other).sum_to_size(right.value.shape)))
        if isinstance(matrix, Pair):
            product = one @ output.base.mT + other @ output.value.mT
            made.append((matrix, read(-product).sum_to_size(value.shape)))
        return made

    return backward


def layer_norm(
    statistics: tuple[Pair, ...],
    input: Pair,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Backward:
    """C r, with c the centered input and r = (mean of c^2 + eps)^-1/2.

    With R = (r + r0) / 2, H = r r0 / R, and C the mean of c and c0:

        r - r0 = -R H^2  mean of C (c - c0)
        m = R (g - H^2 C mean of C g)          g centered

    That is R / H times torch's gradient at the mean of both inputs, with H as its r.
    """
    mean, inverse = statistics
    x, center, average = averages(input, mean, inverse)
    product, square = torch._foreach_mul([inverse.value, average], [inverse.base, average])
    harmonic, ratio = torch._foreach_div([product, square], [average, product])

    def backward(grad: Tensor) -> Any:
        made = torch.ops.aten.native_layer_norm_backward(
            grad.contiguous(), x, normalized_shape, center, harmonic, weight, bias, [True, False, False]
        )
        return [(input, made[0].mul_(ratio))]

    return backward


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the output, and the mean and the inverse deviation, from one kernel."""
    output, *statistics = torch.native_layer_norm(input, normalized_shape, weight, bias, eps)
    return output, tuple(statistics)


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
    """Linear, with running statistics; batch statistics would make examples depend on each other."""
    if training or running_var is None:
        raise ValueError("it uses the statistics of the batch: call model.eval()")
    scale = (running_var + eps).rsqrt()
    scale = (scale if weight is None else scale * weight).reshape(-1, *[1] * (input.value.dim() - 2))
    return lambda grad: [(input, grad * scale)]


def vector_norm(call: Call) -> Backward:
    """|u| - |u0| = (u + u0) (u - u0) / (|u| + |u0|), summed; 0 if both are 0."""
    further = {**dict(zip(("p", "dim", "keepdim"), call.args[1:], strict=False)), **call.kwargs}
    p, dim = further.get("p", further.get("ord")), further.get("dim")
    x, output = call.pair, call.outputs[0]
    total, double = output.value + output.base, x.value + x.base
    matrix = double.dim() == 2 if dim is None else not isinstance(dim, int) and len(dim) == 2
    if p not in (2, None, "fro") or (p == 2 and matrix and call.function is torch.linalg.norm):
        raise ValueError(f"its order is {p}; only the 2-norm of vectors is supported")
    inverse = torch.where(total > 0, 1 / total, 0)

    def backward(grad: Tensor) -> Any:
        made = grad * inverse
        if not further.get("keepdim") and dim is not None:
            dims = (dim,) if isinstance(dim, int) else dim
            for position in sorted(it % double.dim() for it in dims):
                made = made.unsqueeze(position)
        return [(x, made * double)]

    return backward


def _means(input: Pair, dim: int, dtype: torch.dtype | int | None) -> tuple[Tensor, Tensor]:
    """Return L and w; both are 0 where a score is -inf in both runs.

    `dtype` may be torch.nn.functional's `_stacklevel`, an int at the position of torch's dtype.
    """
    dtype = dtype if isinstance(dtype, torch.dtype) else None
    value, base = (side if dtype is None else side.to(dtype) for side in (input.value, input.base))
    lost = torch.isneginf(value) & torch.isneginf(base)
    log_p, log_p0 = (side.log_softmax(dim) for side in (value, base))
    difference = (log_p - log_p0).masked_fill_(lost, 0)
    means = log_p.exp().add_(log_p0.exp()).div_(2).mul_(tanhc_of_half(difference)).masked_fill_(lost, 0)
    total = means.sum(dim, keepdim=True)
    return means, means / torch.where(total > 0, total, 1)


def _default_dim(dim: int | None, input: Pair) -> int:
    """Return `dim`, or torch's default."""
    return (0 if input.value.dim() in (0, 1, 3) else 1) if dim is None else dim


def softmax(
    output: Pair,
    input: Pair,
    dim: int | None = None,
    _stacklevel: int | torch.dtype = 3,
    dtype: torch.dtype | None = None,
) -> Backward:
    """m_k = L_k (g_k - sum_j w_j g_j)."""
    dim = _default_dim(dim, input)
    means, weights = _means(input, dim, dtype or _stacklevel)

    def backward(grad: Tensor) -> Any:
        # A constant gradient contributes nothing. Subtracting the gradient of the largest weight leaves
        # little to cancel.
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
    dim = _default_dim(dim, input)
    _, weights = _means(input, dim, dtype or _stacklevel)

    def backward(grad: Tensor) -> Any:
        return [(input, (grad - weights * grad.sum(dim, keepdim=True)).to(input.value.dtype))]

    return backward


def logsumexp(output: Pair, input: Pair, dim: int | tuple[int, ...], keepdim: bool = False) -> Backward:
    """m_k = w_k g."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if len(dims) != 1:
        raise ValueError("it sums over several dimensions; only one is supported")
    _, weights = _means(input, dims[0], None)

    def backward(grad: Tensor) -> Any:
        return [(input, weights * (grad if keepdim else grad.unsqueeze(dims[0])))]

    return backward


class Row(NamedTuple):
    """The rule of a function.

    Attributes:
        rule: LINEAR, QUADRATIC, or a function.
        decomposition: computes the function by others; used unless it returns NotImplemented.
    """

    rule: Rule | str | None = None
    decomposition: Callable[..., Any] | None = None


ROWS: tuple[tuple[str, Any], ...] = (
    ("mul multiply", multiply),
    ("matmul bmm mm", matmul),
    ("div divide true_divide truediv", divide),
    ("solve", bound(solve)),
    ("solve_triangular", bound(solve_triangular)),
    ("softmax _softmax", bound(softmax)),
    ("log_softmax _log_softmax", bound(log_softmax)),
    ("logsumexp", bound(logsumexp)),
    ("layer_norm", bound(layer_norm, _layer_norm)),
    ("batch_norm", bound(batch_norm)),
    ("norm linalg_norm linalg_vector_norm vector_norm", vector_norm),
    ("maximum", extreme_of_two(True)),
    ("minimum", extreme_of_two(False)),
    ("max amax", extreme_of_dimension(True)),
    ("min amin", extreme_of_dimension(False)),
    ("max_pool1d max_pool2d max_pool3d", max_pool),
    ("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices", max_pool),
    ("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", max_pool),
    ("topk", top),
    (
        "scaled_dot_product_attention",
        bound(fused_attention, lambda *args, **kwargs: (scaled_dot_product_attention(*args, **kwargs), ())),
    ),
)
"""Names and rules of functions of several numbers."""

_RULES: dict[Callable[..., Any], Rule | str] = {
    **dict.fromkeys(LINEAR_FUNCTIONS | IDENTITIES, LINEAR),
    **dict.fromkeys(QUADRATIC_FUNCTIONS, quadratic),
    **table(SCALARS),
    **table(ROWS),
}
_DECOMPOSITIONS = {**table(DECOMPOSITIONS + RECURRENT), **FROM_THE_RIGHT, **LOSSES}

EXACT: dict[Callable[..., Any], Row] = {
    function: Row(_RULES.get(function), _DECOMPOSITIONS.get(function))
    for function in {**_RULES, **_DECOMPOSITIONS}
}
"""The exact rules of all supported functions."""


def register_rule(function: Callable[..., Any], rule: Rule | str) -> None:
    """Add or replace the rule of a function of torch.

    Args:
        function: the function, such as ``torch.special.i0``. Methods and operators are separate functions.
        rule: `LINEAR`, `QUADRATIC`, or a function that takes a :class:`~captum_globenc.differences.Call` and
            returns its backward pass. The backward pass takes the multipliers of the outputs, None for an
            output that is not used, and returns a list of pairs and their multipliers; multipliers times
            differences must sum to the difference of the outputs. `bound` turns a function with the torch
            function's parameters into a rule.

    Raises:
        TypeError: `function` is not callable, or `rule` is not a rule.

    Example:
        >>> import torch
        >>> from captum_globenc.differences import register_rule
        >>> from captum_globenc.differences.scalars import smooth
        >>> register_rule(torch.special.i0, smooth)
    """
    if not callable(function) or not (rule in (LINEAR, QUADRATIC) or callable(rule)):
        raise TypeError("register_rule takes a function of torch, and LINEAR, QUADRATIC or a rule")
    EXACT[function] = Row(quadratic if rule == QUADRATIC else rule)
