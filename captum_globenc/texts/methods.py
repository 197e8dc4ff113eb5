"""The methods that texts are explained by, by name, and what they are asked.

Shapes: B texts, N tokens, L layers, D embedding dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.attr.depths import NoLayersError
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.attr.position import NoPositionError
from captum_globenc.attr.proof import ProofError
from captum_globenc.differences import NotComparableError
from captum_globenc.encoders import UnsupportedEncoderError
from captum_globenc.forward import EncoderForward, special_tokens
from captum_globenc.recording.refusal import RecordingError
from captum_globenc.results.record import Kind
from captum_globenc.texts.embeddings import OnEmbeddings, integrated_gradients

__all__ = [
    "BASELINES",
    "DEFAULT_METHODS",
    "METHODS",
    "REFUSALS",
    "Method",
    "NoLayersError",
    "Question",
]

BASELINES = ("mask", "pad", "zero")
"""What a text is compared with: all but its special tokens masked, padding, or word embeddings of zero."""

TOKENS_AT_ONCE = 1024
"""Tokens that go through a backward pass together, which bounds the memory."""

REFUSALS = (UnsupportedEncoderError, NoPositionError, NotComparableError, ProofError, RecordingError)
"""What tells that a method does not hold for a model, whatever the text."""


@dataclass(frozen=True)
class Question:
    """What is asked of every method: some texts, and the output that is explained.

    Attributes:
        model: the classifier.
        tokenizer: its tokenizer.
        batch: B texts, tokenized, with `special_tokens_mask`.
        classes: `(B,)`, the class of each text that is explained.
        against: the class that they are held against, if there is one.
        baseline: a name of `BASELINES`.
        mixing: GlobEnc's kind of mixing.
        position: `(B,)` indices of the tokens whose mixture GlobEnc explains, "mean", or None for what the
            model's head reads.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch: BatchEncoding
    classes: Tensor
    against: int | None = None
    baseline: str = "mask"
    mixing: str = "N-Enc"
    position: Tensor | Literal["mean"] | None = None

    @property
    def forward(self) -> EncoderForward:
        """The model as a forward function of ids."""
        return EncoderForward(self.model)

    @property
    def explained(self) -> nn.Module:
        """A forward function of ids to outputs `(B, C)`, each class less that which it is held against."""
        return self.forward if self.against is None else _Rather(self.forward, self.against)

    @property
    def inputs(self) -> Tensor:
        """The ids `(B, N)`."""
        return self.forward.arguments(self.batch)[0]

    @property
    def extra(self) -> tuple[Any, ...]:
        """The forward function's other arguments."""
        return self.forward.arguments(self.batch)[1]

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """What is explained, as a forward function of word embeddings `(B, N, D)` and the ids."""
        return OnEmbeddings(self.explained, self.model)

    @property
    def baselines(self) -> Tensor:
        """What the texts are compared with: ids `(B, N)`, or word embeddings `(B, N, D)`.

        Raises:
            ValueError: the tokenizer has no such token.
        """
        if self.baseline == "mask":
            return self.forward.masked(self.batch, self.tokenizer)
        kept = special_tokens(self.batch, self.tokenizer)
        if self.baseline == "zero":
            return self.over_embeddings.embed(self.inputs).masked_fill(~kept[..., None], 0)
        if self.tokenizer.pad_token_id is None:
            raise ValueError(f"the tokenizer has no padding token: choose another baseline, {_others('pad')}")
        return torch.where(kept, self.inputs, self.tokenizer.pad_token_id)

    @property
    def exact_inputs(self) -> tuple[nn.Module, Tensor, Tensor, tuple[Any, ...]]:
        """What exact differences take: a forward function, inputs, baselines, and other arguments.

        By ids where a text is masked. What else stands for no token would change what models make of ids
        themselves, which tell some where the text ends: then by what was looked up.
        """
        if self.baseline == "mask" and self.tokenizer.mask_token_id is not None:
            return self.explained, self.inputs, self.baselines, self.extra
        over, baselines = self.over_embeddings, self.baselines
        if not baselines.is_floating_point():
            baselines = over.embed(baselines)
        return over, over.embed(self.inputs), baselines, (self.inputs, *self.extra)


