"""Explanations drawn in a terminal: tokens shaded by their score, and their numbers in tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captum_globenc.visualization.page import strengths

if TYPE_CHECKING:
    from captum_globenc.texts.explanation import Explanation

LAYERS_PER_TABLE = 12

# Positive and negative scores fade from this grey to orange and blue: visible on a light and on a
# dark terminal, and white text keeps a contrast above 4.5 to 1 on each of them.
NEUTRAL, POSITIVE, NEGATIVE = (112, 112, 112), (196, 78, 0), (0, 102, 204)
FAINTEST = 0.1


def show(console: Console, explanation: Explanation) -> None:
    """Print one explanation: its prediction, its tokens shaded per method, and the numbers.

    Args:
        console: Where to print; it decides whether there are colours.
        explanation: What to print. Nothing in it is taken for Rich markup.
    """
    tokens = [printable(token) for token in explanation.tokens]
    methods = explanation.methods
    shades = {name: [_shade(s) for s in strengths(row)] for name, row in methods.items()}
    console.print(Text(printable(explanation.headline), style="bold"))
    for name, row in shades.items():
        if len(methods) > 1:
            console.print(Text(name, style="dim"))
        console.print(Text(" ").join(map(Text, tokens, row)))
        if name in explanation.sums:
            console.print(Text(printable(explanation.sums[name]), style="dim"))
    table = Table(box=SIMPLE_HEAD)
    table.add_column("#", justify="right")
    table.add_column("token", overflow="fold")
    for name in methods:
        table.add_column(Text(name), justify="right")
    for index, (token, *scores) in enumerate(zip(tokens, *methods.values(), strict=True)):
        table.add_row(str(index), Text(token), *(f"{score:.4f}" for score in scores))
    console.print(table)
    for start in range(0, len(explanation.layers), LAYERS_PER_TABLE):
        _show_layers(console, tokens, explanation.layers, start)
    console.print()


def _show_layers(
    console: Console, tokens: Sequence[str], layers: Sequence[Sequence[float]], start: int
) -> None:
    """Print each layer's scores in per cent, shaded within the layer, some layers to a table."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("% after layer", overflow="fold")
    cells = []
    for number, row in enumerate(layers[start : start + LAYERS_PER_TABLE], start=start + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
        cells.append([Text(f"{100 * s:.1f}", _shade(r)) for s, r in zip(row, strengths(row), strict=True)])
    for token, *line in zip(tokens, *cells, strict=True):
        table.add_row(Text(token), *line)
    console.print(table)


def _shade(strength: float) -> str:
    """Return the Rich style of a token of this strength, -1..1."""
    share = abs(strength)
    if share < FAINTEST:
        return ""
    full = NEGATIVE if strength < 0 else POSITIVE
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(NEUTRAL, full, strict=True))
    return f"#ffffff on #{red:02x}{green:02x}{blue:02x}"


def printable(text: str) -> str:
    r"""Replace what would steer a terminal: escape sequences, line ends, changes of direction.

    Example:
        >>> printable("a\x1b[31mb")
        'a\ufffd[31mb'
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
