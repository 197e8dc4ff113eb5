"""The recorder: one forward pass of the user's own model, seen through hooks.

Yields one :class:`~captum_globenc.decomposition.record.LayerRecord` per encoder layer, in order, as it
happens, and leaves the model exactly as it was. B batch, H heads, N tokens, d head size.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.attention import Attention, GivenAttention
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import full_precision
from captum_globenc.encoders import Encoder, Layer
from captum_globenc.recording.calls import around, ask_for_probabilities, bound_arguments
from captum_globenc.recording.interface import active, recording_attention
from captum_globenc.recording.layer import OpenLayer
from captum_globenc.recording.padding import real_tokens
from captum_globenc.recording.training import warn_of_dropout

Output = TypeVar("Output")

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
        stack.callback(active.reset, active.set(recorder))
        stack.enter_context(recorder.hooks())
        if not encoder.spec.value:
            stack.enter_context(recording_attention(encoder.stack))
        stack.enter_context(torch.no_grad())
        warn_of_dropout(encoder.stack)
        output = forward()
    if recorder.passes == 0:
        raise RuntimeError(
            f"forward_func never ran the encoder ({type(encoder.stack).__name__}) of `model`. "
            "Pass the model that forward_func really calls."
        )
    return output


def not_finite(layer: int) -> ValueError:
    """Return the error that names a layer in which something is NaN or infinite."""
    return ValueError(
        f"NaN or infinity in encoder layer {layer}: its inputs, weights or outputs are not finite, so no "
        "scores can be given. Look at the model's hidden states there."
    )


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
        self._mask: Any = None
        self._real: Tensor | None = None
        self._layer: OpenLayer | None = None
        self._seen_by_final_norm: Tensor | None = None
        self._index = 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hold this recorder's hooks on the encoder's modules, and none after."""
        stack, layers = self._encoder.stack, self._encoder.layers
        with ExitStack() as handles:
            hold = handles.enter_context
            hold(around(stack, self._mine(self._enter_stack), self._mine(self._leave_stack)))
            for layer in layers:
                module = layer.module
                enter = self._mine(self._enter_layer, layer)
                hold(module.register_forward_pre_hook(enter, with_kwargs=True))
                hold(module.register_forward_hook(self._mine(self._leave_layer)))
                for role in ("norm1", "norm2"):
                    norm: nn.Module = getattr(layer, role)
                    hold(norm.register_forward_pre_hook(self._mine(self._see_norm, role)))
                if layer.value is not None:
                    ask = self._mine(ask_for_probabilities)
                    hold(layer.attention.register_forward_pre_hook(ask, with_kwargs=True))
                    hold(layer.attention.register_forward_hook(self._mine(self._see_probabilities)))
                    hold(layer.value.register_forward_hook(self._mine(self._see_value)))
            see_final = self._mine(self._see_final_norm)
            hold(self._encoder.final_norm.register_forward_pre_hook(see_final))
            yield

    def see_attention(self, module: nn.Module, attention: Attention, value: Tensor) -> None:
        """Take note of the attention of the layer that is running.

        Args:
            module: the attention module that called the attention function.
            attention: its queries, keys and mask.
            value: `(B, H or fewer, N, d)`.
        """
        if self._layer is not None and module is self._layer.layer.attention:
            tokens, keys = self._layer.stream.shape[1], attention.tokens
            if keys != tokens:
                raise ValueError(
                    f"{type(module).__name__} attends to {keys} keys for {tokens} tokens: what a cache or "
                    "prefix tuning adds belongs to no token, and cannot be scored."
                )
            self._layer.attention = attention
            self._layer.value = value

    def _mine(self, hook: Callable[..., Any], *first: Any) -> Callable[..., Any]:
        """Make `hook` deaf to passes of the same model in other threads."""

        def guarded(*args: Any) -> Any:
            return hook(*first, *args) if active.get() is self else None

        return guarded

    def _enter_stack(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.passes += 1
        if self.passes > 1:
            raise RuntimeError(
                f"forward_func ran the encoder ({type(module).__name__}) more than once in a pass; "
                "an attribution explains one run. Split forward_func, one part for each run."
            )
        if self._encoder.spec.value:
            self._mask = bound_arguments(module, args, kwargs).arguments.get("attention_mask")

    def _enter_layer(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._finish_layer(next_norm=layer.norm1)
        self._layer = OpenLayer(layer, args[0] if args else kwargs["hidden_states"])

    def _see_norm(self, role: str, module: nn.Module, args: Any) -> None:
        if self._layer is not None:
            self._layer.seen[role].append(args[0])

    def _see_final_norm(self, module: nn.Module, args: Any) -> None:
        self._seen_by_final_norm = args[0]

    def _see_probabilities(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.attention = GivenAttention(output[1])

    def _see_value(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._layer is not None:
            self._layer.value = output

    def _leave_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.output = output[0] if isinstance(output, tuple) else output

    def _leave_stack(self) -> None:
        self._finish_layer(next_norm=self._encoder.final_norm, seen=self._seen_by_final_norm)

    def _finish_layer(self, next_norm: nn.Module, seen: Tensor | None = None) -> None:
        """Hand over the layer that ran last, now that it is known which norm reads its output.

        Args:
            next_norm: that norm.
            seen: what it saw, where that is known and may be less than the output: `(B, D)` from a
                norm that reads pooled tokens, whose one deviation then holds for every token.
        """
        layer, self._layer = self._layer, None
        if layer is None:
            return
        if layer.attention is None or layer.value is None:
            raise RuntimeError(
                f"{type(layer.layer.attention).__name__} ran without showing its attention: it does not "
                "call transformers' attention interface."
            )
        if self._index == 0:
            self._real = real_tokens(layer.attention, self._mask)
        assert layer.output is not None
        self._check_finite(layer.output)
        if seen is not None and seen.ndim == 2:
            layer.output = seen[:, None].expand_as(layer.output)
        # forward_func may have turned gradients or autocast on.
        with full_precision(layer.output):
            self._on_layer(layer.record(self._encoder.spec, self._index, self._real, next_norm))
        self._index += 1

    def _check_finite(self, output: Tensor) -> None:
        if bool(output.sum().isfinite()):  # nearly always, and ten times as fast
            return
        finite = output.isfinite().all(dim=-1)
        if self._real is not None:
            finite = finite | ~self._real  # what stands at padding is nobody's
        if not bool(finite.all()):
            raise not_finite(self._index)


def _lock_of(module: nn.Module) -> threading.RLock:
    """Return the lock of a module, which keeps two threads from hooking into it at once."""
    with _locks_guard:
        return _locks.setdefault(module, threading.RLock())
