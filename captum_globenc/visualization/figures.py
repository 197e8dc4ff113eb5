"""Matplotlib figures of attributions; each function draws in given axes, or in those of a new figure.

New figures grow with the number of tokens. In axes that are too small for all token labels, only every k-th
token is labeled, so that no labels overlap.

Shapes: N tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, Locator, MultipleLocator
from numpy.typing import ArrayLike, NDArray

from captum_globenc.visualization.fonts import drawable

__all__ = ["plot_comparison", "plot_layers", "plot_mixing"]

LABEL_SIZE = 8.0
"""Size of token labels, in points."""
LABEL_SPACING = 1.35
"""Minimum distance of two labels, as a multiple of their size."""
LEGEND_SIZE = 9.0
LONGEST_LABEL = 24
"""Maximum characters of a token label."""
SMALLEST, LARGEST = 4.0, 40.0
"""Minimum width and maximum size of a new figure, in inches."""
TOKEN_INCHES = LABEL_SIZE * LABEL_SPACING / 72 * 1.05

# Contrast to white of at least 4.5 to 1; distinct in lightness and hue for color-blind readers.
BAR_COLORS = ("#0b5fa5", "#b84a00", "#00664f", "#a3387a", "#5c5c5c", "#6b4bc2")


def plot_layers(
    layers: ArrayLike,
    tokens: Sequence[str],
    *,
    ax: Axes | None = None,
    relative: bool = True,
    colorbar: bool = True,
    first: int = 1,
) -> Axes:
    """Draw a heat map of the scores after every layer, layers x tokens as in the paper.

    Negative scores, such as those of exact differences, are drawn with two hues around 0.

    Args:
        layers: (L, N), one text of `GlobEnc.attribute_layers`, or (L + 1, N), one text of
            `TransformerDeepLift.attribute_layers`.
        tokens: N tokens or words (see `token_scores`).
        ax: The matplotlib axes; by default those of a new figure.
        relative: Whether to divide the scores of each layer by their largest magnitude. Otherwise the token's
            own score in the first layers hides all others.
        colorbar: Whether to draw a color bar.
        first: The number of the first row: 0 if it is at the input of layer 1, as with exact differences.

    Returns:
        The axes; the first row is the lowest.

    Raises:
        ValueError: The shapes do not match, or there is NaN or infinity.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = plot_layers([[0.2, 0.8], [0.5, 0.5]], ["a", "b"], ax=Figure().subplots())
        >>> ax.images[0].get_array().shape
        (2, 2)
    """
    values = _checked(layers, (None, len(tokens)))
    ax = _axes(ax, len(tokens), 0.25 * len(values) + _inches(tokens))
    if relative:
        values = values / _largest(values)
    _heat(ax, values, "score / largest of the layer" if relative else "score", colorbar)
    ax.yaxis.set_major_locator(_Every(len(values)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda row, _: f"{row + first:.0f}"))
    ax.tick_params(axis="y", labelsize=LABEL_SIZE)
    ax.set_ylabel("layer")
    names, families = drawable([_plain(token) for token in tokens])
    _name_tokens(ax.xaxis, names, families)
    return ax


def plot_mixing(
    mixing: ArrayLike, tokens: Sequence[str], *, ax: Axes | None = None, colorbar: bool = True
) -> Axes:
    """Draw the token-to-token matrix of one layer as a heat map.

    Args:
        mixing: (N, N), [receiver, source], one layer and text of `GlobEnc.mixing_matrices`.
        tokens: N tokens.
        ax: The matplotlib axes; by default those of a new figure.
        colorbar: Whether to draw a color bar.

    Returns:
        The axes; receivers run from top to bottom, sources from left to right.

    Raises:
        ValueError: The shapes do not match, or there is NaN or infinity.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = plot_mixing([[1.0, 0.5], [0.5, 1.0]], ["a", "b"], ax=Figure().subplots())
        >>> ax.get_xlabel(), ax.get_ylabel()
        ('source', 'receiver')
    """
    values = _checked(mixing, (len(tokens), len(tokens)))
    ax = _axes(ax, len(tokens), TOKEN_INCHES * len(tokens) + _inches(tokens))
    _heat(ax, values, "norm", colorbar)
    ax.invert_yaxis()
    ax.set_xlabel("source")
    ax.set_ylabel("receiver")
    names, families = drawable([_plain(token) for token in tokens])
    _name_tokens(ax.xaxis, names, families)
    _name_tokens(ax.yaxis, names, families)
    return ax


def plot_comparison(
    methods: Mapping[str, ArrayLike],
    tokens: Sequence[str],
    *,
    ax: Axes | None = None,
    relative: bool = True,
) -> Axes:
    """Draw the scores of several methods side by side as bars.

    Args:
        methods: By method, N scores.
        tokens: N tokens or words (see `token_scores`).
        ax: The matplotlib axes; by default those of a new figure.
        relative: Whether to divide the scores of each method by their largest magnitude, because methods
            differ in scale.

    Returns:
        The axes, with one container of bars per method.

    Raises:
        ValueError: There is no method, the shapes do not match, or there is NaN or infinity.

    Example:
        >>> from matplotlib.figure import Figure
        >>> scores = {"GlobEnc": [0.2, 0.8], "gradients": [-3.0, 1.5]}
        >>> ax = plot_comparison(scores, ["a", "b"], ax=Figure().subplots())
        >>> [float(bar.get_height()) for bar in ax.containers[1]]
        [-1.0, 0.5]
    """
    if not methods:
        raise ValueError("no method to draw")
    rows = {name: _checked(scores, (len(tokens),)) for name, scores in methods.items()}
    columns = min(len(rows), 3)
    names, families = drawable([_plain(name) for name in (*tokens, *rows)])
    names, labels = names[: len(tokens)], names[len(tokens) :]
    longest = max(map(len, labels))
    legend = columns * (0.6 + longest * LEGEND_SIZE * 0.6 / 72)
    columns_needed = max(len(tokens) * max(1.0, 0.4 * len(rows)), legend / TOKEN_INCHES)
    ax = _axes(ax, columns_needed, 2.0 + _inches(tokens))
    width = 0.8 / len(rows)
    for number, (label, row) in enumerate(zip(labels, rows.values(), strict=True)):
        heights = row / _largest(row) if relative else row
        positions = np.arange(len(tokens)) + (number - (len(rows) - 1) / 2) * width
        color = BAR_COLORS[number % len(BAR_COLORS)]
        ax.bar(positions, heights, width, label=label, color=color)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlim(-0.6, len(tokens) - 0.4)
    ax.set_ylabel("score / largest" if relative else "score")
    font = FontProperties(family=families, size=LEGEND_SIZE)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, prop=font)
    _name_tokens(ax.xaxis, names, families)
    return ax


class _Every(Locator):
    """Ticks at every k-th of `count` integers, with the smallest k whose labels do not overlap.

    The ticks are computed whenever the figure is drawn, so they follow resizing, layout and zoom.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self) -> Any:
        axis: Any = self.axis
        return self.tick_values(*axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the positions of the ticks within the view, a list of integers."""
        axis: Any = self.axis
        low, high = sorted((vmin, vmax))
        box = axis.axes.get_window_extent()
        length = box.width if axis.axis_name == "x" else box.height
        points = length / axis.axes.figure.get_dpi() * 72 / max(high - low, 1e-9)  # per token
        step = max(1, math.ceil(LABEL_SIZE * LABEL_SPACING / max(points, 1e-9) - 1e-6))
        first = max(0, math.ceil(low))
        return list(range(first + -first % step, min(self.count - 1, math.floor(high)) + 1, step))


def _name_tokens(axis: XAxis | YAxis, names: Sequence[str], families: Sequence[str]) -> None:
    """Label the ticks of an axis with tokens."""

    def name(place: float, _: int | None) -> str:
        index = round(place)
        return names[index] if 0 <= index < len(names) else ""

    axis.set_major_locator(_Every(len(names)))
    axis.set_major_formatter(FuncFormatter(name))
    axis.set_minor_locator(MultipleLocator(1))
    axis.set_tick_params(which="minor", length=1.5)
    axis.set_tick_params(which="major", labelsize=LABEL_SIZE, labelfontfamily=families)
    if isinstance(axis, XAxis):
        axis.set_tick_params(which="major", labelrotation=90)


def _inches(tokens: Sequence[str]) -> float:
    """Return the height of the labels along the x axis, including the axis label, in inches."""
    longest = min(max(map(len, tokens), default=0), LONGEST_LABEL)
    return 0.5 + longest * LABEL_SIZE * 0.75 / 72


def _plain(text: str) -> str:
    """Return a text as a label: shortened, on one line, with escaped dollar signs."""
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    if len(line) > LONGEST_LABEL:
        line = line[: LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return line.replace("$", r"\$")


def _heat(ax: Axes, values: NDArray[np.float64], label: str, colorbar: bool) -> None:
    """Draw a matrix, with one hue from 0, or with two hues around 0 if there are negative values."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    signed = bool((values < 0).any())
    image = ax.imshow(
        values,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="PuOr_r" if signed else "viridis",
        vmin=-largest if signed else 0.0,
        vmax=largest,
    )
    if colorbar:
        width = ax.get_window_extent().width / ax.figure.dpi
        ax.figure.colorbar(
            image, ax=ax, label=label, fraction=min(0.15, 0.6 / width), pad=min(0.05, 0.1 / width)
        )


def _largest(values: NDArray[np.float64]) -> Any:
    """Return the largest magnitude of each row; 1 for rows of zeros."""
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return np.where(largest > 0, largest, 1.0)


def _axes(ax: Axes | None, tokens: float, height: float) -> Axes:
    """Return `ax`, or the axes of a new figure that is wide enough for the tokens."""
    if ax is not None:
        return ax
    width = min(max(TOKEN_INCHES * tokens + 1.8, SMALLEST), LARGEST)
    _, made = pyplot.subplots(figsize=(width, min(max(height, 2.0), LARGEST)), layout="constrained")
    return made


def _checked(values: Any, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Return values as an array, and check that they are finite and of a shape; None matches any size."""
    if hasattr(values, "detach"):  # a tensor on any device
        values = values.detach().cpu()
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape) or any(
        size != wanted for size, wanted in zip(array.shape, shape, strict=True) if wanted is not None
    ):
        expected = ", ".join("L" if size is None else str(size) for size in shape)
        raise ValueError(f"values of shape {array.shape} do not fit the tokens: ({expected}) is needed")
    if not np.isfinite(array).all():
        raise ValueError("values hold NaN or infinity")
    if 0 in array.shape:
        raise ValueError("there is nothing to draw")
    return array