class _Rather(nn.Module):
    """A forward function of which each output is held against one of them: why this rather than that.

    Args:
        forward_func: returns `(B, C)`.
        other: the class that all are held against.
    """

    def __init__(self, forward_func: Callable[..., Tensor], other: int) -> None:
        super().__init__()
        self.function = forward_func
        self.other = other

    def forward(self, *arguments: Any) -> Tensor:
        outputs: Tensor = self.function(*arguments)
        return outputs - outputs[:, self.other : self.other + 1]


def _globenc(question: Question) -> Tensor:
    method = GlobEnc(question.forward, mixing=question.mixing)
    scores: Tensor = method.attribute(
        question.inputs, additional_forward_args=question.extra, position=question.position
    )
    return scores


def _globenc_layers(question: Question) -> Tensor:
    method = GlobEnc(question.forward, mixing=question.mixing)
    return method.attribute_layers(
        question.inputs, additional_forward_args=question.extra, position=question.position
    )


def _deep_lift(question: Question) -> Tensor:
    forward, *tensors, extra = question.exact_inputs
    method = TransformerDeepLift(forward)

    def run(inputs: Tensor, baselines: Tensor, classes: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = method.attribute(inputs, baselines, classes, arguments)
        return scores.sum(-1) if scores.dim() == 3 else scores

    return _in_parts(run, *tensors, question.classes, *extra)


def _deep_lift_layers(question: Question) -> Tensor:
    forward, *tensors, extra = question.exact_inputs
    method = TransformerDeepLift(forward)

    def run(inputs: Tensor, baselines: Tensor, classes: Tensor, *arguments: Tensor | None) -> Tensor:
        return method.attribute_layers(inputs, baselines, classes, arguments)

    return _in_parts(run, *tensors, question.classes, *extra)


def _decompx(question: Question) -> Tensor:
    method = DecompX(question.explained)

    def run(inputs: Tensor, classes: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = method.attribute(inputs, classes, arguments)
        return scores

    return _in_parts(run, question.inputs, question.classes, *question.extra)


def _in_parts(run: Callable[..., Tensor], *tensors: Tensor | None) -> Tensor:
    """Run some texts at a time, since a backward pass keeps what all of them went through.

    Args:
        run: from tensors to a tensor, all `(B, ...)`.
        tensors: The first `(B, N, ...)`, others `(B, ...)` or None.
    """
    first = cast("Tensor", tensors[0])
    rows = max(1, TOKENS_AT_ONCE // first.shape[1])
    parts = [slice(start, start + rows) for start in range(0, len(first), rows)]
    return torch.cat([run(*(it if it is None else it[part] for it in tensors)) for part in parts])


def _integrated_gradients(question: Question) -> Tensor:
    return integrated_gradients(
        question.explained,
        question.model,
        question.inputs,
        question.baselines,
        question.classes,
        question.extra,
    )


def _others(baseline: str) -> str:
    return " or ".join(name for name in BASELINES if name != baseline)


class Method(NamedTuple):
    """A method.

    Attributes:
        scores: From what is asked to scores `(B, N)`.
        layers: Likewise to the scores at every depth, `(B, L, N)`, of a method that has them.
        kind: What its scores are, a name of `captum_globenc.results.record.KINDS`.
    """

    scores: Callable[[Question], Tensor]
    layers: Callable[[Question], Tensor] | None = None
    kind: Kind = "signed"


METHODS: Mapping[str, Method] = {
    "globenc": Method(_globenc, _globenc_layers, "shares"),
    "transformer-deep-lift": Method(_deep_lift, _deep_lift_layers, "contributions"),
    "decompx": Method(_decompx),
    "integrated-gradients": Method(_integrated_gradients),
}
"""The methods by name, in the order in which they are shown."""

DEFAULT_METHODS = ("globenc", "transformer-deep-lift")
"""Those that a text is explained by unless others are chosen."""
