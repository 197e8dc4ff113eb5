"""What is evaluated: a classifier and its tokenizer, and batches of texts made ready for it.

Letters: B batch, N tokens, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.labels import Label, classes_of
from captum_globenc.evaluation.marks import marked_tokens
from captum_globenc.forward import EncoderForward, blank_token, special_tokens
from captum_globenc.texts.classes import ACTIVATIONS, VALUE, class_names, class_of, problem_of
from captum_globenc.texts.embeddings import OnEmbeddings
from captum_globenc.texts.position import resolve_position
from captum_globenc.texts.question import resolve_baseline
from captum_globenc.texts.tokenizing import find_long, token_limit

NO_WORD = -1
"""In ids of a baseline: the mean word embedding, where the tokenizer has no mask token."""


@dataclass(frozen=True)
class Subject:
    """A sequence classifier under evaluation, and how tokens are taken from it.

    Args:
        model: the classifier, in eval mode.
        tokenizer: its tokenizer.
        removal: how the metrics remove tokens, a name of `captum_globenc.metrics.REMOVALS`.
        seed: of everything that is random.
        target: the class that is explained, by name or index; left out, each text's highest.
        position: the token whose mixture GlobEnc explains: its index in every text, negative ones counting
            from the text's own end, or "mean"; left out, what the model's head reads.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    removal: str = "mask"
    seed: int = 0
    target: str | int | None = None
    position: int | Literal["mean"] | None = None

    @cached_property
    def forward(self) -> EncoderForward:
        """The forward function that all methods and metrics share."""
        return EncoderForward(self.model)

    @cached_property
    def exact_differences(self) -> TransformerDeepLift:
        """One for all batches, so that it proves an operation once; over embeddings where ids are kept."""
        return TransformerDeepLift(self.over_embeddings if self.keeps_ids else self.forward)

    @cached_property
    def over_embeddings(self) -> OnEmbeddings:
        """The same of word embeddings and ids: see `OnEmbeddings`."""
        return OnEmbeddings(self.forward, self.model)

    @property
    def keeps_ids(self) -> bool:
        """Whether methods replace word embeddings, while the model keeps reading the ids of the text.

        True where the tokenizer has no mask token, as in `explain`. A model whose decoder looks up the words
        again takes ids: padding stands in for the mask.
        """
        reads_again = getattr(self.model.config, "is_encoder_decoder", False)
        return resolve_baseline("mask", self.model, self.tokenizer) == "mean" and not reads_again

    @cached_property
    def blanked(self) -> nn.Module:
        """The forward function for methods that blank some ids; `beside` makes its other arguments."""
        return _Blanked(self) if self.keeps_ids else self.forward

    def beside(self, batch: "Batch") -> tuple[Any, ...]:
        """Return the arguments of `blanked` that follow ids some of which are blanked."""
        return (batch.inputs, *batch.extra) if self.keeps_ids else batch.extra

    @property
    def blank(self) -> int:
        """The id that metrics put in a token's place, see :func:`~captum_globenc.forward.blank_token`."""
        return blank_token(self.tokenizer)

    @property
    def baseline(self) -> int:
        """The id that stands in for a token in the baseline of methods: `blank`, or `NO_WORD`."""
        return NO_WORD if self.keeps_ids else self.blank

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings `(B, N, D)` of ids `(B, N)`, of which some may be `NO_WORD`."""
        over, none = self.over_embeddings, ids == NO_WORD
        found = over.embed(ids.masked_fill(none, 0))
        return torch.where(none[..., None], over.mean.to(found), found) if self.keeps_ids else found

    @property
    def problem(self) -> str:
        """What the model is for, a key of `captum_globenc.texts.classes.ACTIVATIONS`."""
        return problem_of(self.model.config)

    @property
    def activation(self) -> str:
        """What makes probabilities of logits; "none" of a regression's values."""
        return ACTIVATIONS[self.problem]

    def ids(self, example: Example) -> list[int]:
        """Return the tokens of a text, and of its pair, as the model sees them."""
        limit = self._limit
        found: list[int] = self.tokenizer(
            example.text, example.pair, truncation=limit is not None, max_length=limit
        )["input_ids"]
        return found

    def is_cut(self, example: Example) -> bool:
        """Tell whether a text, with its pair, is longer than the model takes."""
        pair = None if example.pair is None else [example.pair]
        return find_long([example.text], pair, self.tokenizer, self._limit)[0]

    @cached_property
    def names(self) -> list[str]:
        """The names of the classes, by index."""
        return class_names(self.model.config)

    def classes(self, label: Label) -> tuple[int, ...] | None:
        """Return the classes that a label names, as :func:`~captum_globenc.evaluation.labels.classes_of`."""
        return classes_of(label, self.names, self.problem)

    @cached_property
    def explained(self) -> int | None:
        """The class that is explained of every text; None where it is each text's highest.

        Raises:
            ValueError: the model has no such class, or it gives several values and none is chosen.
        """
        if self.target is not None:
            return class_of(self.target, self.names, "target")
        if self.problem == VALUE and len(self.names) > 1:
            raise ValueError(
                f"the model gives {len(self.names)} values: choose one with target, "
                f"of {', '.join(self.names)}"
            )
        return None

    def batch(self, index: int, examples: Sequence[Example]) -> "Batch":
        """Make a batch ready: tokens, predictions, and which tokens may be removed.

        Raises:
            ValueError: the model gives no logits (B, C), or its output is not finite.
        """
        encoded = self.tokenizer(
            [example.text for example in examples],
            [example.pair for example in examples] if examples[0].pair is not None else None,
            padding=len(examples) > 1,  # which a tokenizer may have no token for
            padding_side="right",
            truncation=self._limit is not None,
            max_length=self._limit,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        ).to(self.model.device)
        inputs, extra = self.forward.arguments(encoded)
        with torch.no_grad():
            logits = self.forward(inputs, *extra)
        if logits.ndim != 2 or logits.shape[1] != len(self.names):
            raise ValueError(
                f"a sequence classifier of {len(self.names)} classes gives logits (B, {len(self.names)}), "
                f"this model {tuple(logits.shape)}"
            )
        if not bool(logits.isfinite().all()):
            raise ValueError("the model's output is NaN or infinite")
        special = special_tokens(encoded, self.tokenizer)
        highest, chosen, position = logits.argmax(dim=1), self.explained, self.position
        texts = [example.text for example in examples]
        lengths = encoded["attention_mask"].sum(dim=1)
        return Batch(
            index=index,
            examples=tuple(examples),
            labels=tuple(self.classes(example.label) for example in examples),
            outputs=logits,
            inputs=inputs,
            extra=extra,
            mask=encoded["attention_mask"].bool() & ~special,
            target=highest if chosen is None else torch.full_like(highest, chosen),
            position=resolve_position(position, lengths, texts) if isinstance(position, int) else position,
            blanks=inputs.masked_fill(~special, self.baseline),
            forward=Remembering(self.forward),
            marked=marked_tokens(encoded, [example.marked for example in examples]),
            decoys=marked_tokens(encoded, [example.decoys for example in examples]),
        )

    @cached_property
    def _limit(self) -> int | None:
        return token_limit(self.model, self.tokenizer)


