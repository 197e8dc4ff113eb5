"""Format scores as numbers with unit and sign, and scale them for shading."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["DEPTHS", "SHARE", "depths_note", "is_signed", "number", "strengths"]

SHARE = "%"
"""The unit of scores that are shares of a whole."""

DEPTHS = {
    "shares": "After layer k: the share of each token in the explained position after this layer. The score "
    "is the share after the last layer.",
    "signed": "After layer k: the contributions of the hidden states after this layer; 0 is the embeddings. "
    "The sum is the same after every layer. The score is the contribution at 0. After the last layer, only "
    "positions that the head reads contribute, and all others are 0.",
}
"""Explanations of the scores after each layer, for shares and for signed scores."""


def depths_note(unit: str) -> str:
    """Return the explanation of scores after each layer, for a unit.

    Example:
        >>> depths_note("%") == DEPTHS["shares"], depths_note("logit") == DEPTHS["signed"]
        (True, True)
    """
    return DEPTHS["shares" if unit in (SHARE, "share") else "signed"]


def strengths(scores: Sequence[float], largest: float | None = None) -> list[float]:
    """Divide the scores of one text by `largest`, by default their largest magnitude; zeros stay zeros.

    Example:
        >>> strengths([0.1, -0.4, 0.2])
        [0.25, -1.0, 0.5]
    """
    if largest is None:
        largest = max(map(abs, scores), default=0.0)
    return [score / largest if largest else 0.0 for score in scores]


def number(score: float, unit: str | None = None) -> str:
    """Format a score: a share in percent, other units with a sign, without a unit with four digits.

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
    """Return whether scores are signed, rather than shares; without a unit, whether one is negative.

    Example:
        >>> is_signed([0.5, 0.5]), is_signed([0.5, 0.5], "logit"), is_signed([0.5, -0.5])
        (False, True, True)
    """
    return min(scores, default=0.0) < 0 if unit is None else unit != SHARE
