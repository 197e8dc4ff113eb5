"""Explained texts in HTML, as they were written: a page that is asked, and a part of somebody else's.

The page is one file. What is to read in it needs no script. With one it is searched, sorted and filtered,
tells all numbers of a piece and where it came from, and is saved as pictures and data.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

from captum_globenc.drawing.numbers import DEPTHS, SHARE, strengths
from captum_globenc.drawing.packing import pack
from captum_globenc.drawing.page import hover, legend, shade
from captum_globenc.drawing.picture import Picture, behind, lay_on, unshaded
from captum_globenc.drawing.style import PAGE_STYLE, PART_STYLE

__all__ = ["Line", "Part", "Section", "document", "document_part", "shaded"]

SCRIPT = ("data", "pieces", "panel", "contents", "tables", "long", "files", "answers")
"""The parts of the page's script, in order: files of the folder `browser`."""

ENTRY = 70
"""Characters of a text in the list of contents."""


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
        unit: What its scores are counted in; see `captum_globenc.drawing.page`.
        texts: The parts of the text, and of its pair if there is one.
        note: What its scores are, and add up to.
        first: The number of the first layer, where the data hold layers.
    """

    method: str
    unit: str
    texts: Sequence[Sequence[Part]]
    note: str = ""
    first: int = 1


class Section(NamedTuple):
    """One text.

    Attributes:
        heading: What is said over it, such as its prediction.
        label: What texts are told apart by, such as the predicted class.
        text: What the list of contents shows of it.
        lines: What each method says.
        about: What else is said under the heading.
        tokens: The tokens of each part that has a score, in the order of the parts.
        layers: Whether the data hold scores of layers.
        more: Elements that follow in a part, which has no script to make them.
        picture: What lies behind the first of the parts, if these are no words.
        answer: The tokens of an answer, below the text, with their log-probabilities.
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
    """Draw a page of explained texts.

    It asks for nothing else, and runs no script but its own, whatever the texts hold: they are escaped, and
    the page's policy names its script by its digest.

    Args:
        sections: The texts.
        data: What JSON can hold of each: what the script tells of it, and what the page gives away as a file.
        facts: What is said of all of them by name, such as the model.
        title: The page's title.
        measure: What the probability of the data is called, or the value where there is none.
        noun: What the texts are called, if they are something else.

    Returns:
        The page, to be written to a file as UTF-8.

    Raises:
        ValueError: There are not as many data as texts.

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
        # In JSON "<" stands in strings alone, where this means the same: no element ends or begins there.
        data="\n".join(pack(data)).replace("<", r"\u003c"),
        script=script,
    )


def document_part(sections: Sequence[Section]) -> str:
    """Draw explained texts as a part of somebody else's page, such as a notebook's output: without a script.

    It brings its own rules, which reach nothing outside of it.

    Example:
        >>> document_part([]).startswith('<div class="globenc-part"><style>')
        True
    """
    drawn = "\n".join(
        f"<section{behind(it.picture)}>\n<h2>{escape(it.heading)}</h2>\n{_lines(it)}{it.more}\n</section>"
        for it in sections
    )
    return (
        f'<div class="globenc-part"><style>{PART_STYLE}</style>\n{drawn}\n'
        f'<p class="legend">{_legend(sections)}</p>\n</div>'
    )


@cache
def _file(name: str) -> str:
    """Read a file of the folder of what runs in a browser."""
    return (files("captum_globenc") / "drawing" / "browser" / name).read_text(encoding="utf-8")


def _legend(sections: Sequence[Section]) -> str:
    units = {line.unit for section in sections for line in section.lines}
    return legend(
        shares=SHARE in units,
        signed=bool(units - {SHARE}),
        pictures=any(section.picture for section in sections),
    )


def _contents(sections: Sequence[Section]) -> str:
    entries = "\n".join(
        f'<li><a href="#text-{number}"><span>{number}</span> <b>{escape(it.heading)}</b> '
        f'<span dir="auto">{escape(_short(it.text))}</span></a></li>'
        for number, it in enumerate(sections, 1)
    )
    return (
        '<nav id="contents" aria-label="Contents"><details open><summary>Contents</summary>\n'
        f"<ol>\n{entries}\n</ol></details></nav>"
    )


def _short(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 2 * ENTRY].split())
    return line if len(line) <= ENTRY else f"{line[: ENTRY - 1]}…"


def _article(number: int, section: Section) -> str:
    tokens = " ".join("+".join(map(str, those)) for those in section.tokens)
    more = (" data-layers" if section.layers else "") + behind(section.picture)
    return (
        f'<article id="text-{number}" data-label="{escape(section.label)}" data-tokens="{tokens}"{more}>\n'
        f'<h2><a href="#text-{number}">{number}</a> {escape(section.heading)}</h2>\n'
        f"{_lines(section)}\n</article>"
    )


def _lines(section: Section) -> str:
    """Draw what every method says of one text."""
    about = f'<p class="about note">{escape(section.about)}</p>\n' if section.about else ""
    return (
        about
        + unshaded(section.picture)
        + "\n".join(
            f'<div class="method">\n<h3>{escape(line.method)}</h3>\n<p class="note">{escape(line.note)}</p>\n'
            f'<div class="shaded" data-method="{escape(line.method)}" data-unit="{escape(line.unit)}" '
            f'data-first="{line.first}">{shaded(line, section.picture)}</div>\n</div>'
            for line in section.lines
        )
        + _answer(section.answer)
    )


def _answer(answer: Sequence[tuple[str, float]]) -> str:
    """Draw the tokens of an answer; the page's script makes buttons of those that have a row of scores."""
    if not answer:
        return ""
    tokens = " ".join(
        f'<span title="log-probability {value:z.3f}">{escape(token)}</span>' for token, value in answer
    )
    return f'\n<div class="answer">\n<h3>answer</h3>\n<p class="tokens" dir="auto">{tokens}</p>\n</div>'


