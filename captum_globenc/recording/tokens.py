"""Check that only the attention mixes tokens, by running the encoder again with its tokens permuted.

In the second run, token i enters each layer as token `sources[i]` did in the first run, and each attention
output is replaced by the output for token `sources[i]`. If the rest of a layer processes each token on its
own, as GlobEnc assumes, every value vector and every layer output again belongs to token `sources[i]`.
`sources` is a random cycle with one token repeated, which reveals convolutions, exchanged tokens and averages
over tokens.

A hook may treat some positions differently without mixing tokens, for example add a steering vector to token
3. So if a token differs from token `sources[i]`, more runs keep half of the tokens in their places and move
the others: the vectors of the kept half must stay the same. Each binary digit of the tokens' numbers gives
two halves, 2 log2(E N) runs in all. For any two tokens, one of these runs keeps the first and moves the
second.

The check runs when the encoder, its hooks or its arguments have changed since the last check, or when a
text is much longer. B batch, E checked examples, N tokens, H heads, D hidden size, d head size.
"""

from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from captum_globenc.encoders import Encoder
from captum_globenc.encoders.search import submodules
from captum_globenc.errors import RecordingError
from captum_globenc.recording.checks import QUANTIZED_TOLERANCE, TOLERANCE
from captum_globenc.recording.layer import RunningLayer
from captum_globenc.recording.linear import is_quantized
from captum_globenc.recording.passed import Fingerprint, Passed, fingerprint_of, hooks_of, reference

KEPT_BYTES = 2**28
"""Bytes of the first run that are kept for the comparison; further examples of the batch go unchecked."""

FEW_TOKENS = 8
"""Texts of fewer tokens need two runs, and a check on them does not count for longer texts."""

STEPS = 2
"""Accepted difference between equal vectors at two positions, in steps (eps) of a low precision."""

CAUSES = (
    "the value vectors of the attention depend on other tokens than their own: an attention function of "
    "your own, or a hook, moves values between tokens",
    "the output depends on other tokens past the attention: the feed-forward network mixes tokens, or a "
    "hook on it or on a norm does",
)


class _Layer(NamedTuple):
    """The checked examples in a layer of the first run."""

    projected: Tensor  # `(E, N, D)`, output of the output projection
    compared: tuple[Tensor, Tensor]  # value vectors `(E, N, H*d)` and the layer's output `(E, N, D)`


class _Difference(NamedTuple):
    """The first layer in which a run differs from the first run."""

    layer: int
    cause: int


