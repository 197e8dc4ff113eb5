"""The figure of one explanation: bars of its words, or a heat map of layers and words.

W words, L layers.
"""

from __future__ import annotations

from textwrap import wrap

from matplotlib.axes import Axes

from captum_globenc.drawing.numbers import SHARE
from captum_globenc.results.record import Record
from captum_globenc.results.words import merge_scores
from captum_globenc.visualization.figures import plot_comparison, plot_layers
from captum_globenc.visualization.fonts import drawable

__all__ = ["plot_explanation"]

TITLE = 48
"""Maximum characters of a line of the title."""


def plot_explanation(
    record: Record,
    method: str | None = None,
    *,
    layers: bool = False,
    special: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the scores of an explanation's words: bars, or a heat map over the layers.

    Args:
        record: The explanation.
        method: The method; by default the first with signed scores.
        layers: Whether to draw a heat map of layers x words instead of bars.
        special: Whether special tokens such as [CLS] are drawn.
        ax: The matplotlib axes; by default those of a new figure.

    Returns:
        The axes, titled with the headline and the method.

    Raises:
        ValueError: There are no scores of `method`, or none per layer.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> from matplotlib.figure import Figure
        >>> (explanation,) = explain(["Simply wonderful."], *load_default())
        >>> ax = plot_explanation(explanation, special=False, ax=Figure().subplots())
        >>> [round(float(bar.get_height()), 3) for bar in ax.patches] == [
        ...     round(score, 3) for _, score in explanation.words(special=False)
        ... ]
        True
    """
    name = record.chosen(method)
    pieces = [piece for text in record.pieces() for piece in text if piece.tokens]
    shown = [piece for piece in pieces if special or not piece.special]
    words = [piece.text for piece in shown]
    unit = record.units[name]
    if layers:
        rows = record.layers.get(name)
        if not rows:
            raise ValueError(f"{name} has no scores of layers: explain with layers=True")
        first = 1 if unit in (SHARE, "share") else 0
        ax = plot_layers([merge_scores(row, shown) for row in rows], words, first=first, ax=ax)
    else:
        scores = merge_scores(record.scores[name], shown)
        ax = plot_comparison({name: scores}, words, relative=False, ax=ax)
        if (legend := ax.get_legend()) is not None:
            legend.remove()  # the title names the one method
        ax.set_ylabel("share" if unit == SHARE else unit)
    lines, families = drawable([it.replace("$", r"\$") for it in (*wrap(record.heading, TITLE), name)])
    ax.set_title("\n".join(lines), fontsize="small", loc="left", fontfamily=families)
    return ax
