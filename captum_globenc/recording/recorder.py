"""The recorder: one forward pass of the user's own model, seen through hooks.

Yields one :class:`~captum_globenc.decomposition.record.LayerRecord` per encoder layer, in order, as it
happens, and leaves the model exactly as it was. B batch, H heads, N tokens, d head size.
"""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import full_precision
from captum_globenc.differences.uncompiled import uncompiled
from captum_globenc.encoders import Encoder, Layer
from captum_globenc.errors import RecordingError
from captum_globenc.recording.adding_up import Sums
from captum_globenc.recording.calls import around, bound_arguments, copied_as_before
from captum_globenc.recording.fused import active, without_fused_attention
from captum_globenc.recording.layer import OpenLayer
from captum_globenc.recording.linear import refuse_meta
from captum_globenc.recording.norms import NormCheck
from captum_globenc.recording.padding import real_tokens
from captum_globenc.recording.residuals import SumWatcher, carries
from captum_globenc.recording.streams import StreamCheck, Written
from captum_globenc.recording.tokens import FEW_TOKENS, TokenCheck
from captum_globenc.recording.training import warn_of_dropout
from captum_globenc.recording.unchanged import Fingerprint, fingerprint, has_hooks
from captum_globenc.recording.watcher import AttentionWatcher

Output = TypeVar("Output")

_locks: "weakref.WeakKeyDictionary[nn.Module, threading.RLock]" = weakref.WeakKeyDictionary()
_locks_guard = threading.Lock()

_checked: "weakref.WeakKeyDictionary[nn.Module, tuple[Fingerprint, int]]" = weakref.WeakKeyDictionary()
"""How each stack of layers ran when all checks passed, and the length of the longest text they passed on."""