class TokenCheck:
    """Keep the first run of an encoder, and compare further runs with it.

    Args:
        encoder: the encoder.
        whole: whether the layers' modules are whole layers, and not their attentions only.
    """

    def __init__(self, encoder: Encoder, *, whole: bool) -> None:
        self._whole = whole
        self._layers = len(encoder.layers)
        self._quantized = is_quantized(encoder.stack)
        self._first: list[_Layer] = []
        self._stream = self._attended = torch.empty(0)
        self._real = self._order = self._sources = self._examples = self._checked = torch.empty(0)
        self._difference: _Difference | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the longest text that is checked."""
        return int(self._real.sum(1).max()) if self._first else 0

    def keep(self, layer: RunningLayer, real: Tensor | None) -> None:
        """Keep a layer of the first run.

        Args:
            layer: the layer.
            real: `(B, N)`, False at padding; None if every token is real.

        Raises:
            RecordingError: the output projection did not run.
        """
        if layer.projected is None or layer.projected.shape != layer.stream.shape:
            raise RecordingError(
                f"The output projection of {type(layer.layer.attention).__name__} did not run as a module, "
                "so it cannot be checked that only the attention mixes tokens. Choose another attention: "
                'model.set_attn_implementation("sdpa").'
            )
        if not self._first:
            batch, tokens, _ = layer.stream.shape
            real = torch.ones(batch, tokens).bool() if real is None else real.expand(batch, tokens).cpu()
            size = 3 * self._layers * layer.stream[0].numel() * layer.stream.element_size()
            longest = real.sum(1).argsort(dim=0, descending=True, stable=True)
            self._examples = longest[: max(1, KEPT_BYTES // size)]
            self._real = real[self._examples]
            random = torch.rand(self._real.shape, generator=torch.Generator().manual_seed(0))
            self._order = random.where(self._real, 2).argsort(dim=1)  # padding last
            if not self._whole:
                self._attended = self._select(torch.cat(layer.norm_inputs["norm1"], 1))
        self._first.append(_Layer(self._select(layer.projected), self._compared(layer)))

    def move_input(self, index: int, stream: Tensor) -> Tensor:
        """Return the input `(B, N, D)` of a layer with the first run's tokens moved."""
        if index and not self._whole:
            return stream  # the input of an attention, which is moved already
        self._stream = self._first[index - 1].compared[1] if index else self._select(stream)
        return self._replace(stream, self._move(self._stream))

    def move_projected(self, index: int, projected: Tensor) -> Tensor:
        """Return the output projection's output `(B, N, D)` with the first run's tokens moved."""
        moved = self._move(self._first[index].projected)
        if index == 0 and not self._whole:  # the residual connection starts before the moved input
            moved = self._move(self._attended) - self._stream
        return self._replace(projected, moved)

    def compare(self, index: int, layer: RunningLayer) -> None:
        """Compare a layer with the same layer in the first run."""
        if self._difference is not None:
            return
        for cause, (now, before) in enumerate(
            zip(self._compared(layer), self._first[index].compared, strict=True)
        ):
            expected = self._move(before)
            error = (now - expected).abs().amax(-1)
            bound = self._tolerance(now.dtype) * self._size(expected)
            wrong = ~(error <= bound).cpu() & self._checked  # also True for NaN
            if bool(wrong.any()):
                self._difference = _Difference(index, cause)
                return

    def run(self, run_again: Callable[[], None]) -> None:
        """Run the encoder again, and compare.

        Args:
            run_again: runs the encoder, and calls :meth:`move_input`, :meth:`move_projected` and
                :meth:`compare`.

        Raises:
            RecordingError: a token depends on others.
        """
        tokens = self.tokens
        if tokens < 2:
            return
        # With few tokens, the one that the cycle leaves out may be the one that matters: run twice.
        for repeated in range(2 if tokens < FEW_TOKENS else 1):
            found = self._find_difference(run_again, self._cycle(repeated), self._real)
            if found:
                break
        else:
            return
        numbers = torch.arange(self._real.numel()).view_as(self._real)
        for digit in range((self._real.numel() - 1).bit_length()):
            ones = (numbers >> digit & 1).bool()
            for fixed in (self._real & ones, self._real & ~ones):
                sources = torch.where(fixed, torch.arange(self._real.shape[1]), self._cycle())
                confirmed = self._find_difference(run_again, sources, fixed)
                if confirmed:
                    raise RecordingError(
                        f"In encoder layer {confirmed.layer}, {CAUSES[confirmed.cause]}. GlobEnc would "
                        "attribute to the wrong token. Remove it, or use TransformerDeepLift, which supports "
                        "it."
                    )

    def _find_difference(
        self, run_again: Callable[[], None], sources: Tensor, checked: Tensor
    ) -> _Difference | None:
        """Run again with tokens from `sources`, and compare the tokens in `checked`, both `(E, N)`."""
        self._sources, self._checked, self._difference = sources, checked, None
        run_again()
        return self._difference

    def _cycle(self, repeated: int | None = None) -> Tensor:
        """Return the source of each token, `(E, N)`: the next token in a random order; padding stays.

        Args:
            repeated: a position in that order that takes the token after the next instead. So one token is
                there twice and one is missing, and an average over all tokens changes.
        """
        count = self._real.sum(1, keepdim=True)
        step = torch.arange(self._real.shape[1]).expand_as(self._real)
        following = torch.where(step < count, (step + 1) % count.clamp(min=1), step)
        if repeated is not None:
            following[:, repeated] = torch.where(
                repeated < count, (repeated + 2) % count.clamp(min=1), repeated
            ).squeeze(1)
        return torch.empty_like(self._order).scatter_(1, self._order, self._order.gather(1, following))

    def _compared(self, layer: RunningLayer) -> tuple[Tensor, Tensor]:
        """Return the value vectors `(E, N, H*d)` and the output `(E, N, D)` of a layer."""
        assert layer.value is not None
        end: Sequence[Tensor | None] = [layer.output] if self._whole else layer.norm_inputs["norm2"]
        output = torch.cat([it for it in end if it is not None], 1)
        return self._select(layer.value.transpose(1, 2).flatten(2)), self._select(output)

    def _select(self, batch: Tensor) -> Tensor:
        """Return the checked examples of `(B, N, D)`; a copy, as a model may write in place."""
        return batch[self._examples.to(batch.device)]

    def _move(self, values: Tensor) -> Tensor:
        """Move the tokens of `(E, N, D)`."""
        return values.gather(1, self._sources.to(values.device)[..., None].expand_as(values))

    def _replace(self, batch: Tensor, examples: Tensor) -> Tensor:
        """Return a copy of `(B, N, D)` with the checked examples replaced."""
        return batch.index_copy(0, self._examples.to(batch.device), examples.to(batch))

    def _size(self, values: Tensor) -> Tensor:
        """Return the largest entry `(E, N)` of each token; of all tokens if they are quantized together."""
        size = values.abs().amax(-1)
        return size.max().expand_as(size) if self._quantized else size

    def _tolerance(self, dtype: torch.dtype) -> float:
        """Return the accepted difference of vectors of a dtype, relative to the largest entry."""
        if self._quantized:
            return QUANTIZED_TOLERANCE
        tolerance = max(
            TOLERANCE[torch.float64 if dtype == torch.float64 else torch.float32],
            STEPS * torch.finfo(dtype).eps,
        )
        lowered = torch.get_float32_matmul_precision() != "highest"
        return max(tolerance, TOLERANCE[torch.float16]) if lowered else tolerance


