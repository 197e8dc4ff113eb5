"""Recording: one forward pass of the user's own model, seen through hooks.

Yields one :class:`~captum_globenc.mixing.LayerRecord` per encoder layer, in order, as it happens, and
leaves the model exactly as it was. B batch, N tokens, H heads, D hidden size, d head size.
"""

import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from captum_globenc.attention import QueryKeyAttention
from captum_globenc.encoders import Encoder
from captum_globenc.encoders.registry import Layer
from captum_globenc.mixing import LayerRecord, Normalization

ATTENTION_NAME = "captum_globenc"
"""The name of the recording attention function in transformers' attention interface."""

Output = TypeVar("Output")

_active: ContextVar["Recorder | None"] = ContextVar("captum_globenc_recorder", default=None)
_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


def record(
    forward: Callable[[], Output],
    encoder: Encoder,
    on_layer: Callable[[LayerRecord], None],
) -> Output:
    """Run `forward` once, without gradients, and hand over each encoder layer when it is done.

    Args:
        forward: runs the model that holds the encoder.
        encoder: the encoder to watch.
        on_layer: called with the record of every layer as soon as the layer has run. What it raises
            ends the pass.

    Returns:
        What `forward` returned.

    Raises:
        RuntimeError: `forward` never ran the encoder, or ran it more than once.
    """
    recorder = Recorder(encoder, on_layer)
    with ExitStack() as stack:
        stack.enter_context(_lock_of(encoder.stack))
        stack.callback(_active.reset, _active.set(recorder))
        stack.enter_context(recorder.hooks())
        stack.enter_context(_recording_attention(encoder.stack))
        stack.enter_context(torch.no_grad())
        _warn_of_dropout(encoder.stack)
        output = forward()
    if recorder.passes == 0:
        raise RuntimeError(
            f"forward_func never ran the encoder ({type(encoder.stack).__name__}) of `model`. "
            "Pass the model that forward_func really calls."
        )
    return output


