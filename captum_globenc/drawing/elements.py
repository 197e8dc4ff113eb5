"""What pages are made of: tokens that are shaded, bars, tables and heat maps, as HTML that is escaped.

A page of its own, a notebook's output and the web demo show the same elements. A unit is what scores are
counted in: "%" those that are shares of a whole, any other those that speak for and against something; where
it is left out, a negative score tells the two apart. Shapes: N tokens, L layers, C columns.
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
"""Characters of a text that stands in one line of a list or a table."""


class Part(NamedTuple):
    """A piece of a text, or what lies between two.

    Attributes:
        text: What it reads.
        score: What it is shaded by; None where it is not.
        special: Whether it is no part of the text, such as [CLS].
        note: What has to be known of it.
    """

    text: str
    score: float | None = None
    special: bool = False
    note: str = ""


class Line(NamedTuple):
    """What one method says of a text.

    Attributes:
        method: Its name.
        unit: What its scores are counted in.
        texts: The parts of the text, and of its pair if there is one.
        note: What its scores are, and add up to.
        first: The number of the first layer, where the data hold layers.
        more: Elements that follow below the texts of all methods, such as bars.
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
    """Draw what every method says of one text: its name, what its scores are, the shaded text."""
    return "\n".join(
        f'<div class="method">\n<h3>{escape(line.method)}</h3>\n'
        + (f'<p class="note">{escape(line.note)}</p>\n' if line.note else "")
        + f'<div class="shaded" data-method="{escape(line.method)}" data-unit="{escape(line.unit or "")}" '
        f'data-first="{line.first}">{shaded(line, picture)}</div>\n</div>'
        for line in lines
    )


def shaded(line: Line, picture: Picture | None = None) -> str:
    """Draw the text and its pair, a paragraph each, shaded by the strongest of both; or parts of a picture.

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
    said = hover(part.score, unit)
    named = f' title="{said}; {note}" data-note="{note}"' if note else f' title="{said}"'
    # A direction of its own keeps it from telling that of the text.
    aside = ' dir="ltr"' if part.special else ""
    return f"<span {look}{named}{aside}>{text}</span>"


def number_table(
    tokens: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    units: Mapping[str, str] | None = None,
) -> str:
    """Return a table of N tokens, one a row, and their scores by each method, in its unit."""
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
    """Return a table of N names, one a row, by C columns of their scores, shaded within each column.

    Args:
        names: N tokens, words or sentences.
        columns: C rows of N scores.
        unit: What they are counted in.
        heads: What the C columns are called.
        label: What the whole is called where it is read out.
        corner: What stands over the names.
        squares: Whether to show shades alone, which are relative to the strongest of all columns then, with
            the numbers on hover.

    Example:
        >>> "<td" in heat_map(["a", "b"], [[0.25, 0.75], [0.5, 0.5]], heads=["1", "2"], label="Layers")
        True
    """
    largest = max((abs(score) for column in columns for score in column), default=0.0) if squares else None
    shades = [zip(column, strengths(column, largest), strict=True) for column in columns]
    signed = unit != SHARE or any(is_signed(column) for column in columns)
    ahead = [f"{escape(head)}: " if squares else "" for head in heads]
    whole = ' title="{}"'  # of a name that is cut where there is no room for it
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
    """Return a heat map of N tokens by L layers, and what its columns are.

    Args:
        tokens: N tokens or words.
        layers: L rows of N scores, such as `GlobEnc.attribute_layers` gives.
        unit: What they are counted in.
        first: The number of the first row: 0 for those of `TransformerDeepLift.attribute_layers`, which begin
            with what enters layer 1.
    """
    heads = [str(first + index) for index in range(len(layers))]
    drawn = heat_map(tokens, layers, unit, heads=heads, label="Layers", corner=f"{unit} after layer")
    return f'<p class="note">{depths_note(unit)}</p>{drawn}'


def bars(names: Sequence[str], scores: Sequence[float], unit: str, label: str) -> str:
    """Return a list of names with a bar each: of shares as long as these, of others relative to the largest.

    Example:
        >>> bars(["<b>"], [-0.5], "logit", "Passages")  # doctest: +ELLIPSIS
        '<ul class="bars" aria-label="Passages"><li>...&lt;b&gt;...class="against" ...-0.500</span></li></ul>'
    """
    signed = unit != SHARE
    lengths = strengths(scores) if signed else scores
    said = [number(score, unit) if signed else f"{score:.1%}" for score in scores]
    items = "".join(
        f'<li><span dir="auto">{escape(name)}</span> <i {shade(length, signed)}></i> <span>{text}</span></li>'
        for name, length, text in zip(names, lengths, said, strict=True)
    )
    return f'<ul class="bars" aria-label="{escape(label)}">{items}</ul>'


def details(parts: Mapping[str, str], *, opened: bool = False) -> str:
    """Return elements that open, by what is said of each."""
    state = " open" if opened else ""
    return "".join(
        f"\n<details{state}><summary>{escape(name)}</summary>{made}</details>" for name, made in parts.items()
    )


def legend(lines: Iterable[Line], *, pictures: bool = False) -> str:
    """Return what the shades of some lines mean; in `pictures`, lines tell what speaks against as well."""
    signed = {is_signed(line.scores, line.unit) for line in lines}
    against = "underlined or lined" if pictures else "underlined"
    scales = [
        *(['0 <span class="scale shares"></span> largest share'] if False in signed else []),
        *([f'against ({against}) <span class="scale signed"></span> for'] if True in signed else []),
    ]
    shown = "".join(f'<span class="key">{scale}.</span> ' for scale in scales)
    return f"{shown}Shades are relative to the strongest token of each line; hover for the number."


def shortened(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 2 * ENTRY].split())
    return line if len(line) <= ENTRY else f"{line[: ENTRY - 1]}…"


def shade(strength: float, signed: bool, kind: str = "") -> str:
    """Return the attributes that shade an element by a strength of -1..1, of another kind besides.

    Every piece of a page has them, so the strength has a name of one letter in its style.

    Example:
        >>> shade(-0.5, True), shade(0.5, False, "special")
        ('class="against" style="--s:0.500"', 'class="share special" style="--s:0.500"')
    """
    look = ("against" if strength < 0 else "for") if signed else "share"
    return f'class="{look}{" " if kind else ""}{kind}" style="--s:{abs(strength):.3f}"'


def hover(score: float, unit: str | None) -> str:
    """Return a score as it is told on hover, escaped.

    Example:
        >>> hover(0.125, "%"), hover(0.125, "logit"), hover(0.125, None)
        ('12.5 %', '+0.125 logit', '0.125')
    """
    if unit is None:
        return f"{score:.4g}"
    return f"{100 * score:.4g} %" if unit == SHARE else f"{score:+.4g} {escape(unit)}"
