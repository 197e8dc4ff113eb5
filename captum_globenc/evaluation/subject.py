"""The model under evaluation, and batches of texts for methods and metrics.

Letters: B batch, N tokens, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.evaluation.data import Example, Label, Span, classes_of
from captum_globenc.forward import EncoderForward, blank_token
from captum_globenc.results.words import sentence_spans, tokens_of_spans
from captum_globenc.texts.classes import ACTIVATIONS, VALUE, class_names, class_of, problem_of
from captum_globenc.texts.methods import attribute as run_method
from captum_globenc.texts.options import resolve_position
from captum_globenc.texts.outputs import OutputSelector, selector_tensors
from captum_globenc.texts.request import AttributionRequest, Explainer, run_batch
from captum_globenc.texts.tokenizing import encode, token_limit, tokenize
from captum_globenc.texts.words import find_offsets


@dataclass(frozen=True)
class Subject:
    """A sequence classifier under evaluation.

    Args:
        model: the classifier, in eval mode.
        tokenizer: its tokenizer.
        removal: how the metrics remove tokens, a name of `captum_globenc.metrics.REMOVALS`.
        seed: random seed.
        target: the explained class, by name or index; by default the predicted class of each text.
        position: the token that GlobEnc explains: an index into every text (negative indices count from
            the end of each text), or "mean"; by default the tokens that the model's head reads.
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
    def explainer(self) -> Explainer:
        """The explainer of all batches, shared so that each method checks an operation once."""
        outputs = OutputSelector(self.forward)
        return Explainer(self.model, self.tokenizer, self.forward, outputs, seed=self.seed)

    @property
    def blank(self) -> int | None:
        """The id that replaces a removed token, see :func:`~captum_globenc.forward.blank_token`."""
        return blank_token(self.tokenizer)

    @property
    def problem(self) -> str:
        """The model's problem type, a key of `captum_globenc.texts.classes.ACTIVATIONS`."""
        return problem_of(self.model.config)

    @property
    def activation(self) -> str:
        """The function from logits to probabilities; "none" for a regression."""
        return ACTIVATIONS[self.problem]

    def ids(self, examples: Sequence[Example]) -> tuple[list[list[int]], list[bool]]:
        """Return the token ids of texts and their pairs, truncated to the model's limit, and which are.

        Args:
            examples: all with a pair, or all without one.
        """
        pairs = [example.pair for example in examples if example.pair is not None]
        limit = token_limit(self.model, self.tokenizer)
        found, above = tokenize([example.text for example in examples], pairs or None, self.tokenizer, limit)
        return found["input_ids"], above

    @cached_property
    def names(self) -> list[str]:
        """The names of the classes, by index."""
        return class_names(self.model.config)

    def classes(self, label: Label) -> tuple[int, ...] | None:
        """Return the class indices of a label, see :func:`~captum_globenc.evaluation.data.classes_of`."""
        return classes_of(label, self.names, self.problem)

    @cached_property
    def explained(self) -> int | None:
        """The class that is explained for every text; None for the predicted class of each text.

        Raises:
            ValueError: the model has no such class, or it is a regression of several values and `target`
                is None.
        """
        if self.target is not None:
            return class_of(self.target, self.names, "target")
        if self.problem == VALUE and len(self.names) > 1:
            raise ValueError(
                f"the model gives {len(self.names)} values: choose one with target, "
                f"of {', '.join(self.names)}"
            )
        return None

    def label(self, batch: "Batch", place: int) -> str:
        """Return the label column of a text: names of classes, or the value of a regression."""
        classes, label = batch.labels[place], batch.examples[place].label
        if classes is not None:
            return ", ".join(self.names[index] for index in classes)
        return "" if label is None else str(label)

    def prediction(self, batch: "Batch", place: int) -> str:
        """Return the prediction column of a text: the predicted class's name, or the explained value."""
        if self.problem == VALUE:
            return str(batch.outputs[place, batch.target[place]].item())
        return self.names[int(batch.outputs[place].argmax())]

    def batch(self, index: int, examples: Sequence[Example], target: Tensor | None = None) -> "Batch":
        """Tokenize a batch, run the model, and find the tokens that may be removed.

        Args:
            index: the number of the batch.
            examples: B examples.
            target: `(B,)`, the classes to explain; by default `explained`, or if that is None the
                predicted class of each text.

        Raises:
            ValueError: the model's output is not `(B, C)`, or not finite.
        """
        texts = [example.text for example in examples]
        encoded = encode(texts, [example.pair for example in examples], self.model, self.tokenizer)
        logits = run_batch(self.forward, self.model, encoded.batch, together=True)
        if logits.ndim != 2 or logits.shape[1] != len(self.names):
            raise ValueError(
                f"a sequence classifier of {len(self.names)} classes gives logits (B, {len(self.names)}), "
                f"this model {tuple(logits.shape)}"
            )
        if target is None:
            target = logits.argmax(dim=1)
            target = target if self.explained is None else torch.full_like(target, self.explained)
        inputs, extra = self.forward.arguments(encoded.batch)
        request = AttributionRequest(
            self.explainer,
            encoded.batch,
            torch.arange(len(examples), device=inputs.device),
            selector_tensors([{(one,): 1.0} for one in target.tolist()], logits),
            resolve_position(self.position, encoded.batch["attention_mask"].sum(dim=1), texts),
            together=True,
        )
        return Batch(
            index=index,
            examples=tuple(examples),
            labels=tuple(self.classes(example.label) for example in examples),
            outputs=logits,
            inputs=inputs,
            extra=extra,
            mask=~request.special,
            target=target,
            request=request,
            forward=Remembering(self.forward),
            **token_masks(encoded.whole, examples),
        )


