"""Decompositions of torch functions into others that have rules.

Each takes a predicate, whether a value depends on the input, and then the arguments of the torch function. It
returns NotImplemented if the function's own rule applies.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.errors import UnsupportedOperationError

Depends = Callable[[Any], bool]


def _divide_from_right(depends: Depends, input: Any, other: Any) -> Any:
    return other * input.reciprocal()


def _power_from_right(depends: Depends, input: Tensor, base: Any) -> Any:
    return (input * math.log(base)).exp()


def _add_quotient(depends: Depends, input: Any, tensor1: Any, tensor2: Any, *, value: float = 1) -> Any:
    return input + value * (tensor1 / tensor2)


def _interpolate(depends: Depends, input: Any, end: Any, weight: Any) -> Any:
    return input + weight * (end - input)


def _clamp(depends: Depends, input: Tensor, min: Any = None, max: Any = None) -> Any:
    if not (depends(min) or depends(max)):
        return NotImplemented
    made = input
    for bound, extreme in ((min, torch.maximum), (max, torch.minimum)):
        if bound is not None:
            made = extreme(made, bound if isinstance(bound, Tensor) else input.new_tensor(bound))
    return made


def _clamp_max(depends: Depends, input: Any, max: Any) -> Any:
    return _clamp(depends, input, max=max)


def _parametric_relu(depends: Depends, input: Tensor, weight: Tensor) -> Any:
    weight = weight.view(-1, *[1] * max(input.dim() - 2, 0))
    return input.clamp_min(0) + weight * input.clamp_max(0)


def _logit(depends: Depends, input: Tensor, eps: float | None = None) -> Any:
    inside = input if eps is None else input.clamp(eps, 1 - eps)
    return inside.log() - (-inside).log1p()


def _composed(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """Return the decomposition of a function of one tensor."""

    def decomposition(depends: Depends, input: Tensor) -> Any:
        return function(input)

    return decomposition


def _times_logarithm(depends: Depends, input: Any, other: Tensor) -> Any:
    if depends(input) or not isinstance(input, Tensor):
        return input * other.log()
    return input * other.where(input != 0, 1).log()


def _product(
    depends: Depends, input: Tensor, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Any:
    """Multiply halves, so that the number of steps grows with the logarithm of the number of factors."""
    made = input if dtype is None else input.to(dtype)
    made, dim = (made.flatten(), 0) if dim is None else (made, dim)
    while made.shape[dim] > 1:
        half = made.shape[dim] // 2
        product = made.narrow(dim, 0, half) * made.narrow(dim, half, half)
        made = torch.cat([product, made.narrow(dim, 2 * half, made.shape[dim] - 2 * half)], dim)
    return made if keepdim else made.squeeze(dim)


def _vector_product(depends: Depends, x: Tensor, y: Tensor, *, dim: int = -1) -> Any:
    return (x * y).sum(dim)


def _distances(depends: Depends, x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Any:
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def _inverse(depends: Depends, input: Tensor) -> Any:
    return torch.linalg.solve(input, torch.eye(input.shape[-1], dtype=input.dtype, device=input.device))


def _solve(depends: Depends, A: Tensor, B: Tensor, *, left: bool = True) -> Any:
    if B.dim() == 1 or (B.dim() == A.dim() - 1 and B.shape == A.shape[:-1]):
        return torch.linalg.solve(A, B.unsqueeze(-1)).squeeze(-1)
    return NotImplemented if left else torch.linalg.solve(A.mT, B.mT).mT


def _solve_triangular(
    depends: Depends,
    input: Tensor,
    B: Tensor,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> Any:
    if left:
        return NotImplemented
    options = {"upper": not upper, "unitriangular": unitriangular}
    return torch.linalg.solve_triangular(input.mT, B.mT, **options).mT


def _variance_and_mean(
    depends: Depends,
    input: Tensor,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = tuple(range(input.dim())) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    count = math.prod(input.shape[it] for it in dims) - (int(unbiased) if correction is None else correction)
    mean = input.mean(dims, keepdim=True)
    variance = (input - mean).square().sum(dims, keepdim=keepdim) / count
    return variance, mean if keepdim else mean.squeeze(dims)


def _variance(depends: Depends, *args: Any, **kwargs: Any) -> Any:
    return _variance_and_mean(depends, *args, **kwargs)[0]


def _deviation_and_mean(depends: Depends, *args: Any, **kwargs: Any) -> Any:
    variance, mean = _variance_and_mean(depends, *args, **kwargs)
    return variance.sqrt(), mean


def _deviation(depends: Depends, *args: Any, **kwargs: Any) -> Any:
    return _deviation_and_mean(depends, *args, **kwargs)[0]


def _normalize(
    depends: Depends, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Any:
    return input / torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def _cosine_similarity(depends: Depends, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Any:
    shape = torch.broadcast_shapes(x1.shape, x2.shape)  # type: ignore[no-untyped-call]
    one, other = (
        side / torch.linalg.vector_norm(side, 2, dim, keepdim=True).clamp_min(eps)
        for side in (x1.expand(shape), x2.expand(shape))
    )
    return (one * other).sum(dim)


def _pairwise_distance(
    depends: Depends, x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim=keepdim)


def _native_layer_norm(
    depends: Depends, input: Tensor, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    """The mean and the inverse standard deviation are outputs, too."""
    dims = tuple(range(-len(normalized_shape), 0))
    inverse = (input.var(dims, unbiased=False, keepdim=True) + eps).rsqrt()
    normed = torch.nn.functional.layer_norm(input, normalized_shape, weight, bias, eps)
    return normed, input.mean(dims, keepdim=True), inverse


def _rms_norm(
    depends: Depends,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Any = None,
    eps: float | None = None,
) -> Any:
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    normed = input * (input.pow(2).mean(dims, keepdim=True) + eps).rsqrt()
    return normed if weight is None else normed * weight


def _group_norm(
    depends: Depends,
    input: Tensor,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    groups = input.reshape(len(input), num_groups, -1)
    normed = torch.nn.functional.layer_norm(groups, groups.shape[-1:], eps=eps).reshape(input.shape)
    return _affine(normed, weight, bias)


def _instance_norm(
    depends: Depends,
    input: Tensor,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return NotImplemented
    return _group_norm(depends, input, input.shape[1], weight, bias, eps)


def _affine(normed: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (normed.dim() - 2))
    if weight is not None:
        normed = normed * weight.reshape(shape)
    return normed if bias is None else normed + bias.reshape(shape)


def _gated(depends: Depends, input: Tensor, dim: int = -1) -> Any:
    one, gate = input.chunk(2, dim)
    return one * gate.sigmoid()


def _grouped_product(
    depends: Depends, input: Tensor, mat2: Tensor, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Any:
    """Multiply groups of rows, which end at `offs`, by one matrix each, as for tokens routed to experts."""
    if offs is None or input.dim() != 2 or mat2.dim() != 3 or bias is not None:
        raise UnsupportedOperationError("grouped_mm is supported for rows in groups, (T, K) by (E, K, N)")
    ends = offs.tolist()
    rows = [input[start:end] @ matrix for start, end, matrix in zip([0, *ends], ends, mat2, strict=False)]
    rest = len(input) - ends[-1]  # rows of no group, whose result is not read
    return torch.cat([*rows, rows[0].new_zeros(rest, mat2.shape[-1])])


def _softmin(
    depends: Depends, input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None
) -> Any:
    return torch.nn.functional.softmax(-input, dim, dtype=dtype)


def _log_add_exp(depends: Depends, input: Any, other: Any) -> Any:
    return torch.maximum(input, other) + (-(input - other).abs()).exp().log1p()


def _attention(
    depends: Depends,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        key, value = _for_each_head(query, key, value)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale
        )
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if alike and not dropout_p and not depends(attn_mask) and all(map(depends, (query, key, value))):
        return NotImplemented
    return attention_in_parts(depends, query, key, value, attn_mask, dropout_p, is_causal, scale)


def _for_each_head(query: Tensor, *shared: Tensor) -> list[Tensor]:
    """Repeat keys and values for the query heads that share them."""
    return [it.repeat_interleave(query.shape[-3] // it.shape[-3], -3) for it in shared]


def attention_in_parts(
    depends: Depends,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Compute attention by two products and a softmax; fully masked rows give 0, as in torch."""
    if enable_gqa and key.shape[-3] != query.shape[-3]:
        key, value = _for_each_head(query, key, value)
    scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is None:
        return torch.nn.functional.dropout(scores.softmax(-1), dropout_p) @ value
    mask = attn_mask if attn_mask.dim() else attn_mask.reshape(1)
    if mask.dtype is torch.bool:
        empty = ~mask.any(-1, keepdim=True)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    else:
        empty = (mask == -math.inf).all(-1, keepdim=True)
        absorbed = (mask < absorbing(scores.dtype)).all(-1, keepdim=True)
        scores = scores.masked_fill(absorbed, 0) + mask.masked_fill(empty, 0)
    probabilities = scores.softmax(-1).masked_fill(empty, 0)
    return torch.nn.functional.dropout(probabilities, dropout_p) @ value


