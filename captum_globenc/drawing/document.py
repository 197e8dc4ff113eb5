"""HTML documents of explanations: an interactive page, a page without script, a part of another page.

The interactive page is one file. It can be read without its script. The script adds search, sorting and
filters, shows all numbers of a piece, and saves pictures and data. N tokens.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from captum_globenc.drawing.elements import Line, Part, details, legend, method_lines, number_table, shortened
from captum_globenc.drawing.numbers import DEPTHS
from captum_globenc.drawing.picture import Picture, behind, unshaded
from captum_globenc.drawing.style import PAGE_STYLE, PART_STYLE

__all__ = ["Section", "document", "document_part", "html_page", "pack"]

SCRIPT = ("data", "pieces", "panel", "contents", "tables", "long", "files", "answers")
"""The files of the page's script in the folder `browser`, in order."""

GAP = Part(" ")
"""The gap between two tokens if the text is not known."""


class Section(NamedTuple):
    """One text of a document.

    Attributes:
        heading: The heading, such as the prediction.
        label: The category for filters, such as the predicted class.
        text: The text in the table of contents.
        lines: The scores of each method.
        about: A note under the heading.
        tokens: The tokens of each part that has a score, in the order of the parts.
        layers: Whether the data contain scores per layer.
        more: HTML that follows in documents without a script.
        picture: The image or sound behind the first parts; None for a text.
        answer: The tokens of an answer, shown below the text, with their log-probabilities.
    """

    heading: str
    label: str
    text: str
    lines: Sequence[Line]
    about: str = ""
    tokens: Sequence[Sequence[int]] = ()
    layers: bool = False
    more: str = ""
    picture: Picture | None = None
    answer: Sequence[tuple[str, float]] = ()


def document(
    sections: Sequence[Section],
    data: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str],
    *,
    title: str = "Token attributions",
    measure: str = "confidence",
    noun: str = "texts",
) -> str:
    """Return an interactive page of explained texts.

    The page loads nothing and runs only its own script: texts are escaped, and the content security policy
    contains the script's digest.

    Args:
        sections: The texts.
        data: One JSON object per text, for the script and for download.
        facts: Facts about all texts by name, such as the model.
        title: The page's title.
        measure: The name of the sort key, such as "confidence" or "value".
        noun: The plural noun for the inputs.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: The numbers of data and texts differ.

    Example:
        >>> line = Line("GlobEnc", "%", [[Part("a", 0.25), Part(" "), Part("<b>", 0.75)]])
        >>> page = document([Section("POSITIVE", "POSITIVE", "a <b>", [line])], [{"text": "a <b>"}], {})
        >>> "&lt;b&gt;</span>" in page, "<b>" in page
        (True, False)
    """
    if len(data) != len(sections):
        raise ValueError(f"data of {len(data)} for {len(sections)} texts")
    parts = "\n".join(_file(f"{name}.js") for name in SCRIPT)
    script = f'\n"use strict";\n{{\nconst DEPTHS = {json.dumps(DEPTHS)};\n{parts}}}\n'
    labels = Counter(it.label for it in sections)
    methods = dict.fromkeys(line.method for it in sections for line in it.lines)
    boxes = [
        f'<label><input type="checkbox" name="method" value="{name}" checked> {name}</label>\n'
        for name in map(escape, methods)
    ]
    return _file("page.html").format(
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=escape(title),
        style=PAGE_STYLE + _file("page.css"),
        facts="".join(f"<div><dt>{escape(it)}</dt><dd>{escape(facts[it])}</dd></div>" for it in facts),
        legend=_legend(sections),
        several="" if len(sections) > 1 else " hidden",
        classes="" if len(labels) > 1 else " hidden",
        labels="".join(
            f'<option value="{escape(label)}">{escape(label)} ({count})</option>'
            for label, count in labels.most_common()
        ),
        measure=escape(measure),
        methods="".join(boxes) if len(boxes) > 1 else "",
        count=f"{len(sections)} {escape(noun)}",
        contents=_contents(sections) if len(sections) > 1 else "",
        sections="\n".join(_article(number, it) for number, it in enumerate(sections, 1)),
        # In JSON, "<" occurs only in strings; escaped there, it cannot open or close an element.
        data="\n".join(pack(data)).replace("<", r"\u003c"),
        script=script,
    )


