"""Words, sentences and spans of a text, and their scores.

N tokens.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

__all__ = [
    "REDUCTIONS",
    "Part",
    "Parts",
    "Scored",
    "Span",
    "Word",
    "check_spans",
    "merge_scores",
    "score_spans",
    "sentence_spans",
    "tokens_of_spans",
]

REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "max": lambda scores: max(scores, key=abs),
}
"""Functions that combine the scores of a word's tokens; "max" is the score of largest magnitude."""


class Scored(Protocol):
    """An object with tokens, such as a word or a piece of a text."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The positions of its tokens."""


class Word(NamedTuple):
    """A word of a text, or a special token.

    Attributes:
        text: The word as written in the text if `find_words` had the text; otherwise decoded from its
            tokens, in lower case for uncased tokenizers.
        tokens: The positions of its tokens in the padded row of N, in order.
        special: Whether it is a special token such as [CLS] or [SEP]. Padding is not a word.
    """

    text: str
    tokens: tuple[int, ...]
    special: bool


class Span(NamedTuple):
    """A span of characters of the text (segment 0) or its pair (segment 1); `stop` is exclusive."""

    start: int
    stop: int
    segment: int = 0


def merge_scores(scores: Sequence[float], words: Iterable[Scored], reduce: str = "sum") -> list[float]:
    """Combine the scores of tokens into scores of words.

    Args:
        scores: N scores of tokens.
        words: The words of the same text, or other objects with `tokens`.
        reduce: A key of `REDUCTIONS`: "sum", which keeps the total, "mean" or "max".

    Returns:
        One score per word.

    Raises:
        ValueError: ``reduce`` is unknown.

    Example:
        >>> words = [Word("unhappy", (0, 1), False), Word(".", (2,), False)]
        >>> merge_scores([0.5, -0.75, 0.25], words), merge_scores([0.5, -0.75, 0.25], words, "max")
        ([-0.25, 0.25], [-0.75, 0.25])
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce is {reduce!r}: one of {', '.join(REDUCTIONS)}")
    return [float(REDUCTIONS[reduce]([scores[token] for token in word.tokens])) for word in words]


Part = tuple[str, float]
"""The text of a part, and its score."""


class Parts(list[Part]):
    """A list of parts and their scores. Its repr rounds scores to three digits; the scores are exact.

    Example:
        >>> parts = Parts([("wonderful", 1.9306542873382568), ("thin", -0.00039)])
        >>> parts, parts[0][1]
        ([('wonderful', 1.93), ('thin', -0.00039)], 1.9306542873382568)
    """

    def __repr__(self) -> str:
        return f"[{', '.join(f'({text!r}, {_rounded(score)})' for text, score in self)}]"

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Parts(found) if isinstance(index, slice) else found


def _rounded(score: float) -> str:
    return f"{score:.3g}" if abs(score) < 1000 else f"{score:.0f}"


_MARKS, _WIDE_MARKS = r".!?\u2026", r"\u3002\uff01\uff1f"
_CLOSING = r"\"'\u201d\u2019\u00bb)\]\u300d\u300f"
# A sentence ends at a mark before white space, at a full-width mark, and at the end of a line.
_SENTENCE = re.compile(
    rf"\S(?:[^\n]*?(?:(?<![{_MARKS}])[{_MARKS}]++[{_CLOSING}]*+(?=\s|$)|[{_WIDE_MARKS}]++[{_CLOSING}]*+)|[^\n]*)"
)


def sentence_spans(*sources: str) -> list[Span]:
    """Split a text, or a text and its pair, into sentences, at punctuation and line ends.

    Abbreviations are not recognized: "e.g. this" is split. Use `score_spans` with spans of another splitter.

    Example:
        >>> [(it.start, it.stop) for it in sentence_spans("Dull. Is it? No")]
        [(0, 5), (6, 12), (13, 15)]
    """
    return [
        Span(it.start(), it.start() + len(it.group().rstrip()), segment)
        for segment, source in enumerate(sources)
        for it in _SENTENCE.finditer(source)
    ]


def check_spans(sources: Sequence[str], spans: Sequence[Span]) -> None:
    """Check that spans are inside the text or its pair, and do not overlap.

    Raises:
        ValueError: A span is outside, or two overlap.
    """
    for span in spans:
        if span.segment not in range(len(sources)):
            raise ValueError(f"there is no segment {span.segment}: 0 is the text, 1 its pair")
        length = len(sources[span.segment])
        if not 0 <= span.start < span.stop <= length:
            raise ValueError(
                f"span ({span.start}, {span.stop}) is empty or outside a text of {length} characters"
            )
    for before, after in pairwise(sorted(spans, key=lambda it: (it.segment, it.start))):
        if before.segment == after.segment and after.start < before.stop:
            raise ValueError(
                f"spans {tuple(before[:2])} and {tuple(after[:2])} overlap: a token would count twice"
            )


def tokens_of_spans(
    sources: Sequence[str], offsets: Sequence[Span | None], spans: Sequence[Span]
) -> list[Word]:
    """Return the tokens of each span as a word; a token belongs to the span with most of its characters.

    Args:
        sources: The text, and its pair if there is one.
        offsets: Character spans of the N tokens; None for special tokens.
        spans: Spans that do not overlap.

    Returns:
        One word per span, in the order of `spans`, and last a word with the text "" of all other tokens.

    Raises:
        ValueError: Spans overlap or are outside the texts, or there are no offsets.
    """
    if not offsets:
        raise ValueError("the character offsets of the tokens are unknown: explain with a fast tokenizer")
    check_spans(sources, spans)
    held: list[list[int]] = [[] for _ in [*spans, None]]
    for token, place in enumerate(offsets):
        shared = {
            index: size
            for index, span in enumerate(spans)
            if place is not None
            and place.segment == span.segment
            and (size := min(place.stop, span.stop) - max(place.start, span.start)) > 0
        }
        # If several spans share most characters, the first one.
        held[max(shared, key=lambda index: shared[index]) if shared else -1].append(token)
    read = [*(sources[span.segment][span.start : span.stop] for span in spans), ""]
    return [Word(text, tuple(tokens), False) for text, tokens in zip(read, held, strict=True)]


def score_spans(
    sources: Sequence[str],
    offsets: Sequence[Span | None],
    scores: Sequence[float],
    spans: Sequence[Span],
) -> list[Part]:
    """Sum the scores of tokens by span; a token belongs to the span with most of its characters.

    Args:
        sources: The text, and its pair if there is one.
        offsets: Character spans of the N tokens; None for special tokens.
        scores: N scores.
        spans: Spans that do not overlap.

    Returns:
        `(text, score)` per span, in the order of `spans`, and last of all other tokens, with the text "". The
        sum equals the sum of `scores`.

    Raises:
        ValueError: Spans overlap or are outside the texts, or there are no offsets.

    Example:
        >>> score_spans(["ab cd"], [None, Span(0, 2), Span(3, 5)], [0.5, 1.0, 2.0], [Span(3, 5)])
        [('cd', 2.0), ('', 1.5)]
    """
    words = tokens_of_spans(sources, offsets, spans)
    return [*zip((word.text for word in words), merge_scores(scores, words), strict=True)]
