"""Token attributions in HTML: a standalone page, and the parts that it is made of.

All texts are escaped here. Shapes: N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

__all__ = [
    "DARK",
    "LIGHT",
    "RULES",
    "heat_map",
    "html_page",
    "legend",
    "number_table",
    "shaded_tokens",
    "strengths",
]


def strengths(scores: Sequence[float]) -> list[float]:
    """Scale the scores of one text to -1..1 by the largest magnitude; zeros stay zeros.

    Example:
        >>> strengths([0.1, -0.4, 0.2])
        [0.25, -1.0, 0.5]
    """
    largest = max(map(abs, scores), default=0.0)
    return [score / largest if largest else 0.0 for score in scores]


def html_page(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float]]],
    *,
    headings: Sequence[str] | None = None,
    title: str = "Token attributions",
) -> str:
    """Draw one or several methods' scores over the same texts as a standalone HTML page.

    The page asks for nothing else: no script, no network, no notebook. It follows the reader's
    light or dark theme, and shows each number on hover and in a table. All texts are escaped.

    Args:
        tokens: The tokens of each text, or its words, as `token_scores` gives them.
        methods: Per method name the scores of each text, as many as it has tokens.
        headings: A line over each text, such as its prediction; left out, the text's number.
        title: The page's title.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: There are not as many headings as texts, or scores as tokens.

    Example:
        >>> page = html_page([["a", "<b>"]], {"GlobEnc": [[0.4, 0.6]]})
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    if headings is None:
        headings = [f"Text {number}" for number in range(1, len(tokens) + 1)]
    if len(headings) != len(tokens):
        raise ValueError(f"{len(headings)} headings for {len(tokens)} texts")
    for name, rows in methods.items():
        if len(rows) != len(tokens):
            raise ValueError(f"{name} has scores for {len(rows)} texts, not {len(tokens)}")
    sections = []
    has_negative = False
    for index, words in enumerate(tokens):
        scores = {name: [float(score) for score in rows[index]] for name, rows in methods.items()}
        for name, row in scores.items():
            if len(row) != len(words):
                raise ValueError(
                    f"{name} has {len(row)} scores for the {len(words)} tokens of text {index + 1}"
                )
            has_negative = has_negative or min(row, default=0.0) < 0
        sections.append(_section(headings[index], words, scores))
    return _PAGE.format(
        title=escape(title), style=_STYLE, legend=legend(has_negative), sections="\n".join(sections)
    )


def shaded_tokens(tokens: Sequence[str], scores: Sequence[float]) -> str:
    """Return a paragraph of N tokens, each shaded by its score and with the number on hover.

    Args:
        tokens: N tokens or words.
        scores: N scores, shaded relative to the largest magnitude among them.

    Example:
        >>> shaded_tokens(["<b>"], [-2.0])  # doctest: +ELLIPSIS
        '<p class="tokens" dir="auto"><span class="negative" ... title="-2">&lt;b&gt;</span></p>'
    """
    spans = " ".join(
        f'<span class="{"negative" if strength < 0 else "positive"}" '
        f'style="--strength:{abs(strength):.3f}" title="{score:.4g}">{escape(token)}</span>'
        for token, score, strength in zip(tokens, scores, strengths(scores), strict=True)
    )
    return f'<p class="tokens" dir="auto">{spans}</p>'