def document_part(sections: Sequence[Section]) -> str:
    """Return explained texts as HTML for another page, such as a notebook output, without a script.

    Its CSS rules apply to this part only.

    Example:
        >>> document_part([]).startswith('<div class="globenc-part"><style>')
        True
    """
    return (
        f'<div class="globenc-part"><style>{PART_STYLE}</style>\n{_drawn(sections)}\n'
        f'<p class="legend">{_legend(sections)}</p>\n</div>'
    )


def html_page(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float] | None]],
    *,
    headings: Sequence[str] | None = None,
    title: str = "Token attributions",
    notes: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
) -> str:
    """Return a standalone HTML page of the scores of one or several methods for the same texts.

    The page has no script and loads nothing. It follows the light or dark theme of the browser, and shows
    each number on hover and in a table. All texts are escaped.

    Args:
        tokens: The tokens or words of each text, for example from `token_scores`.
        methods: By method, the scores of each text, one per token; None for a text without scores.
        headings: One line above each text, such as its prediction; by default the text's number.
        title: The page's title.
        notes: By method, one line per text under the method's name, such as the sum of the scores.
        units: By method, the unit of its scores: "%" for shares, which are shown in percent; any other unit
            for signed scores. By default, scores are shown without a unit.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: There is not one heading and note per text, or not one score per token.

    Example:
        >>> page = html_page([["a", "<b>"]], {"GlobEnc": [[0.4, 0.6]]})
        >>> "&lt;b&gt;" in page, "<b>" in page
        (True, False)
    """
    sections = _sections(tokens, methods, headings, notes or {}, units or {})
    return _PLAIN.format(
        title=escape(title), style=PAGE_STYLE, legend=_legend(sections), sections=_drawn(sections)
    )


