"""Explanations as HTML: pages, notebook outputs, and parts for the web demo.

N tokens, T tokens of an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape
from os import PathLike
from pathlib import Path
from typing import Literal

from captum_globenc.drawing.document import Section, document, document_part
from captum_globenc.drawing.elements import (
    Line,
    Part,
    bars,
    details,
    heat_map,
    layer_map,
    legend,
    method_lines,
    number_table,
    shortened,
)
from captum_globenc.drawing.numbers import SHARE
from captum_globenc.results.files import to_json
from captum_globenc.results.record import Record
from captum_globenc.results.shading import Piece
from captum_globenc.results.words import Word, merge_scores, sentence_spans, tokens_of_spans

__all__ = ["draw_page", "draw_part", "draw_pieces"]

NAMED = 4
"""Maximum number of names in a list of models, classes and so on."""

MOST_WORDS = 60
"""Maximum number of words for one heat map row per word; longer prompts have one row per sentence."""

MOST_ROWS = 100
"""Maximum number of rows of a heat map; only the strongest are shown."""

OTHERS = "other tokens"
"""The name of all tokens outside of sentences or passages."""


def draw_page(records: Sequence[Record], path: str | PathLike[str] | None = None) -> str:
    """Return a standalone page of explanations with their data as JSON; write it to `path` if not None."""
    value = any(it.probability is None for it in records)
    page = document(
        [_section(it) for it in records],
        [to_json(it) for it in records],
        _facts(records),
        measure="value" if value else "confidence",
        noun=_noun(records),
    )
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def draw_part(records: Sequence[Record]) -> str:
    """Return HTML of explanations for another page, such as a notebook output, with tables of numbers."""
    return document_part([_section(it)._replace(more=_tables(it)) for it in records])


def draw_pieces(
    record: Record,
    *,
    of: Literal["words", "tokens"] = "words",
    special: bool = True,
    after: int = 0,
    answer_token: int | None = None,
) -> tuple[str, str]:
    """Return HTML of one explanation for a page with its own controls, such as the web demo.

    Args:
        record: The explanation.
        of: What is shaded, "words" or "tokens".
        special: Whether special tokens such as [CLS] are shown.
        after: The layer after which shares are shown, from 1; 0 for the scores.
        answer_token: The index of the answer token whose scores are shown, where there are rows; None for
            the whole answer.

    Returns:
        The shaded text of every method with its numbers, passages and answer tokens, and the heat maps of
        all layers.
    """
    texts = _pieces(record, of, special)
    scored = [piece for text in texts for piece in text if piece.tokens]
    names = [it.text if of == "words" else " ".join(record.tokens[one] for one in it.tokens) for it in scored]
    lines = _lines(record, texts, after, answer_token)
    numbers = number_table(
        names, {it.method: it.scores for it in lines}, {it.method: it.unit for it in lines if it.unit}
    )
    maps = _layers(record, scored, names)
    more = "".join(it.more for it in lines)
    return (
        f'{method_lines(lines)}{more}<p class="legend">{legend(lines)}</p>{details({"Numbers": numbers})}',
        "".join(f"<section><h3>{escape(name)}</h3>{made}</section>" for name, made in maps.items()),
    )


def _pieces(
    record: Record, of: Literal["words", "tokens"] = "words", special: bool = True
) -> list[list[Piece]]:
    """Return the shown pieces of each text, without gaps for pictures."""
    return [
        [
            piece
            for piece in text
            if (special or not piece.special) and (record.picture is None or piece.tokens)
        ]
        for text in record.pieces(of)
    ]


def _lines(
    record: Record, texts: Sequence[Sequence[Piece]], after: int = 0, answer_token: int | None = None
) -> list[Line]:
    """Return the scored pieces of every method, after a layer, or for an answer token; see `draw_pieces`."""
    scored = [piece for text in texts for piece in text if piece.tokens]
    units, notes, lines = record.units, record.notes, []
    for name, scores in record.scores.items():
        label, layers = name, record.layers.get(name, ())
        if units[name] == SHARE and 0 < after < len(layers):
            label, scores = f"{name}, after layer {after} of {len(layers)}", layers[after - 1]
        note = notes[name]
        if answer_token is not None and record.answer is not None and name in record.answer_scores:
            label = f"{name}, answer token {answer_token + 1}: {record.answer.tokens[answer_token]}"
            scores, note = record.answer_scores[name][answer_token], ""
        merged = iter(merge_scores(scores, scored))
        parts = [
            [Part(it.text, next(merged) if it.tokens else None, it.special, it.note) for it in text]
            for text in texts
        ]
        more = _passages(record, name) + _answer_map(record, name)
        lines.append(Line(label, units[name], parts, note, _first(record, name), more))
    return lines


def _section(record: Record) -> Section:
    """Return the section of one text."""
    texts, answer = _pieces(record), record.answer
    return Section(
        heading=record.heading,
        label=record.prediction if answer is None else "",  # generated answers are not classes
        text=" / ".join(record.sources) if record.picture is None else "",  # the heading names the file
        lines=_lines(record, texts),
        about=_likely(record),
        tokens=[piece.tokens for text in texts for piece in text if piece.tokens],
        layers=any(record.layers.values()),
        picture=record.picture,
        answer=[] if answer is None else [*zip(answer.tokens, answer.log_probabilities, strict=True)],
    )


def _first(record: Record, name: str) -> int:
    """Return the number of the first row of layers: 0 for signed scores, whose first row is at the input."""
    return 0 if record.kinds[name] in ("signed", "contributions") else 1


def _likely(record: Record) -> str:
    """Return the most probable classes, or "" if there is only one."""
    ranked = sorted(record.probabilities.items(), key=lambda it: -it[1])
    classes = ", ".join(f"{name} {share:.1%}" for name, share in ranked[:NAMED])
    left = len(ranked) - NAMED
    return (f"{classes} and {left} more" if left > 0 else classes) if len(ranked) > 1 else ""


def _layers(record: Record, scored: Sequence[Piece], names: Sequence[str]) -> dict[str, str]:
    """Return the heat map of scores per layer for each method that has layers."""
    return {
        name: layer_map(
            names, [merge_scores(row, scored) for row in rows], record.units[name], first=_first(record, name)
        )
        for name, rows in record.layers.items()
    }


def _tables(record: Record) -> str:
    """Return tables of the scores of all tokens, and heat maps of words by layers."""
    scored = [piece for text in _pieces(record) for piece in text if piece.tokens]
    maps = _layers(record, scored, [piece.text for piece in scored])
    numbers = number_table(record.tokens, record.scores, record.units)
    return details({"Numbers": numbers} | {f"Layers of {name}": made for name, made in maps.items()})


def _passages(record: Record, name: str) -> str:
    """Return bars of the passages of a prompt by decreasing score, and last of all other tokens."""
    if not (record.passage_spans and record.offsets):
        return ""
    names, spans = zip(*record.passage_spans, strict=True)
    *scores, rest = merge_scores(record.scores[name], tokens_of_spans(record.sources, record.offsets, spans))
    ranked = sorted(zip(names, scores, strict=True), key=lambda it: -it[1])
    rows = [*ranked, (OTHERS, rest)]
    drawn = bars([it for it, _ in rows], [it for _, it in rows], record.units[name], "Passages")
    return f"\n<h3>passages, by {escape(name)}</h3>\n{drawn}"


def _answer_map(record: Record, name: str) -> str:
    """Return a heat map of the contributions of words or sentences of the prompt to each answer token."""
    if record.answer is None or name not in record.answer_scores:
        return ""
    noun, parts = _parts_of(record)
    columns = [merge_scores(row, parts) for row in record.answer_scores[name]]
    most = [max(map(abs, row)) for row in zip(*columns, strict=True)]
    shown = sorted(sorted(range(len(parts)), key=lambda place: -most[place])[:MOST_ROWS])
    note = (
        f"Contributions to the log-probability of each token, in {record.units[name]}. Shades are relative "
        "to the strongest of all; hover for the number."
    )
    if len(shown) < len(parts):
        note = f"The {len(shown)} strongest of {len(parts):,} {noun}. {note}"
    drawn = heat_map(
        [shortened(parts[place].text) for place in shown],
        [[column[place] for place in shown] for column in columns],
        record.units[name],
        heads=record.answer.tokens,
        label=f"The answer by {noun} of the prompt",
        squares=True,
    )
    made = f'<p class="note">{note}</p>{drawn}'
    return details({f"The answer by {noun} of the prompt, {name}": made}, opened=True)


def _parts_of(record: Record) -> tuple[str, list[Word]]:
    """Return the rows of a heat map: words, or the sentences of a long prompt if offsets are known."""
    words = [Word(it.text, it.tokens, it.special) for text in _pieces(record) for it in text if it.tokens]
    if len(words) <= MOST_WORDS or not record.offsets:
        return "words", words
    spans = sentence_spans(*record.sources)
    *sentences, rest = tokens_of_spans(record.sources, record.offsets, spans)
    return "sentences", [*sentences, *([rest._replace(text=OTHERS)] if rest.tokens else [])]


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """Return facts about all texts, by name."""
    predicted = Counter(it.prediction for it in records if it.probability is not None)
    classes = _list(f"{count} {name}" for name, count in predicted.most_common())
    facts = {
        _noun(records).capitalize(): f"{len(records)}: {classes}" if len(records) > 1 and classes else "",
        "Model": _list(_model(it) for it in records),
        "Methods": _list(name for it in records for name in it.scores),
        "Explained position": _list(_position(it) for it in records if "globenc" in it.scores),
        "Settings": _list(f"{name} {setting}" for it in records for name, setting in it.settings.items()),
        "Versions": _list(f"{name} {version}" for it in records for name, version in it.versions.items()),
        "Page of": date.today().isoformat(),
    }
    return {name: fact for name, fact in facts.items() if fact}


def _noun(records: Sequence[Record]) -> str:
    """Return the plural noun for the inputs: "texts", "images" or "sounds"."""
    kinds = {"text" if it.picture is None else it.picture.kind for it in records}
    return f"{kinds.pop()}s" if len(kinds) == 1 else "texts"


def _model(record: Record) -> str:
    name, kind = record.model.get("name", ""), record.model.get("class", "")
    return f"{name} ({kind})" if name and kind else name or kind


def _position(record: Record) -> str:
    where = record.position
    if isinstance(where, int):
        return f"{record.tokens[where]} ({where})"
    return "mean of all tokens" if where == "mean" else "the tokens that the head reads"


def _list(names: Iterable[str]) -> str:
    """Return the unique names, separated by commas and limited in number."""
    known = [*dict.fromkeys(name for name in names if name)]
    return ", ".join([*known[:NAMED], *([f"{len(known) - NAMED} more"] if len(known) > NAMED else [])])
