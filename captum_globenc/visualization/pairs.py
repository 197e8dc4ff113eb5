"""A figure of two texts, token by token.

Shapes: N tokens of a text, M tokens of the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from captum_globenc.visualization.figures import (
    TOKEN_INCHES,
    _axes,
    _checked,
    _heat,
    _inches,
    _name_tokens,
    _plain,
)
from captum_globenc.visualization.fonts import drawable

__all__ = ["plot_pairs"]


def plot_pairs(
    scores: ArrayLike,
    tokens: Sequence[str],
    others: Sequence[str],
    *,
    ax: Axes | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw what every pair of tokens of two texts scores, such as `similarity_matrix` finds.

    Args:
        scores: (M, N).
        tokens: N tokens of the text.
        others: M tokens of the other.
        ax: Where to draw; left out, a figure of its own.
        colorbar: Whether to say what the colours mean, next to the axes.

    Returns:
        The axes; the text from left to right, the other from top to bottom.

    Raises:
        ValueError: The shapes do not fit, or there is NaN or infinity.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = plot_pairs([[0.5, -0.1]], ["a", "b"], ["c"], ax=Figure().subplots())
        >>> ax.images[0].get_array().shape
        (1, 2)
    """
    values = _checked(scores, (len(others), len(tokens)))
    ax = _axes(ax, len(tokens), TOKEN_INCHES * len(others) + _inches(tokens))
    _heat(ax, values, "score", colorbar)
    ax.invert_yaxis()
    for axis, named in ((ax.xaxis, tokens), (ax.yaxis, others)):
        _name_tokens(axis, *drawable([_plain(token) for token in named]))
    return ax