def shaded(line: Line, picture: Picture | None = None) -> str:
    """Draw the text and its pair, a paragraph each, shaded by the strongest of both; or parts of a picture.

    Example:
        >>> shaded(Line("GlobEnc", "%", [[Part("a", 0.5), Part(" <b>")]]))  # doctest: +ELLIPSIS
        '<p class="tokens" dir="auto"><span class="share" ... title="50 %">a</span> &lt;b&gt;</p>'
    """
    scores = [part.score for parts in line.texts for part in parts if part.score is not None]
    if picture is not None:
        largest = max(map(abs, scores[: picture.count])) or 1.0
        shades = [max(-1.0, min(1.0, score / largest)) for score in scores]
        drawn = [_part(*it, line.unit) for it in zip(line.texts[0], shades, strict=True)]
        beside = drawn[picture.count :]
        return lay_on(picture, drawn[: picture.count]) + (_paragraph(beside) if beside else "")
    strong = iter(strengths(scores))
    return "".join(
        _paragraph(_part(part, 0.0 if part.score is None else next(strong), line.unit) for part in parts)
        for parts in line.texts
    )


def _paragraph(parts: Iterable[str]) -> str:
    return f'<p class="tokens" dir="auto">{"".join(parts)}</p>'


def _part(part: Part, strength: float, unit: str) -> str:
    text, note = escape(part.text), escape(part.note)
    if part.score is None:
        return f'<span class="unread" title="{note}">{text}</span>' if note else text
    look = shade(strength, unit != SHARE, "special" if part.special else "noted" if note else "")
    said = hover(part.score, unit)
    named = f' title="{said}; {note}" data-note="{note}"' if note else f' title="{said}"'
    # A direction of its own keeps it from telling that of the text.
    aside = ' dir="ltr"' if part.special else ""
    return f"<span {look}{named}{aside}>{text}</span>"
