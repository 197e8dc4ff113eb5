"""Record attention: run it through torch functions that can be observed, and read queries, keys and values.

B batch, H heads, N tokens, d head size.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from captum_globenc.decomposition.attention import Attention, GivenAttention, QueryKeyAttention
from captum_globenc.encoders.search import submodules
from captum_globenc.recording.checkpointing import without_checkpointing

FUSED = frozenset({"flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"})
"""transformers' attention implementations that equal softmax attention but cannot be observed."""

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm"})
"""Names of the functions and methods that multiply matrices."""

FLASH_KERNEL = 1
"""Number of the flash kernel among the kernels of scaled_dot_product_attention."""

active_recorder: ContextVar[object | None] = ContextVar("captum_globenc_recorder", default=None)
"""The recorder of this context (usually a thread); None while nothing is recorded."""

_replaced: dict[int, int] = {}
_replaced_lock = threading.Lock()


@contextmanager
def without_fused_attention(stack: nn.Module) -> Iterator[None]:
    """Run the parts of `stack` that use a :data:`FUSED` implementation with SDPA, in contexts that record.

    A config is shared by all parts of a model, by other models and by threads. So only its class is
    replaced, by one that reports SDPA in recording contexts; passes in other threads are not affected.
    """
    all_configs = {id(config): config for config in _configs(stack)}
    configs = [config for config in all_configs.values() if config._attn_implementation in FUSED]
    with _replaced_lock:
        for config in configs:
            if id(config) not in _replaced:
                config_class: Any = type(config)
                config.__class__ = _observable(config_class)
            _replaced[id(config)] = _replaced.get(id(config), 0) + 1
    try:
        yield
    finally:
        with _replaced_lock:
            for config in configs:
                _replaced[id(config)] -= 1
                if not _replaced[id(config)]:
                    del _replaced[id(config)]
                    config.__class__ = type(config).__bases__[0]


@contextmanager
def observable_attention(model: nn.Module | None, recorder: object) -> Iterator[None]:
    """Use attention that can be observed in this context, and no gradient checkpointing.

    Args:
        model: the module that runs; None does nothing.
        recorder: the object that records.
    """
    if model is None:
        yield
        return
    token = active_recorder.set(recorder)
    buffers = [buffer for buffer in model.buffers() if not buffer.requires_grad]
    try:
        with without_fused_attention(model), without_checkpointing(model):
            yield
    finally:
        active_recorder.reset(token)
        for buffer in buffers:  # a buffer that the run wrote to must not keep the graph alive
            if buffer.requires_grad:
                buffer.detach_()