def absorbing(dtype: torch.dtype) -> float:
    """Return the mask value below which adding a score does not change it, so scores have no effect."""
    return -2 / torch.finfo(dtype).eps


def _multi_head_attention(
    depends: Depends,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    if (
        any(it is not None for it in (bias_k, bias_v, static_k, static_v))
        or add_zero_attn
        or query.dim() != 3
    ):
        raise UnsupportedOperationError(
            "multi_head_attention_forward with bias_k, add_zero_attn, static keys or without a batch"
        )
    receivers, batch, width = query.shape
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        torch.nn.functional.linear(it, weight, bias)
        .reshape(len(it), batch, num_heads, width // num_heads)
        .permute(1, 2, 0, 3)
        for it, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    mask = attn_mask
    if mask is not None:
        mask = _as_additive(mask, q.dtype)
        mask = mask.reshape(-1, num_heads, *mask.shape[-2:]) if mask.dim() == 3 else mask
    if key_padding_mask is not None:
        hidden = _as_additive(key_padding_mask, q.dtype)[:, None, None, :]
        mask = hidden if mask is None else mask + hidden
    dropped = dropout_p if training else 0.0
    if not need_weights:
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, dropped)
        probabilities = None
    else:
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        probabilities = (scores if mask is None else scores + mask).softmax(-1)
        probabilities = torch.nn.functional.dropout(probabilities, dropped)
        mixed = probabilities @ v
        probabilities = probabilities.mean(1) if average_attn_weights else probabilities
    mixed = mixed.permute(2, 0, 1, 3).reshape(receivers, batch, width)
    return torch.nn.functional.linear(mixed, out_proj_weight, out_proj_bias), probabilities


def _as_additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a mask of torch's multi-head attention (True: hidden) as an additive mask."""
    if mask.dtype is torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
    return mask.to(dtype)


DECOMPOSITIONS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("addcdiv", _add_quotient),
    ("lerp", _interpolate),
    ("clamp clip", _clamp),
    ("clamp_min", _clamp),
    ("clamp_max", _clamp_max),
    ("prelu", _parametric_relu),
    ("exp2", _composed(lambda u: (u * math.log(2)).exp())),
    ("log2", _composed(lambda u: u.log() / math.log(2))),
    ("log10", _composed(lambda u: u.log() / math.log(10))),
    ("tan", _composed(lambda u: u.sin() / u.cos())),
    ("logit", _logit),
    ("xlogy", _times_logarithm),
    ("prod", _product),
    ("vecdot", _vector_product),
    ("cdist", _distances),
    ("inv inverse", _inverse),
    ("solve", _solve),
    ("solve_triangular", _solve_triangular),
    ("var", _variance),
    ("std", _deviation),
    ("var_mean", _variance_and_mean),
    ("std_mean", _deviation_and_mean),
    ("normalize", _normalize),
    ("cosine_similarity", _cosine_similarity),
    ("pairwise_distance", _pairwise_distance),
    ("native_layer_norm", _native_layer_norm),
    ("rms_norm", _rms_norm),
    ("group_norm", _group_norm),
    ("instance_norm", _instance_norm),
    ("glu", _gated),
    ("softmin", _softmin),
    ("grouped_mm _grouped_mm", _grouped_product),
    ("logaddexp", _log_add_exp),
    ("scaled_dot_product_attention", _attention),
    ("multi_head_attention_forward", _multi_head_attention),
)
"""Names of functions, and their decompositions."""

FROM_THE_RIGHT: dict[Callable[..., Any], Callable[..., Any]] = {
    Tensor.__rdiv__: _divide_from_right,
    Tensor.__rtruediv__: _divide_from_right,
    Tensor.__rpow__: _power_from_right,
}
"""Decompositions of operators whose first argument is the right operand."""
