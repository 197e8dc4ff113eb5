"""A word, and what it scores by its tokens.

N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

__all__ = ["REDUCTIONS", "Scored", "Word", "merge_scores"]

REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "max": lambda scores: max(scores, key=abs),
}
"""How the scores of a word's tokens become one; "max" is the largest magnitude, with its sign."""


class Scored(Protocol):
    """What is scored by tokens: a word, a piece of a text."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The places of its tokens."""


class Word(NamedTuple):
    """A word of a text, or a special token.

    Attributes:
        text: What it reads: in the text it came from, where `find_words` was given that; otherwise as
            far as its tokens tell, and an uncased tokenizer's words have no capitals.
        tokens: The positions of its tokens in the padded row of N, in order.
        special: Whether the tokenizer put it there: [CLS], [SEP], but no padding, which is no word.
    """

    text: str
    tokens: tuple[int, ...]
    special: bool


def merge_scores(scores: Sequence[float], words: Iterable[Scored], reduce: str = "sum") -> list[float]:
    """Score words by their tokens; sums add up to what the tokens add up to.

    Args:
        scores: N scores of tokens.
        words: The words of the same text, or whatever else has `tokens`.
        reduce: One of `REDUCTIONS`: "sum", "mean" or "max".

    Returns:
        One score a word.

    Raises:
        ValueError: ``reduce`` is not known.

    Example:
        >>> words = [Word("unhappy", (0, 1), False), Word(".", (2,), False)]
        >>> merge_scores([0.5, -0.75, 0.25], words), merge_scores([0.5, -0.75, 0.25], words, "max")
        ([-0.25, 0.25], [-0.75, 0.25])
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"no way {reduce!r} to score a word; known: {', '.join(REDUCTIONS)}")
    return [float(REDUCTIONS[reduce]([scores[token] for token in word.tokens])) for word in words]