@cache
def _observable(config_class: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """Return a class of configs that report SDPA while a recorder is active."""
    own: Any = config_class._attn_implementation

    def implementation(config: PretrainedConfig) -> Any:
        named = own.fget(config)
        return "sdpa" if named in FUSED and active_recorder.get() is not None else named

    def reduce(config: Any, protocol: Any) -> Any:
        # Copies and pickles made during the pass have the original class.
        made: Any = config_class.__reduce_ex__(config, protocol)
        return object.__new__, (config_class,), *made[2:]

    names = {
        "__module__": config_class.__module__,
        "__reduce_ex__": reduce,
        "_attn_implementation": property(implementation, own.fset),
    }
    return type(config_class.__name__, (config_class,), names)


def _configs(stack: nn.Module) -> Iterator[PretrainedConfig]:
    for module in submodules(stack):
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            yield config


class AttentionWatcher:
    """Observe what is multiplied with the values, whatever computes the attention.

    Args:
        batch: B.
        tokens: N.
        on_attention: called with each attention and its values `(B, H or fewer, N, d)`.
    """

    def __init__(self, batch: int, tokens: int, on_attention: Callable[[Attention, Tensor], None]) -> None:
        self._batch = batch
        self._tokens = tokens
        self._on_attention = on_attention
        # By id: weights that come from a softmax, and the softmax's input. Holding the tensors keeps their
        # ids from being reused.
        self._followed: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run a function of torch, and record the attention in it."""
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            result = attention_with_logsumexp(*args, **kwargs)
            output, logsumexp = (func(*args, **kwargs), None) if result is None else result
            self._record_sdpa(logsumexp, *args, **kwargs)
            return output
        output = func(*args, **kwargs)
        if name == "softmax":
            self._follow(output, args[0] if args else kwargs["input"])
        elif self._followed:
            self._follow_or_record(name, (*args, *kwargs.values()), output)
        return output

    def _follow(self, weights: Tensor, scores: Tensor) -> None:
        self._followed[id(weights)] = weights, scores

    def _record_sdpa(
        self,
        logsumexp: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if query.ndim == 3:  # (B*H, N, d)
            query, key, value = (self._by_head(tensor) for tensor in (query, key, value))
            if attn_mask is not None and attn_mask.ndim == 3 and len(attn_mask) > 1:
                attn_mask = self._by_head(attn_mask)
        if query.ndim != 4 or len(query) != self._batch:
            return  # not attention over tokens
        if attn_mask is not None:
            attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.ndim) + attn_mask.shape)
        if self._tokens == 1 and query.shape[2] > 1:
            # For one token, transformers moves the heads that share a key to the token dimension.
            query, attn_mask, logsumexp = query.flatten(1, 2)[:, :, None], None, None
        attention = QueryKeyAttention(
            query=query,
            key=key,
            scaling=query.shape[-1] ** -0.5 if scale is None else scale,
            mask=attn_mask,
            causal=is_causal,
            logsumexp=logsumexp,
        )
        self._on_attention(attention, value)

    def _follow_or_record(self, name: str, operands: tuple[Any, ...], output: Any) -> None:
        """Follow attention weights through any function, up to their product with the values."""
        for position, operand in enumerate(operands):
            if id(operand) not in self._followed:
                continue
            weights, scores = self._followed[id(operand)]
            if name == "einsum":
                value = _einsum_value(operands[0], weights, operands[-1]) if position == 1 else None
                if value is not None:
                    self._record_product(weights, scores, value)
            elif name in PRODUCTS:
                if position == 0:
                    self._record_product(weights, scores, operands[1])
            elif isinstance(output, Tensor) and output.numel() == weights.numel():
                self._follow(output, scores)

    def _record_product(self, weights: Tensor, scores: Tensor, value: Tensor) -> None:
        if weights.ndim == 3 and value.ndim == 3 and len(weights) == len(value):  # (B*H, N, N)
            weights, value, scores = (self._by_head(tensor) for tensor in (weights, value, scores))
        # A softmax of another shape, such as a gate's, is not attention over tokens.
        if weights.ndim == value.ndim == 4 and weights.shape[0] == self._batch:
            self._on_attention(GivenAttention(weights, scores), value)

    def _by_head(self, tensor: Tensor) -> Tensor:
        """Reshape `(B*H, ...)` to `(B, H, ...)`, or return the tensor if B does not divide it."""
        if len(tensor) % self._batch:
            return tensor
        return tensor.reshape(self._batch, -1, *tensor.shape[-2:])


def _einsum_value(equation: Any, weights: Tensor, value: Any) -> Tensor | None:
    """Return the values `(B, H, N, d)` of an einsum of weights and values; None for any other einsum."""
    if not isinstance(equation, str) or not isinstance(value, Tensor) or weights.ndim != 4:
        return None
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or len(operands[0]) != 4 or len(operands[1]) != 4:
        return None
    kept = operands[0][:2] + operands[0][3]
    size = set(operands[1]) - set(kept)
    if len(size) != 1:
        return None
    return value.permute([operands[1].index(letter) for letter in (*kept, *size)])


def attention_with_logsumexp(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Compute scaled_dot_product_attention on a CPU, and the denominators of its softmax.

    The signature is that of :func:`torch.nn.functional.scaled_dot_product_attention`, which does not return
    the denominators. Its flash kernel for CPUs does.

    Returns:
        The same output, `(B, H, N, d)`, and the logarithm of each softmax's denominator, `(B, H, N)`; None
        if scaled_dot_product_attention would choose another kernel.
    """
    choose: Any = getattr(torch, "_fused_sdp_choice", None)
    kernel: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if choose is None or kernel is None or dropout_p:
        return None
    if query.device.type != "cpu" or query.ndim != 4 or key.shape[1] != query.shape[1]:
        return None
    chosen = choose(query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)
    if chosen != FLASH_KERNEL:
        return None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        additive = query.new_zeros(attn_mask.shape)
        attn_mask = additive.masked_fill_(~attn_mask, -torch.inf)
    output, logsumexp = kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)
    return output, logsumexp


def real_tokens(attention: Attention, mask: Any, shape: Sequence[int]) -> Tensor | None:
    """Return `(B, N)`, False at padding; None if every token is real.

    The visible sources of the attention are real. If the model computed its probabilities itself, the
    user's mask counts, because padding may see everything, as in DeBERTa.

    Args:
        attention: of the first layer.
        mask: the encoder's `attention_mask`, or None.
        shape: `(B, N)`.
    """
    if isinstance(attention, GivenAttention) and isinstance(mask, Tensor) and mask.shape == tuple(shape):
        return mask.bool()
    return attention.visible()
