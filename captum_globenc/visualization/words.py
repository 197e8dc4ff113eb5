"""A figure of the words with the highest scores for each class of a data set."""

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
    """Draw one panel per class with one bar per word.

    Args:
        classes: by class, words and their scores, in the order from top to bottom.

    Returns:
        The figure, created without pyplot; `savefig` saves it.

    Raises:
        ValueError: there are no words.

    Example:
        >>> figure = plot_words({"POSITIVE": [("great", 0.4), ("dull", -0.1)]})
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [0.4, -0.1]
    """
    # Does not use pyplot, whose global state belongs to the user.
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
