"""What is evaluated: a classifier and its tokenizer, and batches of texts made ready for it.

Letters: B batch, N tokens, D embedding size, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.evaluation.data import Example
from captum_globenc.forward import EncoderForward
from captum_globenc.texts.tokenizing import token_limit


@dataclass(frozen=True)
class Subject:
    """A sequence classifier under evaluation, and how tokens are taken from it.

    Args:
        model: the classifier, in eval mode.
        tokenizer: its tokenizer.
        removal: how the metrics remove tokens, a name of `captum_globenc.metrics.REMOVALS`.
        seed: of everything that is random.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    removal: str = "mask"
    seed: int = 0

    @cached_property
    def forward(self) -> EncoderForward:
        """The forward function that all methods and metrics share."""
        return EncoderForward(self.model)

    @property
    def blank(self) -> int:
        """The id that stands for no token: the mask's, or the padding's where there is no mask.

        Raises:
            ValueError: the tokenizer has neither.
        """
        for name in ("mask_token_id", "pad_token_id"):
            token: int | None = getattr(self.tokenizer, name)
            if token is not None:
                return token
        raise ValueError("the tokenizer has neither a mask nor a padding token to stand for a removed one")

    @property
    def activation(self) -> str:
        """What makes probabilities of logits: a sigmoid where a text may have several labels."""
        several = self.model.config.problem_type == "multi_label_classification"
        return "sigmoid" if several else "softmax"

    def embed(self, ids: Tensor) -> Tensor:
        """Return the word embeddings `(B, N, D)` of ids `(B, N)`, cut off from their weights."""
        embeddings: Tensor = self.model.get_input_embeddings()(ids)
        return embeddings.detach()

    def length(self, text: str) -> int:
        """Return how many tokens a text has, as the model sees it."""
        return len(self.ids(text))

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, as the model sees them."""
        found: list[int] = self.tokenizer(text, truncation=self._limit is not None, max_length=self._limit)[
            "input_ids"
        ]
        return found

    def is_cut(self, text: str) -> bool:
        """Tell whether a text is longer than the model takes."""
        limit = self._limit
        return limit is not None and len(self.tokenizer(text, verbose=False)["input_ids"]) > limit

    @cached_property
    def names(self) -> list[str]:
        """The names of the classes, by index."""
        names: dict[int, str] = self.model.config.id2label  # type: ignore[assignment]
        return [names[index] for index in sorted(names)]

    def label(self, label: str | int | None) -> int | None:
        """Return the class of a label: its name in any case, or its index where no name is a number.

        Raises:
            ValueError: the model has no such class.
        """
        if label is None:
            return None
        names = [name.lower() for name in self.names]
        text = str(label).lower()
        if text in names:
            return names.index(text)
        by_index = text.isdecimal() and not any(name.isdecimal() for name in names)
        if by_index and int(text) < len(names):
            return int(text)
        raise ValueError(f"label {label!r} is none of the model's: {', '.join(self.names)}")

    def batch(self, index: int, examples: Sequence[Example]) -> "Batch":
        """Make a batch ready: tokens, predictions, and which tokens may be removed.

        Raises:
            ValueError: the model is no classifier of several classes, or its output is not finite.
        """
        encoded = self.tokenizer(
            [example.text for example in examples],
            padding=True,
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
        if logits.ndim != 2 or logits.shape[1] < 2:
            raise ValueError(f"a classifier gives logits (B, C) with C > 1, this model {tuple(logits.shape)}")
        if self.model.config.problem_type == "regression":
            raise ValueError("the model is for regression, and classes are what the metrics look at")
        if not bool(logits.isfinite().all()):
            raise ValueError("the model's output is NaN or infinite")
        special = encoded["special_tokens_mask"].bool()
        return Batch(
            index=index,
            examples=tuple(examples),
            labels=tuple(self.label(example.label) for example in examples),
            inputs=inputs,
            extra=extra,
            mask=encoded["attention_mask"].bool() & ~special,
            target=logits.argmax(dim=1),
            blanks=torch.where(special, inputs, self.blank),
            forward=Remembering(self.forward),
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
        labels: B classes; None where an example has no label.
        inputs: `(B, N)` ids.
        extra: the forward function's other arguments.
        mask: `(B, N)`, True at the tokens that count, neither special nor padding.
        target: `(B,)` predicted classes, which are explained.
        blanks: `(B, N)` ids with all tokens that count replaced by the mask: a baseline.
        forward: the forward function for metrics, which never runs the same text twice.
        scores: `(B, N)` by method, those computed so far.
    """

    index: int
    examples: tuple[Example, ...]
    labels: tuple[int | None, ...]
    inputs: Tensor
    extra: tuple[Any, ...]
    mask: Tensor
    target: Tensor
    blanks: Tensor
    forward: "Remembering"
    scores: dict[str, Tensor] = field(default_factory=dict)

    def singles(self) -> Iterator["Batch"]:
        """Yield each text as a batch of its own, its padding kept."""
        for row, example in enumerate(self.examples):
            one = slice(row, row + 1)
            yield replace(
                self,
                examples=(example,),
                labels=self.labels[one],
                inputs=self.inputs[one],
                extra=tuple(None if argument is None else argument[one] for argument in self.extra),
                mask=self.mask[one],
                target=self.target[one],
                blanks=self.blanks[one],
                scores={},
            )


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