def pack(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return lines of JSON: one with the fields that all objects share, then one per object with the rest.

    Rows of N numbers become base64 strings of little-endian floats, of 4 bytes if that is exact, else of 8.
    `browser/data.js` restores the objects without loss.

    Args:
        objects: One JSON object per text. "scores" holds rows of N numbers by name; "layers" and
            "answer_scores" hold several rows by name.

    Returns:
        One line more than there are objects.

    Example:
        >>> pack([{"unit": "%", "scores": {"a": [0.5, 1.0]}}, {"unit": "%", "scores": {"a": [0.1]}}])
        ['{"unit":"%"}', '{"scores":{"a":"AAAAPwAAgD8="}}', '{"scores":{"a":"mpmZmZmZuT8="}}']
    """
    fields = [{name: _as_json(_packed(name, value)) for name, value in it.items()} for it in objects]
    first, *others = fields or [{}]
    shared = {
        name: value for name, value in first.items() if others and all(it.get(name) == value for it in others)
    }
    own = [{name: value for name, value in it.items() if name not in shared} for it in fields]
    return ["{" + ",".join(f"{_as_json(name)}:{it[name]}" for name in it) + "}" for it in (shared, *own)]


def _as_json(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _packed(name: str, value: Any) -> Any:
    if name == "scores":
        return {method: _as_bytes(row) for method, row in value.items()}
    if name in ("layers", "answer_scores"):
        return {method: [*map(_as_bytes, rows)] for method, rows in value.items()}
    return value


def _as_bytes(row: Sequence[float]) -> str:
    """Return numbers as floats in base64."""
    try:
        made = struct.pack(f"<{len(row)}f", *row)
    except OverflowError:  # too large for four bytes
        made = b""
    if struct.unpack(f"<{len(made) // 4}f", made) != tuple(row):
        made = struct.pack(f"<{len(row)}d", *row)
    return base64.b64encode(made).decode()


@cache
def _file(name: str) -> str:
    """Read a file of the folder `browser`."""
    return (files("captum_globenc") / "drawing" / "browser" / name).read_text(encoding="utf-8")


def _drawn(sections: Sequence[Section]) -> str:
    """Return HTML of sections, for a document without a script."""
    return "\n".join(
        f"<section{behind(it.picture)}>\n<h2>{escape(it.heading)}</h2>\n{_lines(it)}{it.more}\n</section>"
        for it in sections
    )


def _legend(sections: Sequence[Section]) -> str:
    lines = [line for section in sections for line in section.lines]
    return legend(lines, pictures=any(section.picture for section in sections))


def _contents(sections: Sequence[Section]) -> str:
    entries = "\n".join(
        f'<li><a href="#text-{number}"><span>{number}</span> <b>{escape(it.heading)}</b> '
        f'<span dir="auto">{escape(shortened(it.text))}</span></a></li>'
        for number, it in enumerate(sections, 1)
    )
    return (
        '<nav id="contents" aria-label="Contents"><details open><summary>Contents</summary>\n'
        f"<ol>\n{entries}\n</ol></details></nav>"
    )


def _article(number: int, section: Section) -> str:
    tokens = " ".join("+".join(map(str, those)) for those in section.tokens)
    more = (" data-layers" if section.layers else "") + behind(section.picture)
    return (
        f'<article id="text-{number}" data-label="{escape(section.label)}" data-tokens="{tokens}"{more}>\n'
        f'<h2><a href="#text-{number}">{number}</a> {escape(section.heading)}</h2>\n'
        f"{_lines(section)}\n</article>"
    )


def _lines(section: Section) -> str:
    """Return HTML of the scores of all methods for one text."""
    about = f'<p class="about note">{escape(section.about)}</p>\n' if section.about else ""
    return (
        about
        + unshaded(section.picture)
        + method_lines(section.lines, section.picture)
        + _answer(section.answer)
        + "".join(
            f'\n<div class="method" data-method="{escape(line.method)}">{line.more}</div>'
            for line in section.lines
            if line.more
        )
    )


def _sections(
    tokens: Sequence[Sequence[str]],
    methods: Mapping[str, Sequence[Iterable[float] | None]],
    headings: Sequence[str] | None,
    notes: Mapping[str, Sequence[str]],
    units: Mapping[str, str],
) -> list[Section]:
    """Return a section for each text; see `html_page`."""
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
    for index, (heading, words) in enumerate(zip(headings, tokens, strict=True)):
        given = {name: rows[index] for name, rows in methods.items()}
        scores = {name: [float(it) for it in row] for name, row in given.items() if row is not None}
        drawn = []
        for name, row in scores.items():
            if len(row) != len(words):
                raise ValueError(
                    f"{name} has {len(row)} scores for the {len(words)} tokens of text {index + 1}"
                )
            parts = [
                part for word, score in zip(words, row, strict=True) for part in (Part(word, score), GAP)
            ]
            drawn.append(
                Line(name, units.get(name), [parts[:-1]], notes[name][index] if name in notes else "")
            )
        more = details({"Numbers": number_table(words, scores, units)})
        sections.append(Section(heading, "", "", drawn, more=more))
    return sections


def _answer(answer: Sequence[tuple[str, float]]) -> str:
    """Return HTML of the tokens of an answer; the script turns tokens with scores into buttons."""
    if not answer:
        return ""
    tokens = " ".join(
        f'<span title="log-probability {value:z.3f}">{escape(token)}</span>' for token, value in answer
    )
    return f'\n<div class="answer">\n<h3>answer</h3>\n<p class="tokens" dir="auto">{tokens}</p>\n</div>'


_PLAIN = """<!DOCTYPE html>
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