def record(
    forward: Callable[[], Output],
    encoder: Encoder,
    on_layer: Callable[[LayerRecord], None],
    *,
    check: bool = True,
    again: bool = False,
) -> Output:
    """Run `forward` once, without gradients or compilation, and hand over each encoder layer when it is done.

    Args:
        forward: runs the model that holds the encoder.
        encoder: the encoder to watch.
        on_layer: called with the record of every layer as soon as the layer has run, up to the first
            error. What is found to be wrong is raised when `forward` has returned, so that nothing on
            its way is left undone.
        check: whether to check what was recorded: parts of each layer sum to what it wrote, residual
            connections carry each token unscaled, norms and streams are what they are taken for.
        again: whether to run the encoder again, too, to check that its attention alone mixes tokens (see
            :mod:`captum_globenc.recording.tokens`). Only done where it was not checked before as it is now.

    Returns:
        What `forward` returned.

    Raises:
        ValueError: weights are on the meta device.
        RecordingError: `forward` never ran the encoder, or ran it more than once; the attention cannot be
            seen; or a check failed.
    """
    refuse_meta(part for layer in encoder.layers for part in (layer.out, layer.norm1, layer.norm2))
    # Where something drops at random, which is warned of, nothing adds up.
    recorder = Recorder(encoder, on_layer, check=not warn_of_dropout(encoder.stack) and check, again=again)
    with ExitStack() as stack:
        stack.enter_context(_lock_of(encoder.stack))
        stack.callback(active.reset, active.set(recorder))
        stack.enter_context(recorder.hooks())
        stack.enter_context(without_fused_attention(encoder.stack))
        stack.enter_context(uncompiled())
        stack.enter_context(torch.no_grad())
        output = forward()
    recorder.look()
    if recorder.error is not None:
        raise recorder.error
    if recorder.passes == 0:
        raise RecordingError(
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
        check: whether to check what was recorded.
        again: whether to run the encoder again for a check, too.
    """

    def __init__(
        self,
        encoder: Encoder,
        on_layer: Callable[[LayerRecord], None],
        *,
        check: bool = True,
        again: bool = False,
    ) -> None:
        self.passes = 0
        self.error: Exception | None = None
        self._encoder = encoder
        self._on_layer = on_layer
        self._check = check
        self._again = check and again
        self._summing = ExitStack()
        self._mask: Any = None
        self._real: Tensor | None = None
        self._layer: OpenLayer | None = None
        self._watching = ExitStack()
        self._seen_by_final_norm: Tensor | None = None
        self._index = 0
        # What is looked at when all is done, because looking waits for the device.
        self._totals: list[Tensor] = []
        self._sums: Sums | None = None
        norms = chain(*((layer.norm1, layer.norm2) for layer in encoder.layers), [encoder.final_norm])
        self._norms = NormCheck(norms if check else (), encoder.spec.centred)
        # Where parts of layers are found from the stack, a layer's module is but one of them.
        whole = not any("*" in path for path in encoder.spec.roles.values())
        self._streams = StreamCheck() if check and whole else None
        self._whole = whole
        self._sums_of_two = SumWatcher() if check else None
        self._runs_as: Fingerprint = []
        self._tokens: TokenCheck | None = None
        self._compares = False  # whether the stack runs again, to be compared with its first run
        self._longest = 0  # tokens of the longest text that was found to be right in this pass
        self._ours: set[int] = set()
        self._moved: RecordingError | None = None  # of the first layer whose residual connections do not hold

    def look(self) -> None:
        """Raise the error of the first layer in which something was found to be wrong.

        Raises:
            ValueError: something is not finite.
            RecordingError: parts do not add up.
        """
        if not self._totals:
            return
        device = self._totals[0].device
        flags = [~torch.stack([it.to(device) for it in self._totals]).isfinite()]
        missed = None if self._sums is None else self._sums.missed()
        if missed is not None:
            flags.append(missed[0].to(device))
        found = torch.cat(flags).tolist()
        count = len(self._totals)
        # The last layer may have no sum, where an error came before it.
        for number, (infinite, wrong) in enumerate(zip_longest(found[:count], found[count:])):
            if infinite:
                raise not_finite(number)
            if wrong and missed is not None:
                raise missed[1](number)
        self._norms.check()
        if self._moved is not None:
            raise self._moved
        if self._streams is not None:
            self._streams.check()
        if self._longest and self.error is None:
            _checked[self._encoder.stack] = self._runs_as, self._longest

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Hold this recorder's hooks on the encoder's modules, and none after."""
        stack, layers, final = self._encoder.stack, self._encoder.layers, self._encoder.final_norm
        ours = self._ours
        parts = [(it.module, it.attention, it.norm1, it.norm2, it.out) for it in layers]
        with ExitStack() as handles:

            def hold(handle: RemovableHandle) -> None:
                ours.add(handle.id)
                handles.enter_context(handle)

            handles.enter_context(copied_as_before([stack, final, *chain(*parts)], ours))
            handles.enter_context(around(stack, self._run_stack))
            for layer in layers:
                module, attention = layer.module, layer.attention
                enter = self._mine(self._enter_layer, layer)
                hold(module.register_forward_pre_hook(enter, with_kwargs=True))
                hold(module.register_forward_hook(self._mine(self._leave_layer), prepend=True))
                hold(module.register_forward_hook(self._mine(self._see_returned)))
                for role in ("norm1", "norm2"):
                    norm: nn.Module = getattr(layer, role)
                    hold(norm.register_forward_pre_hook(self._mine(self._see_norm, role)))
                hold(layer.norm1.register_forward_hook(self._mine(self._see_normed), prepend=True))
                hold(layer.out.register_forward_hook(self._mine(self._see_written)))
                hold(attention.register_forward_pre_hook(self._mine(self._enter_attention)))
                hold(attention.register_forward_hook(self._leave_attention, always_call=True))
            hold(final.register_forward_pre_hook(self._mine(self._see_final_norm)))
            for norm in self._norms.doubtful:
                hold(norm.register_forward_hook(self._mine(self._norms.see)))
            # An interrupt calls no hooks.
            handles.enter_context(self._summing)
            handles.enter_context(self._watching)
            yield

    def _enter_attention(self, module: nn.Module, args: Any) -> None:
        if self._layer is not None:
            batch, tokens = self._layer.stream.shape[:2]
            self._watching.enter_context(AttentionWatcher(batch, tokens, self._layer.see_attention))

    def _leave_attention(self, module: nn.Module, args: Any, output: Any) -> None:
        # After an error as well: what was entered has to be left.
        if active.get() is self:
            self._watching.close()

    def _mine(self, hook: Callable[..., Any], *first: Any) -> Callable[..., Any]:
        """Make `hook` deaf to passes of the same model in other threads, and to all after an error."""

        def guarded(*args: Any) -> Any:
            if active.get() is self and self.error is None:
                try:
                    return hook(*first, *args)
                except Exception as error:
                    self.error = error
            return None

        return guarded

    def _run_stack(self, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run the stack in place of its own forward, and again where its tokens were not checked before."""
        if active.get() is not self or self.error is not None:
            return forward(*args, **kwargs)
        stack = self._encoder.stack
        self._mine(self._enter_stack)(stack, args, kwargs)
        if not self._again or self.error is not None:
            output = forward(*args, **kwargs)
            self._mine(self._leave_stack)()
            return output
        self._runs_as = [*fingerprint(stack, forward, self._ours), _given(args), _given(kwargs)]
        spec = self._encoder.spec
        self._runs_as += [spec.layers, spec.roles, spec.order, spec.layer_scale]
        # Copied first, as a model may write into what it is given.
        given = _copied((args, kwargs))
        output = forward(*args, **kwargs)
        self._mine(self._leave_stack)()
        if self._tokens is not None:

            def again() -> None:
                args, kwargs = _copied(given)
                forward(*args, **kwargs)

            self._mine(self._check_tokens, again)()
        return output

    def _unchecked(self, tokens: int) -> bool:
        """Return whether the stack was not checked as it runs now, or on much shorter texts only."""
        known, longest = _checked.get(self._encoder.stack, ([], 0))
        if known != self._runs_as:
            return True
        return longest < tokens and (longest < FEW_TOKENS or 2 * longest < tokens)

    def _check_tokens(self, again: Callable[[], None]) -> None:
        """Check that tokens are mixed by the attention alone.

        Args:
            again: runs the stack.
        """
        tokens, count = self._tokens, self._index
        assert tokens is not None

        def compared() -> None:
            self._index, self._layer = 0, None
            again()
            self._finish_layer(next_norm=self._encoder.final_norm)
            if self.error is None and self._index != count:
                raise RecordingError(
                    f"The encoder ran {count} layers, and {self._index} when it ran again on the same "
                    "inputs: what it computes is not the same in every run."
                )

        self._compares = True
        try:
            tokens.run(compared)
        finally:
            self._compares = False
            if has_hooks(self._encoder.stack, self._ours):
                # Hooks that store what they see have to see the real tokens last.
                nobody = active.set(object())
                try:
                    again()
                finally:
                    active.reset(nobody)
        self._longest = tokens.tokens

    def _enter_stack(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.passes += 1
        if self.passes > 1:
            raise RecordingError(
                f"forward_func ran the encoder ({type(module).__name__}) more than once in a pass; "
                "an attribution explains one run. Split forward_func, one part for each run."
            )
        self._mask = bound_arguments(module, args, kwargs).arguments.get("attention_mask")

    def _enter_layer(self, layer: Layer, module: nn.Module, args: Any, kwargs: Any) -> Any:
        stream = args[0] if args else kwargs["hidden_states"]
        self._finish_layer(next_norm=layer.norm1, read=stream)
        self._layer = OpenLayer(layer, stream)
        if not self._compares or self._tokens is None:
            if self._sums_of_two is not None:
                self._summing.enter_context(self._sums_of_two)
            return None
        stream = self._tokens.move(self._index, stream)
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    def _see_written(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._layer is None:
            return None
        if self._compares and self._tokens is not None:
            return self._tokens.write(self._index, output)
        self._layer.written_by_attention = output
        return None

    def _see_normed(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None and self._encoder.spec.order == "post-LN":
            self._layer.normed.append(Written(output))

    def _see_norm(self, role: str, module: nn.Module, args: Any) -> None:
        if self._layer is not None:
            self._layer.seen[role].append(args[0])
            if role == "norm2" and self._encoder.spec.order == "pre-LN":
                self._layer.read.append(Written(args[0]))

    def _see_final_norm(self, module: nn.Module, args: Any) -> None:
        self._seen_by_final_norm = args[0]

    def _leave_layer(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.output = _hidden(output)
            self._layer.written = Written(self._layer.output)

    def _see_returned(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._layer is not None:
            self._layer.returned = _hidden(output)

    def _leave_stack(self) -> None:
        self._finish_layer(next_norm=self._encoder.final_norm, seen=self._seen_by_final_norm)

    def _finish_layer(
        self, next_norm: nn.Module, read: Tensor | None = None, seen: Tensor | None = None
    ) -> None:
        """Hand over the layer that ran last, now that it is known which norm reads its output.

        Args:
            next_norm: that norm.
            read: what the next layer reads; None where there is none.
            seen: what it saw, where that is known and may be less than the output: `(B, D)` from a
                norm that reads pooled tokens, whose one deviation then holds for every token.
        """
        self._summing.close()
        layer, self._layer = self._layer, None
        if layer is None:
            return
        if self._compares and self._tokens is not None:
            self._tokens.compare(self._index, layer)
            self._index += 1
            return
        if layer.attention is None or layer.value is None:
            raise RecordingError(
                f"{type(layer.layer.attention).__name__} ran without showing its attention: neither "
                "scaled_dot_product_attention nor a softmax and its product with the values was seen. Choose "
                'another attention: model.set_attn_implementation("sdpa").'
            )
        if self._index == 0:
            shape, device = layer.stream.shape[:2], layer.stream.device
            self._real = real_tokens(layer.attention, self._mask, shape)
            if self._check:
                self._tokens = self._checked_tokens(shape[1]) if self._again else None
                self._sums = Sums(
                    shape, self._real, len(self._encoder.layers), device, every=self._tokens is not None
                )
        assert layer.output is not None
        assert layer.written is not None
        assert layer.returned is not None
        if self._streams is not None:
            self._streams.see(layer.written, layer.returned if read is None else read, self._real)
        if self._sums_of_two is not None:
            self._follow_residuals(layer)
        if self._tokens is not None:
            self._tokens.keep(layer, self._real)
        self._sum_up(layer.output)
        if seen is not None and seen.ndim == 2:
            layer.output = seen[:, None].expand_as(layer.output)
        # forward_func may have turned gradients or autocast on.
        with full_precision(layer.output):
            record = layer.record(self._encoder.spec, self._index, self._real, next_norm)
            if self._sums is not None:
                self._sums.see(record, layer.dtypes, layer.layer.out)
            self._on_layer(record)
        self._index += 1

    def _checked_tokens(self, tokens: int) -> TokenCheck | None:
        """Return what checks that tokens are mixed by attention alone; None where that is known."""
        if self._unchecked(tokens) and self._real is not None:
            tokens = int(self._real.sum(1).max())
        if not self._unchecked(tokens):
            return None
        encoder = self._encoder
        return TokenCheck(encoder.stack, whole=self._whole, layers=len(encoder.layers))

    def _follow_residuals(self, layer: OpenLayer) -> None:
        """Check both residual connections of a layer."""
        assert self._sums_of_two is not None
        assert layer.output is not None
        sums = self._sums_of_two.sums
        first, second = layer.residuals(self._encoder.spec)
        for number, part, (start, end) in (
            ("first", "attention", first),
            ("second", "feed-forward network", second),
        ):
            if not carries(start, end, sums, self._real):
                self._moved = self._moved or RecordingError(
                    f"The {number} residual connection of encoder layer {self._index} does not carry each "
                    f"token unscaled past the {part}: a hook exchanges or scales tokens, or the layer is not "
                    "built like those of its family. GlobEnc would attribute to the wrong token. Take it "
                    "off, or use TransformerDeepLift, which sees it."
                )
        sums.clear()

    def _sum_up(self, output: Tensor) -> None:
        # A sum is not finite where a term is not, and takes a tenth of the time.
        kind = torch.promote_types(output.dtype, torch.float32)
        if self._real is None:
            total = output.sum(dtype=kind)
        else:  # what stands at padding is nobody's
            total = output.sum(dim=-1, dtype=kind).where(self._real, 0).sum()
        self._totals.append(total)


def _given(arguments: Any) -> Any:
    """Return the dtypes and dimensions of tensors among arguments, and which others are given."""
    named = arguments if isinstance(arguments, dict) else dict(enumerate(arguments))
    return {
        name: (it.dtype, it.ndim)
        if isinstance(it, Tensor)
        else it
        if isinstance(it, bool | str)
        else type(it)
        for name, it in named.items()
    }


def _copied(arguments: Any) -> Any:
    """Return arguments with copies of their tensors."""
    return tree_map_only(Tensor, torch.clone, arguments)


def _hidden(output: Any) -> Any:
    """Return the hidden states among what a layer returns."""
    return output[0] if isinstance(output, tuple) else output


def _lock_of(module: nn.Module) -> threading.RLock:
    """Return the lock of a module, which keeps two threads from hooking into it at once."""
    with _locks_guard:
        return _locks.setdefault(module, threading.RLock())
