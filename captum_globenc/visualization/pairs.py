"""A figure of the scores of token pairs of two texts.

Shapes: N tokens of the first text, M tokens of the second.
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
    """Draw the scores of all pairs of tokens of two texts as a heat map.

    Args:
        scores: (M, N), for example from `similarity_matrix`.
        tokens: N tokens of the first text.
        others: M tokens of the second text.
        ax: The matplotlib axes; by default those of a new figure.
        colorbar: Whether to draw a color bar.

    Returns:
        The axes; the first text runs from left to right, the second from top to bottom.

    Raises:
        ValueError: The shapes do not match, or there is NaN or infinity.

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
