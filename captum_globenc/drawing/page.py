"""Token attributions in HTML: a standalone page of tokens and scores, and what pages are made of.

All texts are escaped here. A unit is what scores are counted in: "%" those that are shares of a whole, any
other those that speak for and against something; where it is left out, a negative score tells the two apart.
Shapes: N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from captum_globenc.drawing.numbers import SHARE, is_signed, number, strengths
from captum_globenc.drawing.style import PAGE_STYLE

__all__ = ["heat_map", "hover", "html_page", "legend", "number_table", "shade", "shaded_tokens"]


def html_page(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float] | None]],
    *,
    headings: Sequence[str] | None = None,
    title: str = "Token attributions",
    notes: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
) -> str:
    """Draw one or several methods' scores over the same texts as a standalone HTML page.

    The page asks for nothing else: no script, no network, no notebook. It follows the reader's
    light or dark theme, and shows each number on hover and in a table. All texts are escaped.

    Args:
        tokens: The tokens of each text, or its words, as `token_scores` gives them.
        methods: Per method name the scores of each text, as many as it has tokens; None for a text that it
            has none for.
        headings: A line over each text, such as its prediction; left out, the text's number.
        title: The page's title.
        notes: Per method name a line under its tokens for each text, such as what the scores add up to.
        units: Per method name what its scores are counted in: "%" for shares of a whole, which numbers are
            shown in; any other for scores for and against something. Left out, numbers are shown as they are.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: There are not as many headings or notes as texts, or scores as tokens.

    Example:
        >>> page = html_page([["a", "<b>"]], {"GlobEnc": [[0.4, 0.6]]})
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    key, sections = _sections(tokens, methods, headings, notes or {}, units or {})
    return _PAGE.format(title=escape(title), style=PAGE_STYLE, legend=key, sections=sections)


def shaded_tokens(tokens: Sequence[str], scores: Sequence[float], unit: str | None = None) -> str:
    """Return a paragraph of N tokens, each shaded by its score and with the number on hover.

    Args:
        tokens: N tokens or words.
        scores: N scores, shaded relative to the largest magnitude among them.
        unit: What they are counted in.

    Example:
        >>> shaded_tokens(["<b>"], [-2.0])  # doctest: +ELLIPSIS
        '<p class="tokens" dir="auto"><span class="against" ... title="-2">&lt;b&gt;</span></p>'
    """
    signed = is_signed(scores, unit)
    spans = " ".join(
        f'<span {shade(strength, signed)} title="{hover(score, unit)}">{escape(token)}</span>'
        for token, score, strength in zip(tokens, scores, strengths(scores), strict=True)
    )
    return f'<p class="tokens" dir="auto">{spans}</p>'


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
    tokens: Sequence[str], layers: Sequence[Sequence[float]], unit: str = SHARE, *, first: int = 1
) -> str:
    """Return a table of N tokens, one a row, by L layers, shaded within each layer.

    Args:
        tokens: N tokens or words.
        layers: L rows of N scores, such as `GlobEnc.attribute_layers` gives.
        unit: What they are counted in.
        first: The number of the first row: 0 for those of `TransformerDeepLift.attribute_layers`, which begin
            with what enters layer 1.

    Example:
        >>> "<td" in heat_map(["a", "b"], [[0.25, 0.75], [0.5, 0.5]])
        True
    """
    heads = "".join(f'<th scope="col">{first + index}</th>' for index in range(len(layers)))
    columns = [list(zip(row, strengths(row), strict=True)) for row in layers]
    signed = unit != SHARE or any(is_signed(row) for row in layers)
    rows = "\n".join(
        f'<tr><th scope="row" dir="auto">{escape(token)}</th>'
        + "".join(
            f'<td {shade(strength, signed)} title="{hover(score, unit)}">{number(score, unit)}</td>'
            for score, strength in cells
        )
        + "</tr>"
        for token, *cells in zip(tokens, *columns, strict=True)
    )
    return (
        '<div class="scroll" role="region" aria-label="Layers" tabindex="0"><table class="heat">\n'
        f'<tr><th scope="col">{escape(unit)} after layer</th>{heads}</tr>\n{rows}\n</table></div>'
    )


def legend(*, shares: bool = False, signed: bool = False, pictures: bool = False) -> str:
    """Return what the shades mean, where there are shares, scores for and against (`signed`), or both.

    In `pictures`, lines tell what speaks against.
    """
    against = "underlined or lined" if pictures else "underlined"
    scales = [
        *(['0 <span class="scale shares"></span> largest share'] if shares else []),
        *([f'against ({against}) <span class="scale signed"></span> for'] if signed else []),
    ]
    shown = "".join(f'<span class="key">{scale}.</span> ' for scale in scales)
    return f"{shown}Shades are relative to the strongest token of each line; hover for the number."


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


def _sections(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float] | None]],
    headings: Sequence[str] | None,
    notes: Mapping[str, Sequence[str]],
    units: Mapping[str, str],
) -> tuple[str, str]:
    """Return the legend, and a section for each text; see `html_page`."""
    if headings is None:
        headings = [f"Text {index}" for index in range(1, len(tokens) + 1)]
    if len(headings) != len(tokens):
        raise ValueError(f"{len(headings)} headings for {len(tokens)} texts")
    for name, rows in methods.items():
        if len(rows) != len(tokens):
            raise ValueError(f"{name} has scores for {len(rows)} texts, not {len(tokens)}")
    for name, lines in notes.items():
        if len(lines) != len(tokens):
            raise ValueError(f"{name} has notes for {len(lines)} texts, not {len(tokens)}")
    sections = []
    kinds = set()
    for index, words in enumerate(tokens):
        given = {name: rows[index] for name, rows in methods.items()}
        scores = {name: [float(it) for it in row] for name, row in given.items() if row is not None}
        for name, row in scores.items():
            if len(row) != len(words):
                raise ValueError(
                    f"{name} has {len(row)} scores for the {len(words)} tokens of text {index + 1}"
                )
            kinds.add(is_signed(row, units.get(name)))
        said = {name: notes[name][index] for name in scores if name in notes}
        sections.append(_section(headings[index], words, scores, said, units))
    return legend(shares=False in kinds, signed=True in kinds), "\n".join(sections)


def _section(
    heading: str,
    tokens: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    notes: Mapping[str, str],
    units: Mapping[str, str],
) -> str:
    """One text: a line of shaded tokens per method with what is to say of it, and all the numbers."""
    lines = "\n".join(
        f"<h3>{escape(name)}</h3>\n{shaded_tokens(tokens, row, units.get(name))}"
        + (f'\n<p class="note">{escape(notes[name])}</p>' if notes.get(name) else "")
        for name, row in scores.items()
    )
    return (
        f"<section>\n<h2>{escape(heading)}</h2>\n{lines}\n<details><summary>Numbers</summary>\n"
        f"{number_table(tokens, scores, units)}</details>\n</section>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="legend">{legend}</p>
{sections}
</body>
</html>
"""