def number_table(tokens: Sequence[str], scores: Mapping[str, Sequence[float]]) -> str:
    """Return a table of N tokens, one a row, and their scores by each method."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in scores)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(token)}</th>'
        + "".join(f"<td>{number:.4f}</td>" for number in row)
        + "</tr>"
        for token, *row in zip(tokens, *scores.values(), strict=True)
    )
    return (
        '<div class="scroll" role="region" aria-label="Numbers" tabindex="0"><table class="numbers">\n'
        f'<tr><th scope="col">token</th>{names}</tr>\n{rows}\n</table></div>'
    )


def heat_map(tokens: Sequence[str], layers: Sequence[Sequence[float]]) -> str:
    """Return a table of N tokens, one a row, by L layers: per cent, shaded within each layer.

    Args:
        tokens: N tokens or words.
        layers: L rows of N scores, such as `GlobEnc.attribute_layers` gives.

    Example:
        >>> "<td" in heat_map(["a", "b"], [[0.25, 0.75], [0.5, 0.5]])
        True
    """
    heads = "".join(f'<th scope="col">{number}</th>' for number in range(1, len(layers) + 1))
    columns = [list(zip(row, strengths(row), strict=True)) for row in layers]
    rows = "\n".join(
        f'<tr><th scope="row" dir="auto">{escape(token)}</th>'
        + "".join(
            f'<td class="{"negative" if strength < 0 else "positive"}" '
            f'style="--strength:{abs(strength):.3f}" title="{score:.4g}">{100 * score:.1f}</td>'
            for score, strength in cells
        )
        + "</tr>"
        for token, *cells in zip(tokens, *columns, strict=True)
    )
    return (
        '<div class="scroll" role="region" aria-label="Layers" tabindex="0"><table class="heat">\n'
        f'<tr><th scope="col">% after layer</th>{heads}</tr>\n{rows}\n</table></div>'
    )


def legend(signed: bool) -> str:
    """Return what the shades mean, for scores that may be negative (`signed`) or not."""
    if signed:
        scale = 'negative <span class="scale signed"></span> positive'
    else:
        scale = '0 <span class="scale"></span> strongest'
    return f"{scale}. Shades are relative to the strongest token of each line; hover for the number."


def _section(heading: str, tokens: Sequence[str], scores: Mapping[str, Sequence[float]]) -> str:
    """One text: a line of shaded tokens per method, and all the numbers in a table."""
    lines = "\n".join(
        f"<h3>{escape(name)}</h3>\n{shaded_tokens(tokens, row)}" for name, row in scores.items()
    )
    return (
        f"<section>\n<h2>{escape(heading)}</h2>\n{lines}\n<details><summary>Numbers</summary>\n"
        f"{number_table(tokens, scores)}</details>\n</section>"
    )


# Text on the strongest shade keeps a contrast above 5 to 1 in both themes; orange and blue stay
# apart for readers who do not tell red from green, and negative scores are underlined as well.
LIGHT = """--page: #ffffff; --text: #1a1a1a; --quiet: #595959; --line: #d5d5d5;
  --positive: 255 158 64; --negative: 116 178 255;"""
DARK = """--page: #16181c; --text: #f2f2f2; --quiet: #b0b0b0; --line: #3d4148;
  --positive: 150 72 0; --negative: 22 84 166;"""
"""The colours of the two themes, as CSS declarations."""

RULES = """
.tokens { margin: 0; line-height: 2; overflow-wrap: anywhere; }
.tokens span { border-radius: .2rem; padding: .15rem .25rem; unicode-bidi: isolate; }
.positive, .negative { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
.positive { background: rgb(var(--positive) / var(--strength)); }
.negative { background: rgb(var(--negative) / var(--strength)); }
.tokens .negative { text-decoration: underline dotted; text-underline-offset: .25em; }
.legend { color: var(--quiet); font-size: .85rem; }
.scale { display: inline-block; width: 8rem; height: .8rem; vertical-align: middle;
  border: 1px solid var(--line); -webkit-print-color-adjust: exact; print-color-adjust: exact;
  background: linear-gradient(to right, var(--page), rgb(var(--positive))); }
.signed { background: linear-gradient(to right, rgb(var(--negative)), var(--page),
  rgb(var(--positive))); }
.scroll { overflow-x: auto; }
.numbers, .heat { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td, .heat th, .heat td { text-align: right; font-weight: 400; }
.numbers th, .numbers td { padding: .1rem .8rem .1rem 0; }
.heat th, .heat td { padding: .1rem .35rem; }
.numbers tr > :first-child, .heat tr > :first-child { text-align: left; overflow-wrap: anywhere;
  min-width: 6rem; max-width: 16rem; }
.numbers tr:first-child th, .heat tr:first-child th { font-weight: 600; }
"""
"""The rules for all the parts, whatever page they are put on: it has to define the colours."""

_STYLE = f"""
:root {{ color-scheme: light dark; {LIGHT} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {DARK} }}
}}
body {{ margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; }} h2 {{ font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }}
h3 {{ font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }}
section {{ border-top: 1px solid var(--line); padding: 1.2rem 0; }}
details {{ margin-top: .8rem; }} summary {{ cursor: pointer; color: var(--quiet); font-size: .85rem; }}
{RULES}"""

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