@dataclass(frozen=True)
class Batch:
    """Some texts, ready for methods and metrics.

    Args:
        index: the batch's number.
        examples: B examples.
        labels: the classes that hold, for each example; None where it has no label, or a value.
        outputs: `(B, C)`, the model's logits or values.
        inputs: `(B, N)` ids.
        extra: the forward function's other arguments.
        mask: `(B, N)`, True at the tokens that count, neither special nor padding.
        target: `(B,)` the classes that are explained: the highest, or the one that was chosen.
        position: `(B,)` tokens whose mixture GlobEnc explains, "mean", or None for what the head reads.
        blanks: `(B, N)` ids, the baseline of methods: the text with all but its special tokens replaced by
            `Subject.baseline`.
        forward: the forward function for metrics, which never runs the same text twice.
        marked: `(B, N)`, True at tokens that are known to decide.
        decoys: `(B, N)`, True at tokens that are known to have no effect.
        scores: `(B, N)` by method, those computed so far.
    """

    index: int
    examples: tuple[Example, ...]
    labels: tuple[tuple[int, ...] | None, ...]
    outputs: Tensor
    inputs: Tensor
    extra: tuple[Any, ...]
    mask: Tensor
    target: Tensor
    blanks: Tensor
    forward: "Remembering"
    marked: Tensor
    decoys: Tensor
    position: Tensor | Literal["mean"] | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)

    def singles(self) -> Iterator["Batch"]:
        """Yield each text as a batch of its own, its padding kept."""
        for row, example in enumerate(self.examples):
            one = slice(row, row + 1)
            yield replace(
                self,
                examples=(example,),
                labels=self.labels[one],
                outputs=self.outputs[one],
                inputs=self.inputs[one],
                extra=tuple(None if argument is None else argument[one] for argument in self.extra),
                mask=self.mask[one],
                target=self.target[one],
                blanks=self.blanks[one],
                marked=self.marked[one],
                decoys=self.decoys[one],
                position=self.position[one] if isinstance(self.position, Tensor) else self.position,
                scores={},
            )


class _Blanked(nn.Module):
    """A forward function of ids of which some are `NO_WORD`, and of the text's ids, which the model reads.

    Args:
        subject: whose forward function it is.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject = subject
        self.over = subject.over_embeddings

    def forward(self, blanked: Tensor, ids: Tensor, *arguments: Any) -> Tensor:
        """Run the model."""
        logits: Tensor = self.over(self.subject.embed(blanked), ids, *arguments)
        return logits


class Remembering:
    """A forward function that remembers its answers: metrics and methods ask for many texts twice.

    Args:
        forward: of ids `(B, N)` and tensors `(B, ...)` or None; each row's answer depends on its own
            row alone.
    """

    def __init__(self, forward: EncoderForward) -> None:
        self.forward = forward
        self._answers: dict[bytes, Tensor] = {}

    def __call__(self, inputs: Tensor, *extra: Tensor | None) -> Tensor:
        """Run the rows that are new, each once, and return the answers of all, `(B, ...)`."""
        tensors = [inputs, *(tensor for tensor in extra if tensor is not None)]
        keys = [
            b"|".join(row.numpy().tobytes() for row in rows)
            for rows in zip(*(tensor.cpu() for tensor in tensors), strict=True)
        ]
        new = {key: row for row, key in enumerate(keys) if key not in self._answers}
        if new:
            rows = torch.tensor(list(new.values()), device=inputs.device)
            arguments = [None if tensor is None else tensor[rows] for tensor in extra]
            answers = self.forward(inputs[rows], *arguments)
            self._answers.update(zip(new, answers, strict=True))
        return torch.stack([self._answers[key] for key in keys])
