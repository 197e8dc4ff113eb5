"""The explained outputs of a batch, each a weighted sum of model outputs.

Letters: B texts, R rows (texts, or windows of texts), A explained outputs, P summed outputs, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.forward import Wrapper
from captum_globenc.results.record import Span
from captum_globenc.texts.model import LoadedModel
from captum_globenc.texts.options import Options
from captum_globenc.texts.prompts import Prompt
from captum_globenc.texts.tokenizing import Encoded
from captum_globenc.texts.words import Word, find_offsets, find_words

__all__ = ["ExplainedOutput", "OutputSelector", "OutputWeights", "Predictions", "selector_tensors"]

OutputWeights = Mapping[tuple[int, ...], float]
"""Weights of the outputs of a row in the explained sum, by index."""


@dataclass(frozen=True)
class ExplainedOutput:
    """One explained output of a text: for a class, an entity, an answer or a mask token.

    Attributes:
        text: the index of the text.
        rows: the rows whose outputs are averaged: all windows of the text, or one of them.
        terms: the weights of the outputs of each row in the explained sum.
        prediction: the name of the prediction.
        probability: the probability of the prediction in [0, 1]; None for a value.
        value: the logit or value of the prediction.
        target: the name of the explained output.
        explained: the explained sum, averaged over the rows.
        probabilities: probabilities by name, of all classes or of the most likely ones.
        against: the name of the contrast class, if there is one.
        tokens: positions in the row of the tokens with these outputs; empty if the head pools the text.
        span: the character offsets of these tokens.
        side_by_side: whether several outputs of this text are shown in one explanation.
    """

    text: int
    rows: Sequence[int]
    terms: OutputWeights
    prediction: str
    probability: float | None
    value: float
    target: str
    explained: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    against: str | None = None
    tokens: Sequence[int] = ()
    span: Span | None = None
    side_by_side: bool = False


@dataclass(frozen=True)
class Predictions:
    """The predictions of a batch, and the options of the call.

    Attributes:
        texts: the texts, B.
        pairs: the second segment of each text, or None.
        encoded: the tokenized texts.
        outputs: the model's outputs `(R, ...)`.
        loaded: the model and its tokenizer.
        options: the options of the call.
        on_notice: called with each notice, such as that a text has no entity.
        prompts: the prompts, for models that generate text.
    """

    texts: Sequence[str]
    pairs: Sequence[str | None]
    encoded: Encoded
    outputs: Tensor
    loaded: LoadedModel
    options: Options
    on_notice: Callable[[str], None]
    prompts: Sequence[Prompt] = ()

    def offsets(self, row: int) -> list[Span | None]:
        """Return the character offsets of the tokens of a row; empty if the tokenizer has none."""
        found = find_offsets(self.encoded.whole, self.encoded.text_of(row))
        return [found[position] for position in self.encoded.positions[row]] if found else []

    def spans(self, row: int) -> list[Span]:
        """Return the character offsets of each token of a row; (0, 0) for special tokens.

        Raises:
            ValueError: the tokenizer has no character offsets (a slow tokenizer).
        """
        encodings = self.encoded.whole.encodings
        if not encodings:
            raise ValueError("this tokenizer has no character offsets: use a fast tokenizer")
        encoding = encodings[self.encoded.text_of(row)]
        offsets, segments = encoding.offsets, encoding.sequence_ids
        return [Span(*offsets[position], segments[position] or 0) for position in self.encoded.positions[row]]

    @cached_property
    def words(self) -> list[list[Word]]:
        """The words of each text."""
        pairs = [pair for pair in self.pairs if pair is not None] or None
        return find_words(self.encoded.whole, self.loaded.tokenizer, self.texts, pairs)

    def sum_of(self, rows: Sequence[int], terms: OutputWeights) -> float:
        """Return the weighted sum of outputs of each row, averaged over the rows."""
        sums = [weight * self.outputs[row][position] for row in rows for position, weight in terms.items()]
        return float(torch.stack(sums).double().sum()) / len(rows)


class OutputSelector(Wrapper):
    """A forward function that returns a weighted sum of selected outputs of each row.

    Args:
        forward_func: A forward function that returns `(A, ...)`.
    """

    settings = ()

    def __init__(self, forward_func: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = forward_func

    @property
    def model(self) -> nn.Module:
        """The model that the forward function runs."""
        return cast("nn.Module", cast("Any", self.function).model)

    def forward(self, *arguments: Any) -> Tensor:
        """Run the forward function.

        Args:
            arguments: The arguments of the forward function, then the two tensors of `selector_tensors`:
                indices into the flattened outputs of a row, `(A, P, 1)`, and weights `(A, P)`.

        Returns:
            The explained sums `(A,)`.
        """
        *others, indices, weights = arguments
        outputs = self.function(*others).flatten(1)
        chosen = outputs.gather(1, indices.squeeze(-1))
        return cast(Tensor, (chosen * weights).sum(-1))


def selector_tensors(terms: Sequence[OutputWeights], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last two arguments of :class:`OutputSelector`.

    Args:
        terms: The weights of the outputs, for each of A rows.
        outputs: The model's outputs `(R, ...)`, for their shape, dtype and device.

    Returns:
        Indices `(A, P, 1)` and weights `(A, P)`. The last dimension distinguishes indices from token ids.

    Example:
        >>> terms = [{(1, 0): 1.0}, {(0, 1): 0.5, (1, 1): 0.5}]
        >>> indices, weights = selector_tensors(terms, torch.ones(1, 2, 3))
        >>> indices[..., 0].tolist(), weights.tolist()
        ([[3, 0], [1, 4]], [[1.0, 0.0], [0.5, 0.5]])
    """
    steps = [1]
    for size in reversed(outputs.shape[2:]):
        steps.insert(0, steps[0] * size)
    most = max(map(len, terms))
    indices = torch.zeros(len(terms), most, 1, dtype=torch.long)
    weights = torch.zeros(len(terms), most, dtype=outputs.dtype)
    for row, of in enumerate(terms):
        for number, (position, weight) in enumerate(of.items()):
            indices[row, number, 0] = sum(index * step for index, step in zip(position, steps, strict=True))
            weights[row, number] = weight
    return indices.to(outputs.device), weights.to(outputs.device)
