"""Run a model and its methods over texts, in batches of similar length.

Letters: B batch, N tokens, C classes, W windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.datasets.rows import Text
from captum_globenc.errors import UnsupportedModelError
from captum_globenc.forward import EncoderForward
from captum_globenc.texts.methods import METHODS, as_shown, attribute
from captum_globenc.texts.outputs import OutputSelector, OutputWeights, selector_tensors
from captum_globenc.texts.request import AttributionRequest, Explainer
from captum_globenc.texts.windows import merge_windows

__all__ = ["Done", "Passes", "Scored", "in_batches", "one_by_one"]

T = TypeVar("T")
R = TypeVar("R")

Piece = tuple[int, int]
"""The index of a text, and of one of its windows."""

Done = Callable[[float], None]
"""Function of the number of texts finished since its last call, which may be fractional."""

FATAL = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),
    UnsupportedModelError,
)
"""Errors of the device or the model, which do not depend on the row."""


def in_batches(lengths: Mapping[T, int], tokens: int) -> Iterator[list[T]]:
    """Yield batches, the longest items first, so that running out of memory shows at once.

    Args:
        lengths: the number of tokens of each item.
        tokens: maximum number of tokens of a batch, padding included; a longer item is a batch of its own.

    Example:
        >>> list(in_batches({"a": 2, "b": 5, "c": 3}, 6))
        [['b'], ['c', 'a']]
    """
    batch: list[T] = []
    for item in sorted(lengths, key=lambda it: -lengths[it]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def one_by_one(
    items: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]], fail: Callable[[T, str], None]
) -> dict[T, R]:
    """Run a batch; if it fails, run each item alone, so that only the failing items have no result.

    Args:
        items: the items of the batch.
        run: function of items that returns their results.
        fail: function of an item and the reason why it fails.
    """
    if not items:
        return {}
    try:
        return dict(zip(items, run(items), strict=True))
    except FATAL:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        if len(items) > 1:
            return {it: made for item in items for it, made in one_by_one([item], run, fail).items()}
        fail(items[0], " ".join(str(error).split()) or type(error).__name__)
        return {}


class Remembered(EncoderForward):
    """A forward function that keeps its last output, so that GlobEnc's pass also gives the prediction."""

    last: Tensor

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model, and keep the output in `last`."""
        output = super().forward(inputs, *arguments)
        self.last = output.detach()
        return output


class Scored:
    """Logits and scores of one text.

    Attributes:
        logits: `(C,)`, the mean over the text's windows; None until the model has run.
        scores: by method name, `(N,)`.
    """

    def __init__(self) -> None:
        self.logits: NDArray[np.float64] | None = None
        self.scores: dict[str, NDArray[np.float64]] = {}


class Passes:
    """Run a model and its methods over texts.

    Args:
        model: a sequence classifier in eval mode.
        tokenizer: its tokenizer.
        methods: keys of `METHODS`.
        target: the explained class; None for the predicted class of each text.
        position: the token that GlobEnc explains: an index, "mean", or None for the tokens that the model's
            head reads.
        tokens: maximum number of tokens per forward pass, padding included.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        methods: Sequence[str],
        *,
        target: int | None = None,
        position: int | Literal["mean"] | None = None,
        tokens: int = 1024,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._target, self._position, self._tokens = target, position, tokens
        self._forward = Remembered(model)
        self._explainer = Explainer(model, tokenizer, self._forward, OutputSelector(self._forward))
        # Methods without a class run first: their pass predicts the class that the others explain.
        self._first = [name for name in methods if not METHODS[name].knows_class]
        self._second = [name for name in methods if name not in self._first]

    def __call__(self, texts: Sequence[Text], done: Done | None = None) -> list[Scored]:
        """Predict and score texts; a failure sets the text's `error`.

        Args:
            texts: the texts; those with an error are skipped.
            done: function of the number of texts finished since its last call, which may be fractional.

        Returns:
            One `Scored` per text.
        """
        found = [Scored() for _ in texts]
        if done is not None:
            done(sum(bool(text.error) for text in texts))
        lengths = {
            (number, window): len(positions)
            for number, text in enumerate(texts)
            for window, positions in enumerate(text.pieces)
            if not text.error
        }
        stages: list[Callable[[Sequence[Piece]], list[dict[str, NDArray[np.float64]]]]]
        stages = [lambda pieces: self._predicted(texts, pieces)]
        if self._second:
            stages.append(lambda pieces: self._explained(texts, found, pieces))

        def fail(piece: Piece, why: str) -> None:
            texts[piece[0]].error = why

        for stage in stages:
            made: dict[Piece, dict[str, NDArray[np.float64]]] = {}
            for pieces in in_batches(lengths, self._tokens):
                valid = [piece for piece in pieces if not texts[piece[0]].error]
                made |= one_by_one(valid, stage, fail)
                if done is not None:
                    done(sum(1 / len(texts[text].pieces) for text, _ in pieces) / len(stages))
            self._merge(texts, made, found)
        return found

    def _predicted(
        self, texts: Sequence[Text], pieces: Sequence[Piece]
    ) -> list[dict[str, NDArray[np.float64]]]:
        request = self._request(texts, pieces)
        scores = {name: self._scores(name, request, texts, pieces) for name in self._first}
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
        return _by_piece({"": list(logits.cpu().double().numpy()), **scores})

    def _explained(
        self, texts: Sequence[Text], found: Sequence[Scored], pieces: Sequence[Piece]
    ) -> list[dict[str, NDArray[np.float64]]]:
        targets: list[OutputWeights] = [{(self.explained(found[text]),): 1.0} for text, _ in pieces]
        selectors = selector_tensors(targets, torch.empty(1, 1, device=self._model.device))
        request = self._request(texts, pieces, selectors)
        return _by_piece({name: self._scores(name, request, texts, pieces) for name in self._second})

    def explained(self, scored: Scored) -> int:
        """Return the explained class of a text whose logits are known."""
        assert scored.logits is not None
        return int(scored.logits.argmax()) if self._target is None else self._target

    def _scores(
        self, name: str, request: AttributionRequest, texts: Sequence[Text], pieces: Sequence[Piece]
    ) -> list[NDArray[np.float64]]:
        scores = as_shown(name, attribute(name, request), request).cpu().double().numpy()
        return [
            row[: len(texts[text].pieces[window])] for row, (text, window) in zip(scores, pieces, strict=True)
        ]

    def _request(
        self, texts: Sequence[Text], pieces: Sequence[Piece], selectors: tuple[Tensor, ...] = ()
    ) -> AttributionRequest:
        """Return the request for texts or windows, padded on the right to the longest."""
        places = [texts[text].pieces[window] for text, window in pieces]
        width, device = max(map(len, places)), self._model.device

        def padded(rows: Sequence[Sequence[int]], blank: int) -> Tensor:
            filled = [
                [*(row[place] for place in kept), *[blank] * (width - len(kept))]
                for row, kept in zip(rows, places, strict=True)
            ]
            return torch.tensor(filled, device=device)

        rows = [texts[text] for text, _ in pieces]
        filled = {
            "input_ids": padded([row.ids for row in rows], self._tokenizer.pad_token_id or 0),
            "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
            "special_tokens_mask": padded([row.special for row in rows], 1),
        }
        types = [row.types for row in rows if row.types is not None]
        if types:
            filled["token_type_ids"] = padded(types, self._tokenizer.pad_token_type_id or 0)
        position: Tensor | Literal["mean"] | None
        if isinstance(self._position, int):
            chosen = [self._position % len(kept) for kept in places]
            position = torch.tensor(chosen, device=device)
        else:
            position = self._position
        numbers = torch.arange(len(rows), device=device)
        return AttributionRequest(self._explainer, filled, numbers, selectors, position, together=True)

    def _merge(
        self,
        texts: Sequence[Text],
        made: Mapping[Piece, Mapping[str, NDArray[np.float64]]],
        found: Sequence[Scored],
    ) -> None:
        """Merge the windows of each text without an error."""
        for number, (text, scored) in enumerate(zip(texts, found, strict=True)):
            if text.error:
                continue
            rows = [made[number, window] for window in range(len(text.pieces))]
            for name in rows[0]:
                if not name:
                    scored.logits = np.mean([row[name] for row in rows], axis=0)
                    continue
                merged = merge_windows(len(text.ids), text.pieces, [row[name] for row in rows])
                total = merged.sum()
                if len(rows) > 1 and METHODS[name].kind in ("shares", "sizes") and total:
                    merged = merged / total  # shares of the whole document
                scored.scores[name] = merged


def _by_piece(made: Mapping[str, list[NDArray[np.float64]]]) -> list[dict[str, NDArray[np.float64]]]:
    """Return the rows of each piece by name, from the rows of all pieces by name."""
    return [dict(zip(made, rows, strict=True)) for rows in zip(*made.values(), strict=True)]
