"""Explain the predictions of a sequence classifier for rows of a data set.

Letters: B batch, N tokens, C classes, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.datasets.rows import Done, Values, in_batches, mistake, one_by_one, word_indices
from captum_globenc.forward import EncoderForward
from captum_globenc.results.words import Word
from captum_globenc.texts.methods import METHODS, shown
from captum_globenc.texts.outputs import OutputSelector, OutputWeights, selector_tensors
from captum_globenc.texts.pieces import names
from captum_globenc.texts.request import AttributionRequest, Explainer
from captum_globenc.texts.tokenizing import check_ids, pad, token_limit, tokenize
from captum_globenc.texts.windows import cut_windows, find_segments, merge_windows
from captum_globenc.texts.words import find_words

__all__ = ["Classes"]

Piece = tuple[int, int]
"""The index of a row, and of one of its windows."""

Scores = dict[str, NDArray[np.float64]]
"""The scores `(N,)` of a row or a window by method, and its logits `(C,)` by the name `LOGITS`."""

LOGITS = "logits"


@dataclass
class Row:
    """A tokenized row, or the reason why it cannot be explained.

    Attributes:
        columns: N values of each of the tokenizer's outputs, such as `input_ids` and `special_tokens_mask`.
        values: the new values of the row that do not depend on the model's outputs.
        pieces: token positions of each forward pass: the whole text, or each of its windows.
        error: the reason why the row cannot be explained; "" if it can.
    """

    columns: dict[str, list[int]] = field(default_factory=dict)
    values: Values = field(default_factory=dict)
    pieces: list[list[int]] = field(default_factory=list)
    error: str = ""


class Reader:
    """Tokenize rows for a model, and find the errors of each; see `Classes` for the arguments.

    Raises:
        ValueError: `windows` is not smaller than a window.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        cut: bool,
        windows: int | None,
        position: int | Literal["mean"] | None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._limit = token_limit(model, tokenizer)
        self._cut, self._windows, self._position = cut, windows, position
        if windows is not None and self._limit is not None:
            size = self._limit - int(tokenizer.num_special_tokens_to_add())
            if windows >= size:
                raise ValueError(
                    f"windows is {windows}, but a window has {size} tokens of a text: pass less than {size}"
                )

    def __call__(self, texts: Sequence[Any], pairs: Sequence[Any] | None) -> list[Row]:
        """Tokenize rows.

        Args:
            texts: one value per row, of any type.
            pairs: the second segments, one per row; None or "" means no second segment.

        Returns:
            One `Row` per text. A bad value sets `Row.error` and raises nothing.
        """
        seconds = [None] * len(texts) if pairs is None else [None if pair == "" else pair for pair in pairs]
        found = [
            Row(error=mistake(text, "text") or ("" if pair is None else mistake(pair, "second segment")))
            for text, pair in zip(texts, seconds, strict=True)
        ]
        for paired in (False, True):
            valid = [
                row
                for row, pair in enumerate(seconds)
                if (pair is not None) == paired and not found[row].error
            ]
            first = [str(texts[row]) for row in valid]
            second = [str(seconds[row]) for row in valid] if paired else None
            for row, made in zip(valid, self._read(first, second), strict=True):
                found[row] = made
        return found

    def _read(self, texts: list[str], pairs: list[str] | None) -> Iterator[Row]:
        """Yield the rows of valid texts, all with a pair or all without one."""
        if not texts:
            return
        truncate = self._cut and self._windows is None
        batch, above = tokenize(texts, pairs, self._tokenizer, self._limit, truncate=truncate)
        found = find_words(batch, self._tokenizer, texts, pairs)
        for number, (words, long) in enumerate(zip(found, above, strict=True)):
            try:
                yield self._row(batch, number, words, long, paired=pairs is not None)
            except ValueError as error:
                yield Row(error=str(error))

    def _row(
        self, batch: BatchEncoding, number: int, words: Sequence[Word], long: bool, *, paired: bool
    ) -> Row:
        """Return a row; `long` is whether it is above the model's limit."""
        columns = {name: list(values[number]) for name, values in batch.items()}
        ids, whole = columns["input_ids"], self._windows is None
        count, position = len(ids), self._position
        if not count:
            raise ValueError("the text has no tokens")
        if long and whole and not self._cut:
            raise ValueError(f"the text has {count} tokens, and the model takes {self._limit}")
        check_ids(ids, self._model)
        if isinstance(position, int) and not -count <= position < count:
            raise ValueError(f"position {position} is out of range: the text has {count} tokens")
        pieces = [list(range(count))]
        if long and self._windows is not None:
            segments = find_segments(batch, number, paired=paired)
            pieces = cut_windows(segments, self._limit or 0, self._windows)
        encoding = batch.encodings[number] if batch.encodings else None
        words = [word for word in words if not word.special]
        values = {
            "input_ids": ids,
            "tokens": names(ids, self._tokenizer),
            "offsets": None if encoding is None else [list(it) for it in encoding.offsets],
            "segments": None if encoding is None else list(encoding.sequence_ids),
            "word_ids": word_indices(words, count),
            "words": [word.text for word in words],
            "windows": len(pieces),
            "truncated": long and whole,
        }
        return Row(columns, values, pieces)


