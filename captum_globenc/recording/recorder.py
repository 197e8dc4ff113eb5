"""Record one forward pass of the user's own model through hooks.

Yields one :class:`~captum_globenc.decomposition.record.LayerRecord` per encoder layer, in order, as soon as
the layer has run, or one for several layers that are stacked; leaves the model exactly as it was. B batch,
H heads, N tokens, D hidden size, d head size.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import TileBudget, full_precision
from captum_globenc.differences.run import uncompiled
from captum_globenc.encoders import Encoder, Layer
from captum_globenc.errors import RecordingError
from captum_globenc.recording.attention import (
    AttentionWatcher,
    active_recorder,
    real_tokens,
    without_fused_attention,
)
from captum_globenc.recording.checks import FiniteCheck, raise_first_failure
from captum_globenc.recording.dropout import warn_of_dropout
from captum_globenc.recording.hooks import (
    bound_arguments,
    hidden_from_copies,
    layer_input,
    layer_output,
    replaced_forward,
    with_layer_input,
)
from captum_globenc.recording.layer import LayerParts, LayerStack, RunningLayer
from captum_globenc.recording.linear import NormCheck, reject_meta
from captum_globenc.recording.passed import Fingerprint
from captum_globenc.recording.reconstruction import ReconstructionCheck
from captum_globenc.recording.residuals import ResidualCheck, StreamCheck, VersionedTensor
from captum_globenc.recording.tokens import TokenCheck, fingerprint, has_hooks, has_passed, mark_passed

Output = TypeVar("Output")

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()


def record(
    forward: Callable[[], Output],
    encoder: Encoder,
    on_layer: Callable[[LayerRecord], None],
    *,
    check: bool = True,
    check_tokens: bool = False,
    budget: TileBudget | None = None,
) -> Output:
    """Run `forward` once, without gradients or compilation, and pass on the record of each encoder layer.

    Args:
        forward: runs the model that holds the encoder.
        encoder: the encoder to record.
        on_layer: called with the record of each layer as soon as the layer has run, up to the first error.
            Errors are raised after `forward` has returned, so that nothing in it is interrupted.
        check: whether to check the recording: the decomposition of each layer sums to its output, residual
            connections carry each token unscaled, norms return what their family's do, and each layer reads
            what the previous one wrote.
        check_tokens: whether to also check that only the attention mixes tokens, by running the encoder
            again (see :mod:`captum_globenc.recording.tokens`); skipped if it has passed before.
        budget: if given, successive layers that fit into a tile together are stacked into one record, in
            passes that do not check tokens.

    Returns:
        What `forward` returned.

    Raises:
        ValueError: weights are on the meta device, or a layer is NaN or infinite.
        RecordingError: `forward` never ran the encoder, or ran it more than once; the attention cannot be
            recorded; or a check failed.
    """
    reject_meta(part for layer in encoder.layers for part in (layer.out, layer.norm1, layer.norm2))
    # With active dropout, which is warned of, no check can pass.
    check = not warn_of_dropout(encoder.stack) and check
    recorder = Recorder(encoder, on_layer, check=check, check_tokens=check_tokens, budget=budget)
    with ExitStack() as stack:
        stack.enter_context(lock_of(encoder.stack))
        stack.callback(active_recorder.reset, active_recorder.set(recorder))
        stack.enter_context(recorder.hooks())
        stack.enter_context(without_fused_attention(encoder.stack))
        stack.enter_context(uncompiled())
        stack.enter_context(torch.no_grad())
        output = forward()
    recorder.finish()
    return output


class Recorder:
    """Collect what one layer after the other does during one forward pass; see :func:`record`."""

    def __init__(
        self,
        encoder: Encoder,
        on_layer: Callable[[LayerRecord], None],
        *,
        check: bool = True,
        check_tokens: bool = False,
        budget: TileBudget | None = None,
    ) -> None:
        self._encoder = encoder
        self._on_layer = on_layer
        self._budget = budget
        self._error: Exception | None = None
        self._passes = 0
        self._hook_ids: set[int] = set()
        # State of the pass. The stack holds the mode while a layer runs.
        self._index = 0
        self._layer: RunningLayer | None = None
        self._modes = ExitStack()
        self._mode = LayerMode()
        self._mask: Any = None
        self._real: Tensor | None = None
        self._written: VersionedTensor | None = None  # output of the last layer that returned
        self._final_norm_inputs: list[Tensor] = []
        self._stack: LayerStack | None = None
        # ALBERT runs one layer several times.
        configured = getattr(getattr(encoder.stack, "config", None), "num_hidden_layers", None)
        self._expected = max(len(encoder.layers), configured or 0)
        # Checks that are read after the pass.
        norms = chain(*((layer.norm1, layer.norm2) for layer in encoder.layers), [encoder.final_norm])
        # If parts of the layers are found from the stack, a layer's module is only one of these parts.
        self._whole_layers = not any("*" in path for path in encoder.spec.roles.values())
        self._check = check
        self._finite = FiniteCheck()
        self._reconstruction: ReconstructionCheck | None = None
        self._norms = NormCheck(norms if check else (), encoder.spec.centred)
        self._residuals = ResidualCheck() if check else None
        self._streams = StreamCheck() if check and self._whole_layers else None
        self._final_stream = StreamCheck() if check and self._whole_layers else None
        # The check that runs the encoder again.
        self._check_tokens = check and check_tokens
        self._fingerprint: Fingerprint = []
        self._tokens: TokenCheck | None = None
        self._rerun: TokenCheck | None = None  # the check while it runs the encoder again
        self._passed_tokens = 0  # tokens of the longest text that passed it

    def finish(self) -> None:
        """Raise the error of the pass, or of the first layer that failed a check.

        Raises:
            ValueError: something is not finite.
            RecordingError: a check failed, or the encoder did not run.
        """
        # A backbone may apply its norm to the outputs of several layers.
        final = self._final_stream if len(self._final_norm_inputs) == 1 else None
        checks = (self._finite, self._reconstruction, self._norms, self._residuals, self._streams, final)
        if self._finite.layers:
            raise_first_failure(it for it in checks if it is not None)
        if self._error is not None:
            raise self._error
        stack = self._encoder.stack
        if self._passed_tokens:
            mark_passed(stack, self._fingerprint, self._passed_tokens)
        if self._passes == 0:
            raise RecordingError(
                f"forward_func never ran the encoder ({type(stack).__name__}) of `model`. Pass the model "
                "that forward_func calls."
            )

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hook the encoder's modules, and remove the hooks on exit."""
        stack, layers, final = self._encoder.stack, self._encoder.layers, self._encoder.final_norm
        parts = [(it.module, it.attention, it.norm1, it.norm2, it.out) for it in layers]
        with ExitStack() as handles:

            def hold(handle: RemovableHandle) -> None:
                self._hook_ids.add(handle.id)
                handles.enter_context(handle)

            handles.enter_context(hidden_from_copies([stack, final, *chain(*parts)], self._hook_ids))
            handles.enter_context(replaced_forward(stack, self._run_stack))
            for layer in layers:
                module, attention = layer.module, layer.attention
                enter = self._guarded(self._enter_layer, layer)
                hold(module.register_forward_pre_hook(enter, with_kwargs=True))
                hold(module.register_forward_hook(self._guarded(self._leave_layer), prepend=True))
                hold(module.register_forward_hook(self._guarded(self._see_returned)))
                for role in ("norm1", "norm2"):
                    norm: nn.Module = getattr(layer, role)
                    hold(norm.register_forward_pre_hook(self._guarded(self._see_norm_input, role)))
                hold(layer.norm1.register_forward_hook(self._guarded(self._see_norm1_output), prepend=True))
                hold(layer.out.register_forward_hook(self._guarded(self._see_projected)))
                hold(attention.register_forward_pre_hook(self._guarded(self._enter_attention)))
                hold(attention.register_forward_hook(self._leave_attention, always_call=True))
            hold(final.register_forward_pre_hook(self._guarded(self._see_final_norm_input)))
            for norm in self._norms.norms:
                hold(norm.register_forward_hook(self._guarded(self._norms.measure)))
            # An interrupt calls no hooks, so the mode is left here.
            handles.enter_context(self._modes)
            yield

    def _guarded(self, hook: Callable[..., Any], *first: Any) -> Callable[..., Any]:
        """Ignore passes from other threads, and every call after an error."""

        def guarded(*args: Any) -> Any:
            if active_recorder.get() is self and self._error is None:
                try:
                    return hook(*first, *args)
                except Exception as error:
                    self._error = error
            return None

        return guarded

    def _run_stack(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the stack in place of its own forward, and again if its tokens have to be checked."""
        if active_recorder.get() is not self or self._error is not None:
            return forward(*args, **kwargs)
        self._guarded(self._enter_stack)(self._encoder.stack, args, kwargs)
        if not self._check_tokens or self._error is not None:
            output = forward(*args, **kwargs)
            self._guarded(self._leave_stack)()
            return output
        self._fingerprint = fingerprint(self._encoder, forward, args, kwargs, self._hook_ids)
        # Copied before the run, because a model may write to its inputs.
        copied = tree_map_only(Tensor, torch.clone, (args, kwargs))
        output = forward(*args, **kwargs)
        self._guarded(self._leave_stack)()
        if self._tokens is not None:

            def run_again() -> None:
                args, kwargs = tree_map_only(Tensor, torch.clone, copied)
                forward(*args, **kwargs)

            self._guarded(self._run_token_check, self._tokens, run_again)()
        return output

    def _run_token_check(self, check: TokenCheck, run_again: Callable[[], None]) -> None:
        """Compare further runs of the stack with the first run, which `check` holds."""
        count = self._index

        def compare() -> None:
            self._index, self._layer = 0, None
            run_again()
            self._finish_layer(next_norm=self._encoder.final_norm)
            if self._error is None and self._index != count:
                raise RecordingError(
                    f"The encoder ran {count} layers, and {self._index} when it ran again on the same "
                    "inputs. Scores need an encoder that computes the same in every run."
                )

        self._rerun = check
        try:
            check.run(compare)
        finally:
            self._rerun = None
            if has_hooks(self._encoder.stack, self._hook_ids):
                # The user's hooks that store tensors must see the real tokens last.
                token = active_recorder.set(object())
                try:
                    run_again()
                finally:
                    active_recorder.reset(token)
        self._passed_tokens = check.tokens

    def _enter_stack(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self._passes += 1
        if self._passes > 1:
            raise RecordingError(
                f"forward_func ran the encoder ({type(module).__name__}) more than once in a pass; an "
                "attribution explains one run. Split forward_func, one part for each run."
            )
        self._mask = bound_arguments(module, args, kwargs).arguments.get("attention_mask")

    def _leave_stack(self) -> None:
        norm_input = self._final_norm_inputs[-1] if self._final_norm_inputs else None
        self._finish_layer(next_norm=self._encoder.final_norm, norm_input=norm_input)

    def _enter_layer(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any) -> Any:
        stream = layer_input(args, kwargs)
        self._finish_layer(next_norm=layer.norm1, next_input=stream)
        self._layer = RunningLayer(layer, stream)
        self._mode = self._modes.enter_context(LayerMode(self._residuals if self._rerun is None else None))
        if self._rerun is None:
            return None
        return with_layer_input(args, kwargs, self._rerun.move_input(self._index, stream))

    def _leave_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.output = layer_output(output)
            self._layer.written = VersionedTensor(self._layer.output)
            if self._rerun is None:
                self._written = self._layer.written

    def _see_returned(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.returned = layer_output(output)

    def _enter_attention(self, module: nn.Module, args: Any) -> None:
        if self._layer is not None:
            batch, tokens = self._layer.stream.shape[:2]
            self._mode.attention = AttentionWatcher(batch, tokens, self._layer.set_attention)

    def _leave_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        if active_recorder.get() is self:
            self._mode.attention = None

    def _see_projected(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._layer is None:
            return None
        if self._rerun is not None:
            return self._rerun.move_projected(self._index, output)
        self._layer.projected = output
        return None

    def _see_norm_input(self, role: str, module: nn.Module, args: Any) -> None:
        if self._layer is not None:
            self._layer.norm_inputs[role].append(args[0])
            if role == "norm2" and self._encoder.spec.order == "pre-LN":
                self._layer.second_start.append(VersionedTensor(args[0]))

    def _see_norm1_output(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None and self._encoder.spec.order == "post-LN":
            self._layer.second_start.append(VersionedTensor(output))

    def _see_final_norm_input(self, module: nn.Module, args: Any) -> None:
        if self._rerun is not None:
            return
        self._final_norm_inputs.append(args[0])
        if self._layer is not None and self._index == 0:  # the only layer is not finished yet
            self._find_padding(self._layer)
        # A norm of pooled tokens reads `(B, D)`.
        if self._final_stream is not None and self._written is not None and args[0].ndim == 3:
            self._final_stream.measure(self._written, args[0], self._real)

    def _finish_layer(
        self, next_norm: nn.Module, next_input: Tensor | None = None, norm_input: Tensor | None = None
    ) -> None:
        """Pass on the record of the last layer, now that the norm that reads its output is known.

        Args:
            next_norm: that norm.
            next_input: input of the next layer; None after the last layer.
            norm_input: input of `next_norm` after the last layer. It has shape `(B, D)` if the norm reads
                pooled tokens; its one deviation then holds for every token.
        """
        self._modes.close()
        layer, self._layer = self._layer, None
        if layer is None:
            return
        if self._rerun is not None:
            self._rerun.compare(self._index, layer)
            self._index += 1
            return
        if layer.attention is None or layer.value is None:
            raise RecordingError(
                f"The attention of {type(layer.layer.attention).__name__} was not recorded: it called "
                "neither scaled_dot_product_attention nor a softmax whose result is multiplied with the "
                'values. Choose another attention: model.set_attn_implementation("sdpa").'
            )
        if self._index == 0:
            shape, device = layer.stream.shape[:2], layer.stream.device
            self._find_padding(layer)
            if self._check:
                self._tokens = self._new_token_check(shape[1])
                self._reconstruction = ReconstructionCheck(
                    shape,
                    self._real,
                    self._expected,
                    device,
                    every_token=self._tokens is not None,
                )
        assert layer.output is not None
        assert layer.written is not None
        assert layer.returned is not None
        if self._streams is not None:
            read = layer.returned if next_input is None else next_input
            self._streams.measure(layer.written, read, self._real)
        if self._residuals is not None:
            self._residuals.measure(self._index, layer.residuals(self._encoder.spec), self._real)
        if self._tokens is not None:
            self._tokens.keep(layer, self._real)
        self._finite.measure(layer.output, self._real)
        if norm_input is not None and norm_input.ndim == 2:
            layer.output = norm_input[:, None].expand_as(layer.output)
        # forward_func may have turned gradients or autocast on.
        with full_precision(layer.output):
            self._collect(layer.parts(self._encoder.spec, next_norm))
            if next_input is None:
                self._pass_on_stack()
        self._index += 1

    def _find_padding(self, layer: RunningLayer) -> None:
        if layer.attention is not None:
            self._real = real_tokens(layer.attention, self._mask, layer.stream.shape[:2])
            self._norms.real = self._real

    def _collect(self, layer: LayerParts) -> None:
        """Add a layer to the stack, or pass on its record if no other layer fits beside it."""
        if self._stack is not None and not self._stack.takes(layer):
            self._pass_on_stack()
        if self._stack is None:
            together = None if self._tokens is not None else self._budget
            room = 1 if together is None else min(layer.room(together), self._expected - self._index)
            if room <= 1:
                self._pass_on(layer.record(self._encoder.spec, self._index, self._real), layer.constants)
                return
            self._stack = LayerStack(layer, self._index, room)
        self._stack.add(layer)
        if self._stack.is_full:
            self._pass_on_stack()

    def _pass_on_stack(self) -> None:
        """Pass on the record of the stacked layers."""
        stack, self._stack = self._stack, None
        if stack is not None:
            self._pass_on(stack.record(self._encoder.spec, self._real), stack.constants)

    def _pass_on(self, record: LayerRecord, constants: dict[str, Any]) -> None:
        """Check a record and pass it on; `constants` are the constants of its parts."""
        if self._reconstruction is not None:
            self._reconstruction.measure(record, constants["dtypes"], constants["quantized"])
        self._on_layer(record)

    def _new_token_check(self, tokens: int) -> TokenCheck | None:
        """Return a check that only the attention mixes tokens; None if it is off or has passed before."""
        if not self._check_tokens:
            return None
        stack, found = self._encoder.stack, self._fingerprint
        if not has_passed(stack, found, tokens) and self._real is not None:
            tokens = int(self._real.sum(1).max())
        if has_passed(stack, found, tokens):
            return None
        return TokenCheck(self._encoder, whole=self._whole_layers)


class LayerMode(TorchFunctionMode):
    """Observe, in this thread, the functions of torch that a layer runs.

    Args:
        residuals: sees all of them; None without the check.
    """

    def __init__(self, residuals: ResidualCheck | None = None) -> None:
        super().__init__()
        self._residuals = residuals
        self.attention: AttentionWatcher | None = None
        """Runs the functions in the attention; None outside of it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        kwargs = kwargs or {}
        attention = self.attention
        output = func(*args, **kwargs) if attention is None else attention.run(func, args, kwargs)
        if self._residuals is not None:
            self._residuals.see(func, args, kwargs, output)
        return output


def lock_of(module: nn.Module) -> threading.RLock:
    """Return the lock that keeps two threads from recording one module at once."""
    with _locks_guard:
        return _locks.setdefault(module, threading.RLock())
