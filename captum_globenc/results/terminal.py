"""Explanations drawn in a terminal: tokens shaded by their score, and their numbers in tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from captum_globenc.drawing.numbers import SHARE, number, strengths
from captum_globenc.results.record import Record

__all__ = ["Shown", "printable", "show"]

LAYERS_PER_TABLE = {True: 7, False: 12}
"""How many layers stand side by side, of signed scores and of shares."""

# Scores fade from one dark grey to violet (shares), orange (for) and blue (against), without a step: which
# background the terminal has cannot be known, so all tokens lie on a strip of their own. White text
# keeps a contrast above 4.5 to 1 on every shade.
NEUTRAL, SHARES, FOR, AGAINST = (44, 44, 48), (132, 84, 204), (196, 78, 0), (0, 102, 204)


def show(console: Console, record: Record) -> None:
    """Print one explanation: its prediction, its tokens shaded per method, and the numbers.

    Args:
        console: Where to print; it decides whether there are colours.
        record: What to print. Nothing in it is taken for Rich markup.
    """
    console.print(Shown(record))


class Shown:
    """An explanation as Rich draws it; see `show`.

    Args:
        record: The explanation.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._tokens = [printable(token) for token in record.tokens]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        record, tokens = self._record, self._tokens
        captions, units, sums = record.captions, record.units, record.sums
        yield Text(printable(record.headline), style="bold")
        for name, row in record.scores.items():
            signed = units[name] != SHARE
            caption = captions[name]
            if signed and console.is_terminal:
                caption = caption.replace("against", "against (underlined)", 1)
            yield Text(printable(f"{name} \N{MIDDLE DOT} {caption}"), style="dim")
            shades = [_shade(strength, signed) for strength in strengths(row)]
            yield Text(" ").join(map(Text, tokens, shades))
            if name in sums:
                yield Text(printable(sums[name]), style="dim")
        table = Table(box=SIMPLE_HEAD)
        table.add_column("#", justify="right")
        table.add_column("token", overflow="fold")
        for name in record.scores:
            table.add_column(Text(printable(f"{name}, {units[name]}")), justify="right")
        columns = [[number(it, units[name]) for it in row] for name, row in record.scores.items()]
        for index, (token, *cells) in enumerate(zip(tokens, *columns, strict=True)):
            table.add_row(str(index), Text(token), *cells)
        yield table
        for name, layers in record.layers.items():
            if len(record.layers) > 1:
                yield Text(printable(name), style="dim")
            for start in range(0, len(layers), LAYERS_PER_TABLE[units[name] != SHARE]):
                yield self._layers(layers, start, units[name])
        yield Text()

    def _layers(self, layers: Sequence[Sequence[float]], start: int, unit: str) -> Table:
        """Return a table of some layers' scores, shaded within the layer.

        Shares are those after layer 1 and on; signed scores begin with what enters it.
        """
        first = 0 if unit not in (SHARE, "share") else 1
        table = Table(box=SIMPLE_HEAD, padding=0)
        table.add_column(f"{unit} after layer", overflow="fold")
        cells = []
        signed = unit != SHARE
        shown = layers[start : start + LAYERS_PER_TABLE[signed]]
        for index, row in enumerate(shown, start=start + first):
            table.add_column(str(index), justify="right", no_wrap=True)
            pairs = zip(row, strengths(row), strict=True)
            cells.append([Text(number(score, unit), _shade(strength, signed)) for score, strength in pairs])
        for token, *line in zip(self._tokens, *cells, strict=True):
            table.add_row(Text(token), *line)
        return table


def _shade(strength: float, signed: bool) -> str:
    """Return the Rich style of a token of this strength, -1..1; what speaks against is underlined."""
    full = SHARES if not signed else AGAINST if strength < 0 else FOR
    share = abs(strength)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(NEUTRAL, full, strict=True))
    line = "underline " if signed and strength < 0 else ""
    return f"{line}#ffffff on #{red:02x}{green:02x}{blue:02x}"


def printable(text: str) -> str:
    r"""Replace what would steer a terminal: escape sequences, line ends, changes of direction.

    Example:
        >>> printable("a\x1b[31mb")
        'a\ufffd[31mb'
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