class Remembered(EncoderForward):
    """A forward function that keeps its last output, so that GlobEnc's pass also gives the prediction."""

    last: Tensor

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model, and keep the output in `last`."""
        output = super().forward(inputs, *arguments)
        self.last = output.detach()
        return output


class Classes:
    """Explain the predictions of a sequence classifier, as `Answers` explains answers.

    Args:
        model: a sequence classifier in eval mode.
        tokenizer: its tokenizer.
        names: the names of the classes, by index.
        methods: keys of `METHODS`.
        target: the explained class; None for the predicted class of each row.
        position: the token that GlobEnc explains: an index into every text, negative from the end, "mean", or
            None for the tokens that the model's head reads.
        cut: whether texts over the model's limit are truncated; if False, they get an error.
        windows: number of tokens that neighboring windows share; if not None, texts over the limit are split
            into windows.
        tokens: maximum number of tokens per forward pass, padding included.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        names: Sequence[str],
        methods: Sequence[str],
        *,
        target: int | None,
        position: int | Literal["mean"] | None,
        cut: bool,
        windows: int | None,
        tokens: int,
    ) -> None:
        self._model, self._tokenizer, self._names = model, tokenizer, names
        self._read = Reader(model, tokenizer, cut=cut, windows=windows, position=position)
        self._target, self._position, self._tokens = target, position, tokens
        self._forward = Remembered(model)
        self._explainer = Explainer(model, tokenizer, self._forward, OutputSelector(self._forward))
        # Methods without a class run first: their pass predicts the class that the others explain.
        self._first = [name for name in methods if not METHODS[name].knows_class]
        self._second = [name for name in methods if name not in self._first]

    def __call__(
        self, texts: Sequence[Any], pairs: Sequence[Any] | None, answers: object, done: Done | None
    ) -> list[Values]:
        """Predict and explain the classes of texts.

        Args:
            texts: one value per row, of any type.
            pairs: the second segments, one per row; None or "" means no second segment.
            answers: ignored, because a classifier has no answers.
            done: function of the number of rows finished since its last call.
        """
        rows = self._read(texts, pairs)
        found: list[Scores] = [{} for _ in rows]
        if done is not None:
            done(sum(bool(row.error) for row in rows))
        lengths = {
            (number, window): len(positions)
            for number, row in enumerate(rows)
            for window, positions in enumerate(row.pieces)
            if not row.error
        }

        def fail(piece: Piece, why: str) -> None:
            rows[piece[0]].error = why

        stages = [self._predicted, self._explained] if self._second else [self._predicted]
        for stage in stages:
            made: dict[Piece, Scores] = {}
            for pieces in in_batches(lengths, self._tokens):
                valid = [piece for piece in pieces if not rows[piece[0]].error]
                made |= one_by_one(valid, partial(stage, rows, found), fail)
                if done is not None:
                    done(sum(1 / len(rows[number].pieces) for number, _ in pieces) / len(stages))
            for number, row in enumerate(rows):
                if not row.error:
                    windows = [made[number, window] for window in range(len(row.pieces))]
                    found[number] |= _merged(row, windows)
        return [
            {"error": row.error} if row.error else self._values(row, scores)
            for row, scores in zip(rows, found, strict=True)
        ]

    def _values(self, row: Row, scores: Scores) -> Values:
        """Return the new values of a row without an error."""
        return {
            **row.values,
            "prediction": self._names[int(scores[LOGITS].argmax())],
            "explained": self._names[self._class_of(scores)],
            **{name: values.tolist() for name, values in scores.items()},
        }

    def _class_of(self, scores: Scores) -> int:
        """Return the explained class of a row whose logits are known."""
        return int(scores[LOGITS].argmax()) if self._target is None else self._target

    def _predicted(
        self, rows: Sequence[Row], found: Sequence[Scores], pieces: Sequence[Piece]
    ) -> list[Scores]:
        """Return the logits of windows, and the scores of methods without a class."""
        request = self._request(rows, pieces)
        scores = {name: shown(name, request) for name in self._first}
        if not scores:
            inputs, extra = self._forward.arguments(request.batch)
            with torch.no_grad():
                self._forward(inputs, *extra)
        logits = self._forward.last
        if logits.dim() != 2:
            shape = tuple(logits.shape)
            raise ValueError(f"a sequence classifier gives logits (B, C), this model gives {shape}")
        if not bool(logits.isfinite().all()):
            raise ValueError("the model's output is NaN or infinite")
        return [
            {LOGITS: row, **of_window}
            for row, of_window in zip(_as_arrays(logits), _by_window(rows, pieces, scores), strict=True)
        ]

    def _explained(
        self, rows: Sequence[Row], found: Sequence[Scores], pieces: Sequence[Piece]
    ) -> list[Scores]:
        """Return the scores of windows by methods that depend on the class."""
        targets: list[OutputWeights] = [{(self._class_of(found[number]),): 1.0} for number, _ in pieces]
        selectors = selector_tensors(targets, torch.empty(1, 1, device=self._model.device))
        request = self._request(rows, pieces, selectors)
        return _by_window(rows, pieces, {name: shown(name, request) for name in self._second})

    def _request(
        self, rows: Sequence[Row], pieces: Sequence[Piece], selectors: tuple[Tensor, ...] = ()
    ) -> AttributionRequest:
        """Return the request for texts or windows, padded on the right to the longest."""
        device = self._model.device
        windows = []
        for number, window in pieces:
            row, kept = rows[number], rows[number].pieces[window]
            windows.append({name: [values[place] for place in kept] for name, values in row.columns.items()})
        batch = {name: values.to(device) for name, values in pad(windows, self._tokenizer).items()}
        position: Tensor | int | Literal["mean"] | None = self._position
        if isinstance(position, int):
            position = torch.tensor([position % len(it["input_ids"]) for it in windows], device=device)
        numbers = torch.arange(len(windows), device=device)
        return AttributionRequest(self._explainer, batch, numbers, selectors, position, together=True)


def _as_arrays(values: Tensor) -> list[NDArray[np.float64]]:
    return list(values.cpu().double().numpy())


def _by_window(rows: Sequence[Row], pieces: Sequence[Piece], scores: Mapping[str, Tensor]) -> list[Scores]:
    """Return the scores of each window without padding, from scores `(B, N)` by method."""
    arrays = {name: _as_arrays(values) for name, values in scores.items()}
    return [
        {name: values[index][: len(rows[number].pieces[window])] for name, values in arrays.items()}
        for index, (number, window) in enumerate(pieces)
    ]


def _merged(row: Row, windows: Sequence[Scores]) -> Scores:
    """Average the logits and the scores of a row over its windows."""
    merged: Scores = {}
    for name in windows[0]:
        values = [window[name] for window in windows]
        if name == LOGITS:
            merged[name] = np.mean(values, axis=0)
            continue
        merged[name] = merge_windows(len(row.columns["input_ids"]), row.pieces, values)
        total = merged[name].sum()
        if len(windows) > 1 and METHODS[name].kind in ("shares", "sizes") and total:
            merged[name] = merged[name] / total  # shares of the whole document
    return merged
