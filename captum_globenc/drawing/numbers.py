"""Scores as numbers that are read: in their unit, with their sign, and how strong they are among others."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DEPTHS", "SHARE", "depths_note", "is_signed", "number", "strengths"]

SHARE = "%"
"""The unit of scores that are shares of a whole."""

DEPTHS = {
    "shares": "After layer k: the shares in what the explained position has gathered up to there. The score "
    "is the one after the last layer.",
    "signed": "After layer k: the contributions of the hidden states there, at 0 of the embeddings. They sum "
    "to the same after every layer. The score is the one at 0. After the last layer, only positions that "
    "the head reads contribute, and all others are 0.",
}
"""What scores after each layer are: shares, and signed scores."""


def depths_note(unit: str) -> str:
    """Return what scores in a unit are after each layer.

    Example:
        >>> depths_note("%") == DEPTHS["shares"], depths_note("logit") == DEPTHS["signed"]
        (True, True)
    """
    return DEPTHS["shares" if unit in (SHARE, "share") else "signed"]


def strengths(scores: Sequence[float], largest: float | None = None) -> list[float]:
    """Scale the scores of one text to -1..1 by the largest magnitude, or one that is given; zeros stay zeros.

    Example:
        >>> strengths([0.1, -0.4, 0.2])
        [0.25, -1.0, 0.5]
    """
    if largest is None:
        largest = max(map(abs, scores), default=0.0)
    return [score / largest if largest else 0.0 for score in scores]


def number(score: float, unit: str | None = None) -> str:
    """Write a score in a unit: a share in per cent, what speaks for and against with its sign.

    Example:
        >>> number(0.125, "%"), number(0.125, "logit"), number(-1e-9, "logit"), number(0.125)
        ('12.5', '+0.125', '0.000', '0.1250')
    """
    if unit is None:
        return f"{score:.4f}"
    if unit == SHARE:
        return f"{100 * score:.1f}"
    text = f"{score:+.3f}"
    return text if text.strip("+-0.") else "0.000"


def is_signed(scores: Sequence[float], unit: str | None = None) -> bool:
    """Whether scores speak for and against something, rather than being shares.

    Example:
        >>> is_signed([0.5, 0.5]), is_signed([0.5, 0.5], "logit"), is_signed([0.5, -0.5])
        (False, True, True)
    """
    return min(scores, default=0.0) < 0 if unit is None else unit != SHARE