_passed = Passed()
"""For each stack that passed all checks: the tokens of the longest text."""


def has_passed(stack: nn.Module, found: Fingerprint, tokens: int) -> bool:
    """Whether the stack passed all checks as it runs now, on texts that are not much shorter."""
    longest = _passed.get(stack, found) or 0
    return longest >= tokens or FEW_TOKENS <= longest >= tokens / 2


def mark_passed(stack: nn.Module, found: Fingerprint, tokens: int) -> None:
    """Remember that the stack passed all checks on a text of `tokens` tokens."""
    _passed.add(stack, found, tokens)


def fingerprint(
    encoder: Encoder, forward: Callable[..., Any], args: Any, kwargs: Any, ours: Set[int]
) -> Fingerprint:
    """Return all that decides how a stack of layers runs: modules, hooks, functions and arguments.

    Args:
        encoder: the encoder.
        forward: the forward function of its stack.
        args: the stack's positional arguments.
        kwargs: the stack's keyword arguments.
        ours: ids of the recorder's hooks, which do not count.
    """
    spec = encoder.spec
    return [
        reference(forward),
        *fingerprint_of(submodules(encoder.stack), encoder.stack, ours),
        _signature(args),
        _signature(kwargs),
        spec.layers,
        spec.roles,
        spec.order,
        spec.layer_scale,
    ]


def has_hooks(stack: nn.Module, ours: Set[int]) -> bool:
    """Return whether others than the recorder have hooks on the modules of a stack, or on all modules."""
    everywhere = torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    return bool(everywhere) or any(any(hooks_of(module, ours)) for module in submodules(stack))


def _signature(arguments: Any) -> Any:
    """Return the dtypes and dimensions of tensors, values of booleans and strings, types of all others."""
    named = arguments if isinstance(arguments, dict) else dict(enumerate(arguments))
    return {
        name: (it.dtype, it.ndim)
        if isinstance(it, Tensor)
        else it
        if isinstance(it, bool | str)
        else type(it)
        for name, it in named.items()
    }
