"""What is asked of a model that answers questions: the answer that its pipeline would find, start and end.

Letters: R rows, N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.results.record import Span
from captum_globenc.texts.asked import Asked, Given, Picks

__all__ = ["ask_answers"]

LONGEST = 15
"""How many tokens an answer has at most, as in the pipeline of transformers."""

ENDS = ("start", "end")
"""What may be explained of an answer by itself, in the order of the model's outputs."""


class _Answer(NamedTuple):
    """An answer: how likely it is, its row, and the tokens that it begins and ends with."""

    probability: float
    row: int
    start: int
    end: int


def ask_answers(given: Given) -> list[Asked]:
    """Ask why a passage answers a question: the outputs for its start and for its end, added up.

    Args:
        given: outputs `(R, N, 2)` for start and end. A text is a question, and its pair holds the answer.

    Returns:
        One for each text: of its windows, the likeliest answer.

    Raises:
        ValueError: a question comes without a text, `target` is none of "start" and "end", or there is
            something to hold it against.
    """
    if given.options.against is not None:
        raise ValueError("an answer has no class to hold against another: leave against out")
    if given.options.single not in (None, *ENDS):
        raise ValueError(f"target {given.options.single!r} is none of an answer's: {', '.join(ENDS)}")
    return [_asked(given, text, rows) for text, rows in enumerate(given.encoded.rows)]


def _asked(given: Given, text: int, rows: Sequence[int]) -> Asked:
    best = max((_best(given, row) for row in rows), key=lambda it: it.probability)
    span, read = _words(given, text, best)
    ends: dict[str, Picks] = {"start": {(best.start, 0): 1.0}, "end": {(best.end, 1): 1.0}}
    both = {**ends["start"], **ends["end"]}
    one = str(given.options.single or "")
    picks = ends.get(one, both)
    return Asked(
        text=text,
        rows=[best.row],
        picks=picks,
        prediction=read,
        probability=best.probability,
        value=given.sum_of([best.row], both),
        target=f"the {one} of {read}" if one else read,
        explained=given.sum_of([best.row], picks),
        tokens=[place for place, _ in picks],
        span=span,
    )


def _best(given: Given, row: int) -> _Answer:
    """Return the likeliest answer of a row: a stretch of the second segment that is not too long.

    What takes part in the softmax next to that segment is the token that stands for no answer, [CLS].
    """
    places = given.spans(row)
    inside = torch.tensor([it.segment == 1 for it in places])
    if not inside.any():
        raise ValueError("a question needs a text that holds the answer: pass it as pair")
    counted, none = inside, given.subject.tokenizer.cls_token_id
    if none is not None:
        counted = inside | (given.encoded.batch["input_ids"][row, : len(places)].cpu() == none)
    outputs = given.outputs[row, : len(places)].double().cpu()
    start, end = (
        outputs.masked_fill(~counted[:, None], -torch.inf).softmax(0).masked_fill(~inside[:, None], 0).T
    )
    likely: Tensor = (start[:, None] * end).triu().tril(LONGEST - 1)
    best = int(likely.argmax())
    first, last = divmod(best, len(places))
    return _Answer(float(likely[first, last]), row, first, last)


def _words(given: Given, text: int, answer: _Answer) -> tuple[Span, str]:
    """Return where the words of an answer stand, and what they read."""
    encoding: Any = (given.encoded.whole.encodings or [])[text]
    tokens, told = given.encoded.places[answer.row], given.spans(answer.row)
    ends = []
    for token in (answer.start, answer.end):
        word = encoding.token_to_word(tokens[token])
        ends.append(told[token] if word is None else Span(*encoding.word_to_chars(word, 1)))
    span = Span(ends[0].start, ends[1].stop, 1)
    return span, str(given.pairs[text])[span.start : span.stop]
