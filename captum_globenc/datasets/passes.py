"""Run a model and its methods over texts, in batches of similar length.

Letters: B batch, N tokens, C classes, W windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.datasets.rows import Text
from captum_globenc.errors import UnsupportedModelError
from captum_globenc.forward import EncoderForward
from captum_globenc.texts.methods import METHODS, shown
from captum_globenc.texts.outputs import OutputSelector, OutputWeights, selector_tensors
from captum_globenc.texts.request import AttributionRequest, Explainer
from captum_globenc.texts.tokenizing import pad
from captum_globenc.texts.windows import merge_windows

__all__ = ["Passes", "Scored"]

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
        stages: list[Callable[[Sequence[Piece]], Mapping[str, list[NDArray[np.float64]]]]]
        stages = [lambda pieces: self._predicted(texts, pieces)]
        if self._second:
            stages.append(lambda pieces: self._explained(texts, found, pieces))
        for stage in stages:
            made: dict[Piece, dict[str, NDArray[np.float64]]] = {}
            for pieces in self._batches(texts):
                for piece, rows in self._run(texts, pieces, stage):
                    made[piece] = rows
                if done is not None:
                    done(sum(1 / len(texts[text].pieces) for text, _ in pieces) / len(stages))
            self._merge(texts, made, found)
        return found

    def _batches(self, texts: Sequence[Text]) -> Iterator[list[Piece]]:
        """Yield batches, the longest texts first, so that running out of memory shows at once."""
        pieces = [
            (text, window)
            for text, it in enumerate(texts)
            if not it.error
            for window in range(len(it.pieces))
        ]
        pieces.sort(key=lambda piece: -len(texts[piece[0]].pieces[piece[1]]))
        batch: list[Piece] = []
        for text, window in pieces:
            longest = len(texts[batch[0][0]].pieces[batch[0][1]]) if batch else 0
            if batch and longest * (len(batch) + 1) > self._tokens:
                yield batch
                batch = []
            batch.append((text, window))
        if batch:
            yield batch

    def _run(
        self,
        texts: Sequence[Text],
        pieces: Sequence[Piece],
        stage: Callable[[Sequence[Piece]], Mapping[str, list[NDArray[np.float64]]]],
    ) -> Iterator[tuple[Piece, dict[str, NDArray[np.float64]]]]:
        """Run a batch; if it fails, run each piece alone, so that only the failing texts get an error."""
        valid = [piece for piece in pieces if not texts[piece[0]].error]
        if not valid:
            return
        try:
            made = stage(valid)
        except FATAL:
            raise
        except (ValueError, RuntimeError, IndexError) as error:
            if len(valid) == 1:
                texts[valid[0][0]].error = " ".join(str(error).split()) or type(error).__name__
                return
            for piece in valid:
                yield from self._run(texts, [piece], stage)
            return
        for number, piece in enumerate(valid):
            yield piece, {name: rows[number] for name, rows in made.items()}

    def _predicted(
        self, texts: Sequence[Text], pieces: Sequence[Piece]
    ) -> Mapping[str, list[NDArray[np.float64]]]:
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
        return {"": list(logits.cpu().double().numpy()), **scores}

    def _explained(
        self, texts: Sequence[Text], found: Sequence[Scored], pieces: Sequence[Piece]
    ) -> Mapping[str, list[NDArray[np.float64]]]:
        targets: list[OutputWeights] = [{(self.explained(found[text]),): 1.0} for text, _ in pieces]
        selectors = selector_tensors(targets, torch.empty(1, 1, device=self._model.device))
        request = self._request(texts, pieces, selectors)
        return {name: self._scores(name, request, texts, pieces) for name in self._second}

    def explained(self, scored: Scored) -> int:
        """Return the explained class of a text whose logits are known."""
        assert scored.logits is not None
        return int(scored.logits.argmax()) if self._target is None else self._target

    def _scores(
        self, name: str, request: AttributionRequest, texts: Sequence[Text], pieces: Sequence[Piece]
    ) -> list[NDArray[np.float64]]:
        scores = shown(name, request).cpu().double().numpy()
        return [
            row[: len(texts[text].pieces[window])] for row, (text, window) in zip(scores, pieces, strict=True)
        ]

    def _request(
        self, texts: Sequence[Text], pieces: Sequence[Piece], selectors: tuple[Tensor, ...] = ()
    ) -> AttributionRequest:
        """Return the request for texts or windows, padded on the right to the longest."""
        device = self._model.device
        places = [texts[text].pieces[window] for text, window in pieces]
        rows = []
        for (text, _), kept in zip(pieces, places, strict=True):
            it = texts[text]
            row = {"input_ids": it.ids, "special_tokens_mask": it.special}
            row["attention_mask"] = [1] * len(it.ids)
            if it.types is not None:
                row["token_type_ids"] = it.types
            rows.append({name: [values[place] for place in kept] for name, values in row.items()})
        filled = {name: values.to(device) for name, values in pad(rows, self._tokenizer).items()}
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