class Recorder:
    """Collects what one layer after the other does during one forward pass.

    Args:
        encoder: the encoder to watch.
        on_layer: called with each layer's record when the layer is done.
    """

    def __init__(self, encoder: Encoder, on_layer: Callable[[LayerRecord], None]) -> None:
        self.passes = 0
        self._encoder = encoder
        self._on_layer = on_layer
        self._real: Tensor | None = None
        self._layer: _OpenLayer | None = None
        self._index = 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hold this recorder's hooks on the encoder's modules, and none after."""
        with ExitStack() as handles:
            stack = self._encoder.stack
            handles.enter_context(stack.register_forward_pre_hook(self._mine(self._enter_stack)))
            for layer in self._encoder.layers:

                def enter(module: nn.Module, args: Any, kwargs: Any, layer: Layer = layer) -> None:
                    self._enter_layer(layer, args[0] if args else kwargs["hidden_states"])

                handles.enter_context(
                    layer.module.register_forward_pre_hook(self._mine(enter), with_kwargs=True)
                )
                for role in ("norm1", "norm2"):

                    def see(module: nn.Module, args: Any, role: str = role) -> None:
                        if self._layer is not None:
                            self._layer.seen[role].append(args[0])

                    norm = getattr(layer, role)
                    handles.enter_context(norm.register_forward_pre_hook(self._mine(see)))
                handles.enter_context(
                    layer.module.register_forward_hook(self._mine(self._leave_layer))
                )
            yield

    def see_attention(self, module: nn.Module, attention: QueryKeyAttention, value: Tensor) -> None:
        """Take note of the attention of the layer that is running.

        Args:
            module: the attention module that called the attention function.
            attention: its queries, keys and mask.
            value: `(B, H or fewer, N, d)`.
        """
        if self._layer is not None and module is self._layer.layer.attention:
            self._layer.attention = attention
            self._layer.value = value

    def _mine(self, hook: Callable[..., None]) -> Callable[..., None]:
        """Make `hook` deaf to passes of the same model in other threads."""

        def guarded(*args: Any) -> None:
            if _active.get() is self:
                hook(*args)

        return guarded

    def _enter_stack(self, module: nn.Module, args: Any) -> None:
        self.passes += 1
        if self.passes > 1:
            raise RuntimeError(
                f"forward_func ran the encoder ({type(module).__name__}) more than once in a pass; "
                "an attribution explains one run. Split forward_func, one part for each run."
            )

    def _enter_layer(self, layer: Layer, stream: Tensor) -> None:
        self._layer = _OpenLayer(layer, stream)

    def _leave_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        layer, self._layer = self._layer, None
        if layer is None or layer.attention is None or layer.value is None:
            raise RuntimeError(
                f"{type(module).__name__} ran without calling transformers' attention interface."
            )
        if self._index == 0:
            self._real = layer.attention.visible()
        self._on_layer(layer.close(self._index, self._real))
        self._index += 1


class _OpenLayer:
    """What has been seen of a layer that is still running."""

    def __init__(self, layer: Layer, stream: Tensor) -> None:
        self.layer = layer
        self.stream = stream
        self.attention: QueryKeyAttention | None = None
        self.value: Tensor | None = None
        # Lists, because a model that works through the feed-forward network in chunks calls the
        # second norm once for each.
        self.seen: dict[str, list[Tensor]] = {"norm1": [], "norm2": []}

    def close(self, index: int, real: Tensor | None) -> LayerRecord:
        """Return the record of the layer, in the precision that it is decomposed in."""
        assert self.attention is not None
        assert self.value is not None
        dtype = torch.promote_types(self.stream.dtype, torch.float32)
        attended = torch.cat(self.seen["norm1"], dim=1).to(dtype)
        first = _normalization(self.layer.norm1, attended)
        second = _normalization(self.layer.norm2, torch.cat(self.seen["norm2"], dim=1).to(dtype))
        weight, bias = self.layer.out.weight, self.layer.out.bias
        return LayerRecord(
            index=index,
            attention=self.attention.to(dtype),
            value=self.value.to(dtype),
            output=weight.to(dtype),
            output_bias=None if bias is None else bias.to(dtype),
            stream=self.stream.to(dtype),
            attended=attended,
            after_attention=(first,),
            after_layer=(first, second),
            real=real,
        )


def _normalization(norm: nn.Module, seen: Tensor) -> Normalization:
    """Return `norm` as the linear map that it was for the vectors `(B, N, D)` it has seen."""
    variance = seen.var(dim=-1, unbiased=False)
    return Normalization(
        gain=norm.weight.to(seen.dtype),
        centred=True,
        scale=torch.rsqrt(variance + norm.eps),
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run SDPA for the model's own output, and show the active recorder what went in."""
    recorder = _active.get()
    if recorder is not None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        recorder.see_attention(
            module,
            QueryKeyAttention(
                query=query,
                key=key,
                scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
                mask=attention_mask,
                bias=position_bias,
                causal=bool(causal) and attention_mask is None,
            ),
            value,
        )
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=scaling,
        is_causal=is_causal,
        position_bias=position_bias,
        **kwargs,
    )
    return output


@contextmanager
def _recording_attention(stack: nn.Module) -> Iterator[None]:
    """Switch every part of `stack` to the recording attention function, and back."""
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    configs = {
        id(module.config): module.config
        for module in stack.modules()
        if isinstance(getattr(module, "config", None), PreTrainedConfig)
    }
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            # The key "" means this config alone, not the configs nested in it.
            config._attn_implementation = {"": ATTENTION_NAME}
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = {"": implementation}


def _lock_of(module: nn.Module) -> threading.RLock:
    """Return the lock of a module, which keeps two threads from switching its attention at once."""
    with _locks_guard:
        return _locks.setdefault(module, threading.RLock())


def _warn_of_dropout(stack: nn.Module) -> None:
    if any(isinstance(m, _DropoutNd) and m.training and m.p > 0 for m in stack.modules()):
        warnings.warn(
            "The model is in training mode and its dropout is active: scores explain one random pass. "
            "Call model.eval() first.",
            UserWarning,
            stacklevel=2,
        )
