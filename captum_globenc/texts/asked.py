"""What is asked of a model's outputs: which of them are explained, and what is predicted there.

Letters: B texts, R rows, texts or windows of them, A asked rows, P outputs that are added up, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from captum_globenc.results.record import Span
from captum_globenc.texts.options import Options
from captum_globenc.texts.origin import find_offsets
from captum_globenc.texts.prompts import Prompt
from captum_globenc.texts.subject import Subject
from captum_globenc.texts.tokenizing import Encoded
from captum_globenc.texts.words import Word, find_words

__all__ = ["Asked", "Given", "Picked", "Picks", "picked_tensors"]

Picks = Mapping[tuple[int, ...], float]
"""Outputs of a row by their indices, each with what it is multiplied by in the sum that is explained."""


@dataclass(frozen=True)
class Asked:
    """One thing to explain in a text: a class, an entity, an answer, a masked token.

    Attributes:
        text: the number of the text.
        rows: those whose outputs are explained, on average: all windows of the text, or one of them.
        picks: which outputs of each.
        prediction: what is predicted.
        probability: of the prediction; None for a value.
        value: the model's output for it.
        target: what is explained, by name.
        explained: the sum of what is picked, on average over the rows.
        probabilities: of all that could have been predicted, by name, or of the most likely.
        against: what the target is held against, if anything.
        tokens: positions in the row of the tokens whose outputs these are; none where a head reads the text.
        span: where these stand in the text.
        beside: whether this is one of several of its text that are shown side by side.
    """

    text: int
    rows: Sequence[int]
    picks: Picks
    prediction: str
    probability: float | None
    value: float
    target: str
    explained: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    against: str | None = None
    tokens: Sequence[int] = ()
    span: Span | None = None
    beside: bool = False


@dataclass(frozen=True)
class Given:
    """What a model gave for texts, and what of it somebody asked for.

    Attributes:
        texts: the texts, B.
        pairs: their second segments, or None.
        encoded: the same as the model took them.
        outputs: `(R, ...)`.
        subject: the model and its tokenizer.
        options: what was asked for.
        tell: is called with what a text does not have.
        prompts: the prompts, for models that generate text.
    """

    texts: Sequence[str]
    pairs: Sequence[str | None]
    encoded: Encoded
    outputs: Tensor
    subject: Subject
    options: Options
    tell: Callable[[str], None]
    prompts: Sequence[Prompt] = ()

    def offsets(self, row: int) -> list[Span | None]:
        """Return where the tokens of a row stand; nothing where the tokenizer does not tell."""
        found = find_offsets(self.encoded.whole, self.encoded.text_of(row))
        return [found[place] for place in self.encoded.places[row]] if found else []

    def spans(self, row: int) -> list[Span]:
        """Return from where to where each token of a row stands, special tokens nowhere: at 0.

        Raises:
            ValueError: the tokenizer, one written in Python, does not tell.
        """
        encodings = self.encoded.whole.encodings
        if not encodings:
            raise ValueError("where the tokens stand is not known: explain with a fast tokenizer")
        told = encodings[self.encoded.text_of(row)]
        return [
            Span(*told.offsets[place], told.sequence_ids[place] or 0) for place in self.encoded.places[row]
        ]

    @cached_property
    def words(self) -> list[list[Word]]:
        """The words of each text."""
        pairs = [pair for pair in self.pairs if pair is not None] or None
        return find_words(self.encoded.whole, self.subject.tokenizer, self.texts, pairs)

    def sum_of(self, rows: Sequence[int], picks: Picks) -> float:
        """Return the sum of what is picked of each row, on average."""
        sums = [weight * self.outputs[row][place] for row in rows for place, weight in picks.items()]
        return float(torch.stack(sums).double().sum()) / len(rows)


class Picked(nn.Module):
    """A forward function of which single outputs are added up, others for each row.

    Args:
        forward_func: returns `(A, ...)`.
    """

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
            arguments: the forward function's, and at last what `picked_tensors` makes: `(A, P, 1)` places in
                the flattened outputs of a row, and `(A, P)` weights.

        Returns:
            `(A,)`.
        """
        *others, places, weights = arguments
        outputs = self.function(*others).flatten(1)
        chosen = outputs.gather(1, places.squeeze(-1))
        return cast(Tensor, (chosen * weights).sum(-1))


def picked_tensors(picks: Sequence[Picks], outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return what :class:`Picked` takes.

    Args:
        picks: of each of A rows.
        outputs: `(R, ...)`, which say what shape and type those of a row are of.

    Returns:
        `(A, P, 1)` places, and `(A, P)` weights. Not `(A, P)` places, so that nothing takes them for ids.

    Example:
        >>> places, weights = picked_tensors([{(1, 0): 1.0}, {(0, 1): 0.5, (1, 1): 0.5}], torch.ones(1, 2, 3))
        >>> places[..., 0].tolist(), weights.tolist()
        ([[3, 0], [1, 4]], [[1.0, 0.0], [0.5, 0.5]])
    """
    steps = [1]
    for size in reversed(outputs.shape[2:]):
        steps.insert(0, steps[0] * size)
    most = max(map(len, picks))
    places = torch.zeros(len(picks), most, 1, dtype=torch.long)
    weights = torch.zeros(len(picks), most, dtype=outputs.dtype)
    for row, of in enumerate(picks):
        for number, (place, weight) in enumerate(of.items()):
            places[row, number, 0] = sum(index * step for index, step in zip(place, steps, strict=True))
            weights[row, number] = weight
    return places.to(outputs.device), weights.to(outputs.device)