@dataclass(frozen=True)
class Batch:
    """A batch of texts, prepared for methods and metrics.

    Args:
        index: the number of the batch.
        examples: B examples.
        labels: the true classes of each example; None without a label, and for a regression.
        outputs: `(B, C)`, the model's logits or values.
        inputs: `(B, N)`, token ids.
        extra: the other arguments of the forward function.
        mask: `(B, N)`, False at special tokens and padding.
        target: `(B,)`, the explained classes.
        request: the attribution request of the batch, for the methods.
        forward: the forward function for metrics, which caches its outputs.
        marked: `(B, N)`, True at the tokens known to determine the label.
        decoys: `(B, N)`, True at the tokens known to have no effect.
        sentences: `(B, N)`, the sentence of each token that may be removed with it, from 0; else -1.
        scores: by method name, the `(B, N)` scores computed so far.
    """

    index: int
    examples: tuple[Example, ...]
    labels: tuple[tuple[int, ...] | None, ...]
    outputs: Tensor
    inputs: Tensor
    extra: tuple[Any, ...]
    mask: Tensor
    target: Tensor
    request: AttributionRequest
    forward: "Remembering"
    marked: Tensor
    decoys: Tensor
    sentences: Tensor
    scores: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def difference(self) -> Tensor:
        """`(B,)`, the explained output minus its value at the baseline, in logits."""
        request = self.request
        with torch.no_grad():
            baseline = request.of.blanked(request.baselines, *request.beside)
        found: Tensor = self.outputs.gather(1, self.target[:, None])[:, 0] - baseline
        return found


def token_masks(
    encoded: BatchEncoding, examples: Sequence[Example], *, question: bool = False
) -> dict[str, Any]:
    """Return the fields `marked`, `decoys` and `sentences` of :class:`Batch`.

    Args:
        encoded: the tokenizer's output for B texts, with tensors `(B, N)`.
        examples: the texts.
        question: whether the last sentence is left out, because it is the question of a prompt.
    """
    return {
        "marked": marked_tokens(encoded, [it.marked for it in examples]),
        "decoys": marked_tokens(encoded, [it.decoys for it in examples]),
        "sentences": _sentences(encoded, examples, question),
    }


def _sentences(encoded: BatchEncoding, examples: Sequence[Example], question: bool) -> Tensor:
    """Return the sentence of each token, `(B, N)`; -1 at tokens of none, and without character offsets."""
    found = torch.full_like(encoded["input_ids"], -1)
    for row, example in enumerate(examples):
        offsets = find_offsets(encoded, row)
        if not offsets:
            return found
        sources = [example.text] if example.pair is None else [example.text, example.pair]
        words = tokens_of_spans(sources, offsets, sentence_spans(*sources))[:-1]
        for number, word in enumerate(words[:-1] if question else words):
            found[row, list(word.tokens)] = number
    return found


def marked_tokens(encoded: BatchEncoding, spans: Sequence[Sequence[Span]]) -> Tensor:
    """Return a mask of the tokens that contain a character of a span.

    Args:
        encoded: the output of a fast tokenizer for B texts, with tensors `(B, N)`.
        spans: the spans of each text. Spans in a truncated part are ignored.

    Returns:
        `(B, N)`, True at the marked tokens.

    Raises:
        ValueError: there are spans, and the tokenizer is not a fast one, which gives character offsets.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> _, tokenizer = load_default()
        >>> marked_tokens(tokenizer(["a dull film"], return_tensors="pt"), [[(2, 6)]]).int()
        tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    """
    found = torch.zeros_like(encoded["input_ids"], dtype=torch.bool)
    if any(spans) and not encoded.is_fast:
        raise ValueError("marked spans need character offsets: use a fast tokenizer")
    for row, of_text in enumerate(spans):
        for start, end in of_text:
            for character in range(start, end):
                token = encoded.char_to_token(row, character, sequence_index=0)
                if token is not None:
                    found[row, token] = True
    return found


def attribute(name: str, batch: Batch) -> Tensor:
    """Return a method's scores, computed once per batch.

    Args:
        name: a key of `captum_globenc.evaluation.METHODS`.
        batch: the texts.

    Returns:
        `(B, N)`, 0 at special tokens and padding, which the metrics ignore.

    Raises:
        ValueError: the method's scores have another shape, or are NaN.
    """
    if name not in batch.scores:
        scores = run_method(name, batch.request, batch.index)
        batch.scores[name] = scores.masked_fill(batch.request.special, 0)
    return batch.scores[name]


class Remembering:
    """A forward function that caches its outputs, because metrics run many texts more than once.

    Args:
        forward: the forward function, of ids `(B, N)` and tensors `(B, ...)` or None. Each output row
            must depend on its own input row alone.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self.forward = forward
        self._outputs: dict[bytes, Tensor] = {}

    def __call__(self, inputs: Tensor, *extra: Tensor | None) -> Tensor:
        """Run each new row once, and return the outputs `(B, ...)` of all rows."""
        tensors = [inputs, *(tensor for tensor in extra if tensor is not None)]
        keys = [
            b"|".join(row.numpy().tobytes() for row in rows)
            for rows in zip(*(tensor.cpu() for tensor in tensors), strict=True)
        ]
        new = {key: row for row, key in enumerate(keys) if key not in self._outputs}
        if new:
            rows = torch.tensor(list(new.values()), device=inputs.device)
            arguments = [None if tensor is None else tensor[rows] for tensor in extra]
            outputs = self.forward(inputs[rows], *arguments)
            self._outputs.update(zip(new, outputs, strict=True))
        return torch.stack([self._outputs[key] for key in keys])
