"""Matplotlib figures of attributions: `plot_...` draw in given axes, or in a new figure.

New figures grow with the number of tokens. In axes that are too small for all token labels, only every k-th
token is labeled, so that no labels overlap.

Shapes: N tokens, M tokens of a second text, L layers.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import FuncFormatter, Locator, MultipleLocator
from numpy.typing import ArrayLike, NDArray

from captum_globenc.drawing.numbers import SHARE
from captum_globenc.results.record import Record
from captum_globenc.results.words import merge_scores
from captum_globenc.visualization.fonts import drawable

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

TITLE = 48
"""Maximum characters of a line of the title."""

COLUMNS = 3
POSITIVE, NEGATIVE = "#c44e00", "#0066cc"
LONGEST = 24


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

    Negative scores, as with exact differences, are drawn with two hues around 0.

    Args:
        layers: (L, N), one text of `GlobEnc.attribute_layers`, or (L + 1, N), one text of
            `TransformerDeepLift.attribute_layers`.
        tokens: N tokens or words (see `token_scores`).
        ax: The matplotlib axes; by default a new figure's.
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
        ax: The matplotlib axes; by default a new figure's.
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
        ax: The matplotlib axes; by default a new figure's.
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
    from matplotlib import pyplot  # only here, because its global state belongs to the user

    width = min(max(TOKEN_INCHES * tokens + 1.8, SMALLEST), LARGEST)
    _, made = pyplot.subplots(figsize=(width, min(max(height, 2.0), LARGEST)), layout="constrained")
    return made


def _checked(values: Any, shape: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Return values as an array, and check that they are finite and of a shape; None matches any size."""
    if hasattr(values, "detach"):  # a tensor on any device
        values = values.detach().cpu().double()  # NumPy has no bfloat16
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != len(shape) or any(
        size != wanted for size, wanted in zip(array.shape, shape, strict=True) if wanted is not None
    ):
        expected = ", ".join("L" if size is None else str(size) for size in shape)
        raise ValueError(f"values of shape {array.shape} do not fit the tokens: ({expected}) is needed")
    if not np.isfinite(array).all():
        raise ValueError("values contain NaN or infinity")
    if 0 in array.shape:
        raise ValueError("there is nothing to draw")
    return array


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
        ax: The matplotlib axes; by default a new figure's.

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
        ax: The matplotlib axes; by default a new figure's.
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


def plot_words(classes: Mapping[str, Sequence[tuple[str, float]]]) -> Figure:
    """Draw one panel per class with one bar per word.

    Args:
        classes: by class, words and their scores, in the order from top to bottom.

    Returns:
        The figure, created without pyplot; `savefig` saves it.

    Raises:
        ValueError: there are no words, or there is NaN or infinity.

    Example:
        >>> figure = plot_words({"POSITIVE": [("great", 0.4), ("dull", -0.1)]})
        >>> [float(bar.get_width()) for bar in figure.axes[0].patches]
        [0.4, -0.1]
    """
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
        scores = np.array([score for _, score in words], np.float64)
        if len(scores):
            _checked(scores, (len(words),))
        panel.barh(range(len(words)), scores, color=[NEGATIVE if it < 0 else POSITIVE for it in scores])
        panel.set_yticks(range(len(words)), names, fontsize=8, fontfamily=families)
        panel.invert_yaxis()
        panel.axvline(0, color="#707070", linewidth=0.8)
        panel.set_title(str(label).replace("$", r"\$"), fontsize=9)
        panel.set_xlabel("mean score", fontsize=8)
        panel.tick_params(axis="x", labelsize=7)
    for panel in panels[len(classes) :]:
        panel.remove()
    return figure


def draw_media(explanation: Record) -> Figure:
    """Draw an image or a sound, and the scores of its parts by each method.

    Args:
        explanation: The explanation of an image or a sound, from `captum_globenc.media.explain_file` or
            loaded from a file.

    Returns:
        The figure, created without pyplot; `savefig` saves it.

    Raises:
        ValueError: The explanation is of a text.
    """
    from PIL import Image

    picture = explanation.picture
    if picture is None:
        raise ValueError("this is the explanation of a text: there is no image or sound to draw")
    content = base64.b64decode(picture.source.partition(",")[2])
    pixels = Image.open(io.BytesIO(content))
    count, image = len(explanation.scores) + 1, picture.kind == "image"
    figure = Figure(figsize=(3.2 * count, 3.6) if image else (8, 1.8 * count), layout="constrained")
    rows, columns = (1, count) if image else (count, 1)
    first, *others = figure.subplots(rows, columns, squeeze=False).flatten()
    right, lower = ([0, *accumulate(sizes)] for sizes in (picture.widths, picture.heights))
    for ax in (first, *others):
        shown = np.asarray((pixels if ax is first else pixels.convert("LA")).convert("RGBA"))
        ax.imshow(shown, extent=(0, right[-1], lower[-1], 0), aspect="equal" if image else "auto")
        ax.axis("off")
    first.set_title(explanation.heading.replace("$", r"\$"), loc="left", fontsize=9)
    for ax, (name, row) in zip(others, explanation.scores.items(), strict=True):
        grid = np.reshape(row[: picture.count], (len(picture.heights), len(picture.widths)))
        largest = float(np.abs(grid).max()) or 1.0
        shares = explanation.units[name] == SHARE
        ax.pcolormesh(
            right, lower, grid, alpha=0.65, cmap="Purples" if shares else "PuOr_r",
            vmin=0 if shares else -largest, vmax=largest,
        )  # fmt: skip
        ax.set_title(name, loc="left", fontsize=9)
    return figure
