"""Explanations in the terminal: shaded text and tables of scores."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from captum_globenc.drawing.numbers import SHARE, depths_note, number, strengths
from captum_globenc.drawing.picture import Picture
from captum_globenc.results.record import Record
from captum_globenc.results.shading import CUT, Piece
from captum_globenc.results.words import merge_scores

__all__ = ["Shown", "in_table", "printable"]

LAYERS_PER_TABLE = {True: 7, False: 12}
"""Number of layers per table, for signed scores (True) and for shares."""

BAR = 8
"""Characters of the longest bar; more if the header of its column is longer."""

STRONGEST = 10
"""Default number of table rows for an image or a sound."""

LONGEST_WORD = 40
"""Maximum characters of a word in a table."""

BLANK = "\N{OPEN BOX}"
"""Shown in tables for a token of white space only."""

# Invisible characters that words may contain: they shape letters, join emoji or allow line breaks.
_HARMLESS = "\N{SOFT HYPHEN}\u200b\u200c\u200d\u200e\u200f\u2060"

# Colors fade from dark gray to violet (shares), orange (supports) and blue (opposes). The background of the
# terminal is unknown, so every token has its own. White text has a contrast above 4.5 to 1 on every shade.
NEUTRAL, SHARES, FOR, AGAINST = (44, 44, 48), (132, 84, 204), (196, 78, 0), (0, 102, 204)


class _Row(NamedTuple):
    """A row of the tables: its first cells, and the tokens whose scores are summed."""

    heads: Sequence[str]
    tokens: tuple[int, ...]


class Shown:
    """A Rich renderable of an explanation: its prediction, its text shaded per method, and the numbers.

    The console decides whether colors are used. Rich markup in the explanation is not interpreted.

    Args:
        record: The explanation.
        of: What is shaded and listed, "words", or "tokens" with their ids.
        top: Number of table rows, the strongest first, plus one for all others; by default all rows, and for
            images and sounds the 10 strongest.
        special: Whether special tokens such as [CLS] are shown; if False, they count in the row of others.
        index: The number of the text, if there are several.
    """

    def __init__(
        self,
        record: Record,
        *,
        of: Literal["words", "tokens"] = "words",
        top: int | None = None,
        special: bool = True,
        index: int | None = None,
    ) -> None:
        self._record = record
        self._of = of if record.groups else "tokens"
        self._index = index
        self._texts = [[it for it in row if special or not it.special] for row in record.pieces(of)]
        pieces = [it for row in self._texts for it in row if it.tokens]
        if self._of == "words":
            rows = [_Row([in_table(it.text)], it.tokens) for it in pieces]
        else:
            rows = [self._row_of(token) for token in sorted(token for it in pieces for token in it.tokens)]
        if record.picture is not None and top is None:
            top = STRONGEST
        if top is not None and record.scores:
            made = [merge_scores(record.scores[name], rows) for name in _ranking(record)]
            sizes = [max(map(abs, row)) for row in zip(*made, strict=True)]
            order = sorted(range(len(rows)), key=lambda place: -sizes[place])
            rows = [rows[place] for place in order[:top]]
        self._rows = rows
        shown = {token for row in rows for token in row.tokens}
        self._others = tuple(token for token in range(len(record.tokens)) if token not in shown)

    def _row_of(self, token: int) -> _Row:
        known = [str(index) for index in self._record.ids[token : token + 1]]
        return _Row([str(token), *known, in_table(self._record.tokens[token])], (token,))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        record = self._record
        captions, units, sums = record.captions, record.units, record.sums
        numbered = "" if self._index is None else f"{self._index}. "
        yield Text(printable(f"{numbered}{record.heading}"), style="bold")
        for name, row in record.scores.items():
            signed = units[name] != SHARE
            yield _caption(f"{name} \N{MIDDLE DOT} {captions[name]}", signed, plain=not console.is_terminal)
            if record.picture is None:
                yield from self._shaded(row, signed)
            elif console.is_terminal:
                yield from self._grid(row, record.picture, signed, options.max_width)
            if name in sums:
                yield Text(printable(sums[name]), style="dim")
        for note in self._notes():
            yield Text(note, style="dim")
        if record.scores:
            yield from self._numbers(units, options)
        for name, layers in record.layers.items():
            if len(record.layers) > 1:
                yield Text(printable(name), style="dim")
            yield Text(depths_note(units[name]), style="dim")
            for start in range(0, len(layers), LAYERS_PER_TABLE[units[name] != SHARE]):
                yield self._layers(layers, start, units[name])
        yield Text()

    def _shaded(self, scores: Sequence[float], signed: bool) -> Iterator[Text]:
        """Yield the shaded text, and its pair on a separate line."""
        scored = iter(strengths(merge_scores(scores, [it for row in self._texts for it in row if it.tokens])))
        for row in self._texts:
            line = Text()
            before: Piece | None = None
            for piece in row:
                if before is not None and (piece.special or before.special):
                    line.append(" ")
                style = _shade(next(scored), signed) if piece.tokens else "dim" if piece.note else ""
                line.append(printable(piece.text, "\n\t"), f"{style} italic" if piece.unknown else style)
                before = piece
            yield line

    @staticmethod
    def _grid(scores: Sequence[float], picture: Picture, signed: bool, width: int) -> Iterator[Text]:
        """Yield the grid of parts, one line per row; the cells of an image are about square."""
        columns = len(picture.widths)
        cell = "  " if picture.kind == "image" and 2 * columns <= width else " "
        shades = [_shade(it, signed) for it in strengths(scores[: picture.count])]
        for start in range(0, picture.count, columns):
            row = shades[start : start + columns]
            yield Text.assemble(*((cell, style) for style in row), no_wrap=True, overflow="crop")

    def _notes(self) -> Iterator[str]:
        """Yield the notes on pieces of the text, with the pieces."""
        noted = [it for row in self._texts for it in row if it.note]
        for note in dict.fromkeys(it.note for it in noted):
            texts = dict.fromkeys(in_table(it.text.strip()) for it in noted if it.note == note)
            yield note if note == CUT else f"{note}: {', '.join(texts)}"

    def _numbers(self, units: Mapping[str, str], options: ConsoleOptions) -> Iterator[Table]:
        """Yield tables of the scores of all methods with bars, as many columns per table as fit."""
        ascii_only = options.ascii_only
        table = self._table()
        cells: list[list[Text]] = []
        names = [cell_len(" ".join(row.heads)) for row in self._rows]
        taken = first = max([*names, len("0000 other tokens")]) + 3 * len(table.columns)
        for name, scores in self._record.scores.items():
            head, unit = f"{name}, {units[name]}", units[name]
            row = merge_scores(scores, self._rows)
            numbers = [number(it, unit) for it in [*row, *self._rest(scores)]]
            width = max(map(len, numbers), default=0)
            longest = max(BAR, len(head) - width - 1)
            if cells and taken + width + longest + 3 > options.max_width:
                yield self._filled(table, cells)
                table, cells, taken = self._table(), [], first
            taken += width + longest + 3
            table.add_column(Text(printable(head)), no_wrap=True)
            bars = [_bar(it, longest, unit != SHARE, ascii_only) for it in strengths(row)]
            bars += [Text()] * (len(numbers) - len(bars))
            cells.append([Text(f"{it:>{width}} ").append(bar) for it, bar in zip(numbers, bars, strict=True)])
        yield self._filled(table, cells)

    def _layers(self, layers: Sequence[Sequence[float]], start: int, unit: str) -> Table:
        """Return a table of the scores of some layers, shaded within each layer.

        Shares start after layer 1; signed scores start at 0, the input of layer 1.
        """
        first = 0 if unit not in (SHARE, "share") else 1
        table = Table(box=SIMPLE_HEAD, padding=0)
        table.add_column(f"{unit} after layer", overflow="fold")
        cells = []
        signed = unit != SHARE
        shown = layers[start : start + LAYERS_PER_TABLE[signed]]
        for index, scores in enumerate(shown, start=start + first):
            table.add_column(str(index), justify="right", no_wrap=True)
            row = merge_scores(scores, self._rows)
            column = [
                Text(number(score, unit), _shade(strength, signed))
                for score, strength in zip(row, strengths(row), strict=True)
            ]
            cells.append([*column, *(Text(number(it, unit)) for it in self._rest(scores))])
        return self._filled(table, cells, heads=1)

    def _table(self) -> Table:
        table = Table(box=SIMPLE_HEAD)
        if self._of == "tokens":
            table.add_column("#", justify="right")
            if self._record.ids:
                table.add_column("id", justify="right")
        named = self._of.removesuffix("s") if self._record.picture is None else self._record.elements[0]
        table.add_column(named, overflow="fold")
        return table

    def _rest(self, scores: Sequence[float]) -> list[float]:
        """Return the sum of the scores of tokens without a row, or [] if there are none."""
        return [math.fsum(scores[token] for token in self._others)] if self._others else []

    def _filled(self, table: Table, cells: Sequence[Sequence[Text]], heads: int | None = None) -> Table:
        """Add the rows: their first cells (only the last `heads`, if not None), and their numbers."""
        rows = [row.heads for row in self._rows]
        if self._others:
            width = len(rows[0]) if rows else 1
            rows.append([*[""] * (width - 1), f"{len(self._others)} other {self._record.elements[1]}"])
        for names, *line in zip(rows, *cells, strict=True):
            table.add_row(*map(Text, names[-heads if heads else 0 :]), *line)
        return table


def _ranking(record: Record) -> list[str]:
    """Return the names of the scores that rank the rows: the first signed method, for all its targets."""
    name, outputs = record.chosen(), record.outputs
    method = name.removesuffix(f": {outputs[name][0]}") if name in outputs else name
    return [it for it, (target, _) in outputs.items() if it == f"{method}: {target}"] or [name]


def _caption(text: str, signed: bool, *, plain: bool) -> Text:
    """Return a caption of the scores, with the words "supports", "opposes" and "share" in their colors."""
    if signed and not plain:
        text = text.replace("opposes", "opposes (underlined)", 1)
    caption = Text(printable(text), style="dim")
    for word, strength in {"supports": 1.0, "opposes": -1.0}.items() if signed else [("share", 1.0)]:
        found = re.compile(rf"\b{word}\b").search(caption.plain, caption.plain.index("\N{MIDDLE DOT}"))
        if found:
            caption.stylize(f"not dim {_shade(strength, signed)}", *found.span())
    return caption


def _bar(strength: float, longest: int, signed: bool, ascii_only: bool) -> Text:
    """Return a bar whose length and color show the strength, in [-1, 1]."""
    if ascii_only:
        return Text("#" * round(abs(strength) * longest))
    full, eighths = divmod(round(abs(strength) * longest * 8), 8)
    red, green, blue = SHARES if not signed else AGAINST if strength < 0 else FOR
    return Text(f"{'█' * full}{' ▏▎▍▌▋▊▉'[eighths].strip()}", style=f"#{red:02x}{green:02x}{blue:02x}")


def _shade(strength: float, signed: bool) -> str:
    """Return the Rich style for a strength in [-1, 1]; negative contributions are underlined."""
    full = SHARES if not signed else AGAINST if strength < 0 else FOR
    share = abs(strength)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(NEUTRAL, full, strict=True))
    line = "underline " if signed and strength < 0 else ""
    return f"{line}#ffffff on #{red:02x}{green:02x}{blue:02x}"


def in_table(text: str) -> str:
    """Return a word as a visible line of limited length.

    Example:
        >>> in_table(" "), in_table("\u200b")
        ('␣', 'U+200B')
    """
    if not text.strip():
        text = BLANK
    elif not any(char.isprintable() for char in text):
        text = " ".join(f"U+{ord(char):04X}" for char in text)
    text = printable(text)
    return text if len(text) <= LONGEST_WORD else f"{text[: LONGEST_WORD - 1]}…"


def printable(text: str, kept: str = "") -> str:
    r"""Replace control characters: escape sequences, line ends, changes of direction.

    Args:
        text: Any text.
        kept: Characters that are not replaced, such as line ends.

    Example:
        >>> printable("a\x1b[31mb")
        'a\ufffd[31mb'
    """
    kept += _HARMLESS
    return "".join(
        char
        if char.isprintable() or char in kept or unicodedata.category(char) == "Zs"
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
