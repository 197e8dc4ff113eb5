"""Select the outputs of a question answering model: start and end of the answer that its pipeline finds.

Shapes: R rows, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import shorten
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.results.record import Span
from captum_globenc.texts.outputs import ExplainedOutput, OutputWeights, Predictions

__all__ = ["select_answers"]

MAX_ANSWER_TOKENS = 15
"""The largest number of tokens of an answer, as in the pipeline of transformers."""

CANDIDATES = 12
"""The number of candidate answers per row; candidates with the same words are merged."""

ENDS = ("start", "end")
"""The targets of an answer, in the order of the model's outputs."""


class _Answer(NamedTuple):
    """An answer: its tokens, the span and text of its words, and the sum over candidates with this text."""

    probability: float
    row: int
    start: int
    end: int
    span: Span
    text: str


def select_answers(predictions: Predictions) -> list[ExplainedOutput]:
    """Select the sum of the start and end logits of the answer to each question.

    Args:
        predictions: start and end logits `(R, N, 2)`. Texts are questions, pairs are contexts.

    Returns:
        One output for each text: the most likely answer of all its windows.

    Raises:
        ValueError: a question has no context, `target` is neither "start" nor "end", or there is a contrast
            class.
    """
    if predictions.options.against is not None:
        raise ValueError("an answer has no contrast class: leave against out")
    if predictions.options.single not in (None, *ENDS):
        raise ValueError(
            f"target {predictions.options.single!r} is not one of an answer's targets: {', '.join(ENDS)}"
        )
    return [_explained_output(predictions, text, rows) for text, rows in enumerate(predictions.encoded.rows)]


def _explained_output(predictions: Predictions, text: int, rows: Sequence[int]) -> ExplainedOutput:
    best = max((_best(predictions, text, row) for row in rows), key=lambda it: it.probability)
    ends: dict[str, OutputWeights] = {"start": {(best.start, 0): 1.0}, "end": {(best.end, 1): 1.0}}
    both = {**ends["start"], **ends["end"]}
    one = str(predictions.options.single or "")
    terms = ends.get(one, both)
    return ExplainedOutput(
        text=text,
        rows=[best.row],
        terms=terms,
        prediction=best.text.strip(),
        probability=best.probability,
        value=predictions.sum_of([best.row], both),
        target=f"the {one} of {best.text.strip()}" if one else best.text.strip(),
        explained=predictions.sum_of([best.row], terms),
        tokens=list(dict.fromkeys(position for position, _ in terms)),
        span=best.span,
    )


def _best(predictions: Predictions, text: int, row: int) -> _Answer:
    """Return the most likely answer of a row."""
    by_text: dict[str, list[_Answer]] = {}
    for probability, start, end in _candidates(predictions, row):
        span = _word_span(predictions, text, row, start, end)
        answer = str(predictions.pairs[text])[span.start : span.stop]
        by_text.setdefault(answer.lower(), []).append(_Answer(probability, row, start, end, span, answer))
    if not by_text:
        raise ValueError(f"the model finds no answer at all in {shorten(str(predictions.pairs[text]), 40)!r}")
    sums = {answer: math.fsum(it.probability for it in same) for answer, same in by_text.items()}
    best = max(sums, key=lambda answer: sums[answer])
    return by_text[best][0]._replace(probability=sums[best])


def _candidates(predictions: Predictions, row: int) -> list[tuple[float, int, int]]:
    """Return the most likely answers of a row as (probability, first token, last token), in descending order.

    The softmax runs over the second segment and [CLS], the token for no answer.
    """
    spans = predictions.spans(row)
    inside = torch.tensor([it.segment == 1 for it in spans])
    if not inside.any():
        raise ValueError(
            "a question needs a context: pass the text that contains the answer as pair or context"
        )
    counted, none = inside, predictions.loaded.tokenizer.cls_token_id
    if none is not None:
        counted = inside | (predictions.encoded.batch["input_ids"][row, : len(spans)].cpu() == none)
    outputs = predictions.outputs[row, : len(spans)].double().cpu()
    ends = outputs.masked_fill(~counted[:, None], -torch.inf).softmax(0).masked_fill(~inside[:, None], 0)
    likely: Tensor = (ends[:, :1] * ends[:, 1]).triu().tril(MAX_ANSWER_TOKENS - 1).flatten()
    best = likely.topk(min(CANDIDATES, len(likely)))
    found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return [(value, *divmod(index, len(spans))) for value, index in found if value > 0]


def _word_span(predictions: Predictions, text: int, row: int, start: int, end: int) -> Span:
    """Return the character offsets of the whole words from token `start` to token `end`."""
    encoding: Any = (predictions.encoded.whole.encodings or [])[text]
    tokens, spans = predictions.encoded.positions[row], predictions.spans(row)
    ends = []
    for token in (start, end):
        word = encoding.token_to_word(tokens[token])
        ends.append(spans[token] if word is None else Span(*encoding.word_to_chars(word, 1)))
    return Span(ends[0].start, ends[1].stop, 1)
