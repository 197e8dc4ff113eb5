"""Check that values and the rest of each layer depend on their own token alone, by running the stack again.

In the second run every token takes the place of another of its text: token i enters each layer as token
`sources[i]` did in the first run, and the output of each attention is replaced by that of token `sources[i]`.
If all else in a layer works on each token separately, as GlobEnc assumes, then every value vector and every
layer output is again that of token `sources[i]`. `sources` is a random cycle with one token repeated, so that
convolutions, exchanged tokens and averages over tokens all show.

A hook may also treat some positions differently without mixing tokens, such as one that adds a steering
vector to token 3. So where token i differs most from token `sources[i]`, two more runs keep one of the two in
its place and move all others: its vectors must stay the same.

B batch, E examples that are checked, N tokens, H heads, D hidden size, d head size.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from captum_globenc.errors import RecordingError
from captum_globenc.recording.adding_up import ALLOWED, ALLOWED_IN_INTEGERS, rounds_to_integers
from captum_globenc.recording.layer import OpenLayer

__all__ = ["TokenCheck"]

KEPT = 2**28
"""Bytes of the first run that are kept for the comparison; further examples of the batch go unchecked."""

FEW_TOKENS = 8
"""Texts of fewer tokens need two runs, and do not stand for longer ones."""

STEPS = 2
"""Steps of a low precision by which a vector may differ from the same one at another place of the batch."""

CAUSES = (
    "the value vectors of the attention depend on other tokens than their own: an attention function of "
    "your own, or a hook, moves values between tokens",
    "the output depends on other tokens past the attention: the feed-forward network mixes tokens, or a "
    "hook on it or on a norm does",
)


class _Layer(NamedTuple):
    """What the checked examples had in a layer of the first run."""

    written: Tensor  # `(E, N, D)` by the output projection
    compared: tuple[Tensor, Tensor]  # value vectors `(E, N, H*d)` and the layer's output `(E, N, D)`


class _Difference(NamedTuple):
    """The first layer in which something differs, and where it differs most."""

    layer: int
    cause: int
    excess: Tensor  # `(E, N)`, differences in units of the tolerance


class TokenCheck:
    """Keeps the first run of the stack, and compares further runs with it.

    Args:
        stack: runs the layers.
        whole: whether the modules of layers are whole layers, and not their attentions only.
        layers: how many layers run.
    """

    def __init__(self, stack: nn.Module, *, whole: bool, layers: int) -> None:
        self._whole = whole
        self._layers = layers
        self._rounds = rounds_to_integers(stack)
        self._first: list[_Layer] = []
        self._stream = self._attended = torch.empty(0)
        self._real = self._order = self._sources = self._examples = self._judged = torch.empty(0)
        self._difference: _Difference | None = None

    @property
    def tokens(self) -> int:
        """Tokens of the longest text that is checked."""
        return int(self._real.sum(1).max()) if self._first else 0

    def keep(self, layer: OpenLayer, real: Tensor | None) -> None:
        """Keep a layer of the first run.

        Args:
            layer: what was seen of it.
            real: `(B, N)`, False at padding; None where every token is real.

        Raises:
            RecordingError: the output projection was not seen to run.
        """
        if layer.written_by_attention is None or layer.written_by_attention.shape != layer.stream.shape:
            raise RecordingError(
                f"The output projection of {type(layer.layer.attention).__name__} did not run as a module, "
                "so it cannot be checked that tokens are mixed by the attention alone. Choose another "
                'attention: model.set_attn_implementation("sdpa").'
            )
        if not self._first:
            batch, tokens, _ = layer.stream.shape
            real = torch.ones(batch, tokens).bool() if real is None else real.expand(batch, tokens).cpu()
            size = 3 * self._layers * layer.stream[0].numel() * layer.stream.element_size()
            longest = real.sum(1).argsort(dim=0, descending=True, stable=True)
            self._examples = longest[: max(1, KEPT // size)]
            self._real = real[self._examples]
            random = torch.rand(self._real.shape, generator=torch.Generator().manual_seed(0))
            self._order = random.where(self._real, 2).argsort(dim=1)  # padding last
            if not self._whole:
                self._attended = self._taken(torch.cat(layer.seen["norm1"], 1))
        self._first.append(_Layer(self._taken(layer.written_by_attention), self._compared(layer)))

    def move(self, index: int, stream: Tensor) -> Tensor:
        """Return the input of a layer `(B, N, D)` with its tokens moved, or as in the first run."""
        if index and not self._whole:
            return stream  # of an attention whose input is moved already
        self._stream = self._first[index - 1].compared[1] if index else self._taken(stream)
        return self._put(stream, self._moved(self._stream))

    def write(self, index: int, written: Tensor) -> Tensor:
        """Return what the output projection of a layer has to return, given what it returned, `(B, N, D)`."""
        new = self._moved(self._first[index].written)
        if index == 0 and not self._whole:  # the residual connection passes the module whose input was moved
            new = self._moved(self._attended) - self._stream
        return self._put(written, new)

    def compare(self, index: int, layer: OpenLayer) -> None:
        """Compare a layer with that of the first run."""
        if self._difference is not None:
            return
        for cause, (now, before) in enumerate(
            zip(self._compared(layer), self._first[index].compared, strict=True)
        ):
            expected = self._moved(before)
            apart = (now - expected).abs().amax(-1)
            bound = self._allowed(now.dtype) * self._size(expected)
            excess = (apart / bound).where(apart > 0, 0).nan_to_num(torch.inf).cpu().where(self._judged, 0)
            if bool((excess > 1).any()):
                self._difference = _Difference(index, cause, excess)
                return

    def run(self, again: Callable[[], None]) -> None:
        """Run the stack again, and compare.

        Args:
            again: runs the stack, and calls :meth:`move`, :meth:`write` and :meth:`compare`.

        Raises:
            RecordingError: a token depends on others.
        """
        tokens = self.tokens
        if tokens < 2:
            return
        places = torch.arange(self._real.shape[1])
        # A text of few tokens runs twice, as the one token that moves nowhere may be the one that matters.
        for repeated in range(2 if tokens < FEW_TOKENS else 1):
            found = self._differs(again, self._cycle(repeated), self._real)
            if found is not None:
                break
        else:
            return
        example, worst = divmod(int(found.excess.argmax()), len(places))
        for kept in (worst, int(self._sources[example, worst])):
            fixed = torch.zeros_like(self._real)
            fixed[example, kept] = True
            confirmed = self._differs(again, torch.where(fixed, places, self._cycle()), fixed)
            if confirmed is not None:
                raise RecordingError(
                    f"In encoder layer {confirmed.layer}, {CAUSES[confirmed.cause]}. GlobEnc would attribute "
                    "to the wrong token. Take it off, or use TransformerDeepLift, which sees it."
                )

    def _differs(self, again: Callable[[], None], sources: Tensor, judged: Tensor) -> _Difference | None:
        self._sources, self._judged, self._difference = sources, judged, None
        again()
        return self._difference

    def _cycle(self, repeated: int | None = None) -> Tensor:
        """Return `(E, N)`, from which token each comes: the next one in a random order; padding stays.

        Args:
            repeated: which token of that order comes from the one after the next instead, so that one
                token is there twice and one is missing. An average over tokens is the same otherwise.
        """
        count = self._real.sum(1, keepdim=True)
        step = torch.arange(self._real.shape[1]).expand_as(self._real)
        following = torch.where(step < count, (step + 1) % count.clamp(min=1), step)
        if repeated is not None:
            following[:, repeated] = torch.where(
                repeated < count, (repeated + 2) % count.clamp(min=1), repeated
            ).squeeze(1)
        return torch.empty_like(self._order).scatter_(1, self._order, self._order.gather(1, following))

    def _compared(self, layer: OpenLayer) -> tuple[Tensor, Tensor]:
        assert layer.value is not None
        end: Sequence[Tensor | None] = [layer.output] if self._whole else layer.seen["norm2"]
        output = torch.cat([it for it in end if it is not None], 1)
        return self._taken(layer.value.transpose(1, 2).flatten(2)), self._taken(output)

    def _taken(self, whole: Tensor) -> Tensor:
        """Return the checked examples of `(B, N, D)`; a copy, as a model may write in place."""
        return whole[self._examples.to(whole.device)]

    def _moved(self, values: Tensor) -> Tensor:
        """Move the tokens of `(E, N, D)`."""
        return values.gather(1, self._sources.to(values.device)[..., None].expand_as(values))

    def _put(self, whole: Tensor, examples: Tensor) -> Tensor:
        """Return a copy of `(B, N, D)` with the checked examples replaced."""
        return whole.index_copy(0, self._examples.to(whole.device), examples.to(whole))

    def _size(self, values: Tensor) -> Tensor:
        """Return the largest entry of each token, `(E, N)`; of all where they are rounded together."""
        size = values.abs().amax(-1)
        return size.max().expand_as(size) if self._rounds else size

    def _allowed(self, dtype: torch.dtype) -> float:
        """Return how far vectors of a dtype may be apart, as a share of the largest entry."""
        if self._rounds:
            return ALLOWED_IN_INTEGERS
        allowed = max(
            ALLOWED[torch.float64 if dtype == torch.float64 else torch.float32],
            STEPS * torch.finfo(dtype).eps,
        )
        lowered = torch.get_float32_matmul_precision() != "highest"
        return max(allowed, ALLOWED[torch.float16]) if lowered else allowed
