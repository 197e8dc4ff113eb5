"""The methods that texts are explained by, by name, and what they are asked.

Shapes: R rows, texts or windows of them, A outputs that are explained, N tokens, L layers, D embedding
dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

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
    "Question",
    "in_parts",
    "run_methods",
]

BASELINES = ("mask", "pad", "zero")
"""What a text is compared with: all but its special tokens masked, padding, or word embeddings of zero."""

TOKENS_AT_ONCE = 1024
"""Tokens that go through a backward pass together, which bounds the memory."""

REFUSALS = (UnsupportedEncoderError, NoPositionError, NotComparableError, ProofError, RecordingError)
"""What tells that a method does not hold for a model, whatever the text."""


@dataclass(frozen=True)
class Question:
    """What is asked of every method: some texts, and the outputs that are explained.

    Attributes:
        model: the model.
        tokenizer: its tokenizer.
        batch: R texts, tokenized, with `special_tokens_mask`.
        rows: `(A,)`, which of them each explained output is of.
        forward: the model as a forward function of ids.
        explained: a forward function of ids, the other arguments of `forward` and `asked`, which returns the
            outputs `(A,)` that are explained.
        asked: tensors `(A, ...)` that say which these are.
        baseline: a name of `BASELINES`.
        mixing: GlobEnc's kind of mixing.
        position: the tokens whose mixture GlobEnc explains: `(A,)` indices, `(A, N)` weights, "mean", or None
            for what the model's head reads.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    batch: Mapping[str, Tensor]
    rows: Tensor
    forward: EncoderForward
    explained: nn.Module
    asked: tuple[Tensor, ...] = ()
    baseline: str = "mask"
    mixing: str = "N-Enc"
    position: Tensor | Literal["mean"] | None = None

    @cached_property
    def each(self) -> Mapping[str, Tensor]:
        """The text of each explained output, A of them."""
        return {name: values[self.rows] for name, values in self.batch.items()}

    @property
    def inputs(self) -> Tensor:
        """The ids `(A, N)`."""
        return self.forward.arguments(self.each)[0]

    @property
    def extra(self) -> tuple[Any, ...]:
        """The other arguments of `explained`."""
        return (*self.forward.arguments(self.each)[1], *self.asked)

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """What is explained, as a forward function of word embeddings `(A, N, D)` and the ids."""
        return OnEmbeddings(self.explained, self.model)

    @property
    def baselines(self) -> Tensor:
        """What the texts are compared with: ids `(A, N)`, or word embeddings `(A, N, D)`.

        Raises:
            ValueError: the tokenizer has no such token.
        """
        if self.baseline == "mask":
            return self.forward.masked(self.each, self.tokenizer)
        kept = special_tokens(self.each, self.tokenizer)
        if self.tokenizer.mask_token_id is not None:  # one in the text is no word of it
            kept = kept | (self.inputs == self.tokenizer.mask_token_id)
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


def _globenc(question: Question) -> Tensor:
    return _mixtures(question, GlobEnc(question.forward, mixing=question.mixing).attribute)


def _globenc_layers(question: Question) -> Tensor:
    return _mixtures(question, GlobEnc(question.forward, mixing=question.mixing).attribute_layers)


def _mixtures(question: Question, method: Callable[..., Tensor]) -> Tensor:
    """Run GlobEnc: for each output where these have tokens of their own, otherwise once for each text."""
    where, batch = question.position, question.batch
    if isinstance(where, Tensor):
        batch = question.each

    def run(inputs: Tensor, position: Tensor | None, *arguments: Tensor | None) -> Tensor:
        chosen = where if position is None else position
        return method(inputs, additional_forward_args=arguments, position=chosen)

    inputs, extra = question.forward.arguments(batch)
    made = in_parts(run, question.model, inputs, where if isinstance(where, Tensor) else None, *extra)
    return made if isinstance(where, Tensor) else made[question.rows]


def _deep_lift(question: Question) -> Tensor:
    forward, *tensors, extra = question.exact_inputs
    method = TransformerDeepLift(forward)

    def run(inputs: Tensor, baselines: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = method.attribute(inputs, baselines, None, arguments)
        return scores.sum(-1) if scores.dim() == 3 else scores

    return in_parts(run, question.model, *tensors, *extra)


def _deep_lift_layers(question: Question) -> Tensor:
    forward, *tensors, extra = question.exact_inputs
    method = TransformerDeepLift(forward)

    def run(inputs: Tensor, baselines: Tensor, *arguments: Tensor | None) -> Tensor:
        return method.attribute_layers(inputs, baselines, None, arguments)

    return in_parts(run, question.model, *tensors, *extra)


def _decompx(question: Question) -> Tensor:
    method = DecompX(question.explained)

    def run(inputs: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = method.attribute(inputs, None, arguments)
        return scores

    return in_parts(run, question.model, question.inputs, *question.extra)


def in_parts(run: Callable[..., Tensor], model: nn.Module, *tensors: Tensor | None) -> Tensor:
    """Run some rows at a time, since a backward pass keeps what all of them went through.

    Args:
        run: from tensors to a tensor, all `(A, ...)`.
        model: what runs. One that knows no padding takes one row at a time.
        tensors: The first `(A, N, ...)`, others `(A, ...)` or None.
    """
    first = cast("Tensor", tensors[0])
    pads = getattr(getattr(model, "config", None), "pad_token_id", None) is not None
    rows = max(1, TOKENS_AT_ONCE // first.shape[1]) if pads else 1
    parts = [slice(start, start + rows) for start in range(0, len(first), rows)]
    return torch.cat([run(*(it if it is None else it[part] for it in tensors)) for part in parts])


def _integrated_gradients(question: Question) -> Tensor:
    return integrated_gradients(
        question.explained,
        question.model,
        question.inputs,
        question.baselines,
        None,
        question.extra,
    )


def _others(baseline: str) -> str:
    return " or ".join(name for name in BASELINES if name != baseline)


class Method(NamedTuple):
    """A method.

    Attributes:
        scores: From what is asked to scores `(A, N)`.
        layers: Likewise to the scores at every depth, `(A, L, N)`, of a method that has them.
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


def run_methods(
    question: Question, methods: Sequence[str] | None, layers: bool, told: dict[str, None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ask every method.

    Args:
        question: what is asked.
        methods: names from `METHODS`; left out, those of `DEFAULT_METHODS` that hold for the model.
        layers: whether to ask for the scores at every depth as well.
        told: gets what is left out, and why.

    Returns:
        By method, scores `(A, N)`, and of those that have them `(A, L, N)` at every depth.

    Raises:
        ValueError: a method that was chosen does not hold for the model, none does, or scores are not finite.
        RuntimeError: its numbers were found not to hold.
    """
    found: dict[str, Tensor] = {}
    depths: dict[str, Tensor] = {}
    refused: dict[str, Exception] = {}
    for name in dict.fromkeys(DEFAULT_METHODS if methods is None else methods):
        method = METHODS[name]
        try:
            found[name] = method.scores(question)
        except REFUSALS as error:
            if methods is not None:
                raise
            refused[name] = error
            continue
        if not found[name].isfinite().all():
            raise ValueError(f"{name} gave scores that are NaN or infinite")
        if layers and method.layers is not None:
            try:
                depths[name] = method.layers(question)
            except (NoLayersError, *REFUSALS) as error:  # such as that a decoder reads the text as well
                told[f"{name} has no scores of single layers: {error}"] = None
    if not found:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in refused.items()))
    told.update({f"{name} is left out: {error}": None for name, error in refused.items()})
    return found, depths
