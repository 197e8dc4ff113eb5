"""HTML elements for pages, notebooks and the web demo: shaded tokens, bars, tables and heat maps.

All texts are escaped. The unit of scores is "%" for shares and any other for signed scores; if it is None,
scores are signed if one is negative. Shapes: N tokens, L layers, C columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

from captum_globenc.drawing.numbers import SHARE, depths_note, is_signed, number, strengths
from captum_globenc.drawing.picture import Picture, lay_on

__all__ = [
    "Line",
    "Part",
    "bars",
    "details",
    "heat_map",
    "layer_map",
    "legend",
    "method_lines",
    "number_table",
    "shade",
    "shaded",
    "shortened",
]

ENTRY = 70
"""Maximum characters of a text in one line of a list or a table."""


class Part(NamedTuple):
    """A piece of a text, or a gap between two pieces.

    Attributes:
        text: The characters.
        score: The score for shading; None for gaps.
        special: Whether it is a special token such as [CLS].
        note: A note for the reader, or "".
    """

    text: str
    score: float | None = None
    special: bool = False
    note: str = ""


class Line(NamedTuple):
    """The scores of one method for a text.

    Attributes:
        method: The name of the method.
        unit: The unit of its scores.
        texts: The parts of the text, and of its pair if there is one.
        note: A description of the scores, and their sum.
        first: The number of the first row of layers, if the data contain layers.
        more: HTML that follows below the texts of all methods, such as bars.
    """

    method: str
    unit: str | None
    texts: Sequence[Sequence[Part]]
    note: str = ""
    first: int = 1
    more: str = ""

    @property
    def scores(self) -> list[float]:
        """The scores of the parts that have one."""
        return [part.score for parts in self.texts for part in parts if part.score is not None]


def method_lines(lines: Iterable[Line], picture: Picture | None = None) -> str:
    """Return HTML of all methods for one text: name, description of the scores, shaded text."""
    return "\n".join(
        f'<div class="method">\n<h3>{escape(line.method)}</h3>\n'
        + (f'<p class="note">{escape(line.note)}</p>\n' if line.note else "")
        + f'<div class="shaded" data-method="{escape(line.method)}" data-unit="{escape(line.unit or "")}" '
        f'data-first="{line.first}">{shaded(line, picture)}</div>\n</div>'
        for line in lines
    )


def shaded(line: Line, picture: Picture | None = None) -> str:
    """Return HTML of the shaded text and pair, one paragraph each, or of the shaded parts of a picture.

    Example:
        >>> shaded(Line("GlobEnc", "%", [[Part("a", 0.5), Part(" <b>")]]))  # doctest: +ELLIPSIS
        '<p class="tokens" dir="auto"><span class="share" ... title="50 %">a</span> &lt;b&gt;</p>'
    """
    scores = line.scores
    signed = is_signed(scores, line.unit)
    if picture is not None:
        largest = max(map(abs, scores[: picture.count])) or 1.0
        shades = [max(-1.0, min(1.0, score / largest)) for score in scores]
        drawn = [_part(*it, signed, line.unit) for it in zip(line.texts[0], shades, strict=True)]
        beside = drawn[picture.count :]
        return lay_on(picture, drawn[: picture.count]) + (_paragraph(beside) if beside else "")
    strong = iter(strengths(scores))
    return "".join(
        _paragraph(
            _part(part, 0.0 if part.score is None else next(strong), signed, line.unit) for part in parts
        )
        for parts in line.texts
    )


def _paragraph(parts: Iterable[str]) -> str:
    return f'<p class="tokens" dir="auto">{"".join(parts)}</p>'


def _part(part: Part, strength: float, signed: bool, unit: str | None) -> str:
    text, note = escape(part.text), escape(part.note)
    if part.score is None:
        return f'<span class="unread" title="{note}">{text}</span>' if note else text
    look = shade(strength, signed, "special" if part.special else "noted" if note else "")
    value = hover(part.score, unit)
    named = f' title="{value}; {note}" data-note="{note}"' if note else f' title="{value}"'
    # With its own direction, a special token does not affect the direction of the text (dir="auto").
    aside = ' dir="ltr"' if part.special else ""
    return f"<span {look}{named}{aside}>{text}</span>"


def number_table(
    tokens: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    units: Mapping[str, str] | None = None,
) -> str:
    """Return a table of N tokens, with a column of N scores and their unit for each method."""
    units = units or {}
    heads = [f"{name}, {units[name]}" if name in units else name for name in scores]
    columns = [[number(it, units.get(name)) for it in row] for name, row in scores.items()]
    names = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(token)}</th>' + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
        for token, *row in zip(tokens, *columns, strict=True)
    )
    return (
        '<div class="scroll" role="region" aria-label="Numbers" tabindex="0"><table class="numbers">\n'
        f'<tr><th scope="col">token</th>{names}</tr>\n{rows}\n</table></div>'
    )


def heat_map(
    names: Sequence[str],
    columns: Sequence[Sequence[float]],
    unit: str = SHARE,
    *,
    heads: Sequence[str],
    label: str,
    corner: str = "",
    squares: bool = False,
) -> str:
    """Return a heat map with N rows and C columns, shaded within each column.

    Args:
        names: N tokens, words or sentences.
        columns: C rows of N scores.
        unit: The unit of the scores.
        heads: The headers of the C columns.
        label: The name of the table for screen readers.
        corner: The header of the column of names.
        squares: Whether to show only shades, relative to the strongest score of all columns, with the numbers
            on hover.

    Example:
        >>> "<td" in heat_map(["a", "b"], [[0.25, 0.75], [0.5, 0.5]], heads=["1", "2"], label="Layers")
        True
    """
    largest = max((abs(score) for column in columns for score in column), default=0.0) if squares else None
    shades = [zip(column, strengths(column, largest), strict=True) for column in columns]
    signed = unit != SHARE or any(is_signed(column) for column in columns)
    ahead = [f"{escape(head)}: " if squares else "" for head in heads]
    whole = ' title="{}"'  # shows a name in full if it is cut off
    rows = "\n".join(
        f'<tr><th scope="row" dir="auto"{whole.format(name) if squares else ""}>{name}</th>'
        + "".join(
            f'<td {shade(strength, signed)} title="{head}{hover(score, unit)}">{number(score, unit)}</td>'
            for head, (score, strength) in zip(ahead, cells, strict=True)
        )
        + "</tr>"
        for name, *cells in zip(map(escape, names), *shades, strict=True)
    )
    kind = "heat squares" if squares else "heat"
    named = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table class="{kind}">\n'
        f'<tr><th scope="col">{escape(corner)}</th>{named}</tr>\n{rows}\n</table></div>'
    )


def layer_map(
    tokens: Sequence[str], layers: Sequence[Sequence[float]], unit: str = SHARE, *, first: int = 1
) -> str:
    """Return a heat map of N tokens by L layers, with a note on its columns.

    Args:
        tokens: N tokens or words.
        layers: L rows of N scores, for example from `GlobEnc.attribute_layers`.
        unit: The unit of the scores.
        first: The number of the first row: 0 for `TransformerDeepLift.attribute_layers`, whose first row is
            at the input of layer 1.
    """
    heads = [str(first + index) for index in range(len(layers))]
    drawn = heat_map(tokens, layers, unit, heads=heads, label="Layers", corner=f"{unit} after layer")
    return f'<p class="note">{depths_note(unit)}</p>{drawn}'


def bars(names: Sequence[str], scores: Sequence[float], unit: str, label: str) -> str:
    """Return a list of names with bars, whose length is the share, or is relative to the largest score.

    Example:
        >>> bars(["<b>"], [-0.5], "logit", "Passages")  # doctest: +ELLIPSIS
        '<ul class="bars" aria-label="Passages"><li>...&lt;b&gt;...class="against" ...-0.500</span></li></ul>'
    """
    signed = unit != SHARE
    lengths = strengths(scores) if signed else scores
    numbers = [number(score, unit) if signed else f"{score:.1%}" for score in scores]
    items = "".join(
        f'<li><span dir="auto">{escape(name)}</span> <i {shade(length, signed)}></i> <span>{text}</span></li>'
        for name, length, text in zip(names, lengths, numbers, strict=True)
    )
    return f'<ul class="bars" aria-label="{escape(label)}">{items}</ul>'


def details(parts: Mapping[str, str], *, opened: bool = False) -> str:
    """Return one collapsible element per part, by its summary."""
    state = " open" if opened else ""
    return "".join(
        f"\n<details{state}><summary>{escape(name)}</summary>{made}</details>" for name, made in parts.items()
    )


def legend(lines: Iterable[Line], *, pictures: bool = False) -> str:
    """Return the legend of the shades; in `pictures`, negative contributions are hatched."""
    signed = {is_signed(line.scores, line.unit) for line in lines}
    look = "underlined or lined" if pictures else "underlined"
    scales = {
        False: '0 <span class="scale shares"></span> largest share',
        True: f'Opposes ({look}) <span class="scale signed"></span> supports',
    }
    shown = "".join(f'<span class="key">{scale}.</span> ' for it, scale in scales.items() if it in signed)
    return f"{shown}Shades are relative to the strongest token of each line; hover for the number."


def shortened(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 2 * ENTRY].split())
    return line if len(line) <= ENTRY else f"{line[: ENTRY - 1]}…"


def shade(strength: float, signed: bool, kind: str = "") -> str:
    """Return the class and style attributes that shade an element by a strength in [-1, 1].

    `kind` is another CSS class. The CSS variable has one letter, because every piece of a page has it.

    Example:
        >>> shade(-0.5, True), shade(0.5, False, "special")
        ('class="against" style="--s:0.500"', 'class="share special" style="--s:0.500"')
    """
    look = ("against" if strength < 0 else "for") if signed else "share"
    return f'class="{look}{" " if kind else ""}{kind}" style="--s:{abs(strength):.3f}"'


def hover(score: float, unit: str | None) -> str:
    """Return the text of a score that is shown on hover, escaped.

    Example:
        >>> hover(0.125, "%"), hover(0.125, "logit"), hover(0.125, None)
        ('12.5 %', '+0.125 logit', '0.125')
    """
    if unit is None:
        return f"{score:.4g}"
    return f"{100 * score:.4g} %" if unit == SHARE else f"{score:+.4g} {escape(unit)}"
