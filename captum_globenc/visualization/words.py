"""Bars of the words that weigh most for each class over a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from captum_globenc.visualization.fonts import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_words"]

COLUMNS = 3
POSITIVE, NEGATIVE = "#c44e00", "#0066cc"
LONGEST = 24


def plot_words(classes: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """Draw a panel per class, a bar per word.

    Args:
        classes: words and what they weigh, by class, in the order from above.

    Returns:
        The figure, made without pyplot: `.savefig` writes it.

    Raises:
        ValueError: there is nothing to draw.

    Example:
        >>> figure = plot_words({"POSITIVE": [("great", 0.4), ("dull", -0.1)]})
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [0.4, -0.1]
    """
    # Built without pyplot, whose state belongs to the user.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not any(classes.values()):
        raise ValueError("there are no words to draw")
    columns = min(COLUMNS, len(classes))
    lines = math.ceil(len(classes) / columns)
    most = max(map(len, classes.values()))
    figure = Figure(figsize=(1 + 3.2 * columns, lines * (1 + 0.2 * most)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharex=True, squeeze=False).flatten()
    for panel, (label, words) in zip(panels, classes.items(), strict=False):
        names, families = drawable([word[:LONGEST].replace("$", r"\$") for word, _ in words])
        scores = [score for _, score in words]
        panel.barh(range(len(words)), scores, color=[NEGATIVE if it < 0 else POSITIVE for it in scores])
        panel.set_yticks(range(len(words)), names, fontsize=8, fontfamily=families)
        panel.invert_yaxis()
        panel.axvline(0, color="#707070", linewidth=0.8)
        panel.set_title(label.replace("$", r"\$"), fontsize=9)
        panel.set_xlabel("mean score", fontsize=8)
        panel.tick_params(axis="x", labelsize=7)
    for panel in panels[len(classes) :]:
        panel.remove()
    return figure
