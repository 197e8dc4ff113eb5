"""Explanations as HTML: what is drawn of them, and what is said of each and of all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from html import escape

from captum_globenc.drawing.document import Line, Part, Section, document, document_part
from captum_globenc.drawing.numbers import depths_note
from captum_globenc.drawing.page import heat_map, number_table
from captum_globenc.results.files import to_json
from captum_globenc.results.record import Record
from captum_globenc.results.shading import Piece
from captum_globenc.results.words import merge_scores

__all__ = ["draw_page", "draw_part"]

NAMED = 4
"""Of how many models, or classes and so on, a page says the names."""


def draw_page(records: Sequence[Record]) -> str:
    """Draw the page of some texts; it holds all that is known of them, as it would be saved."""
    value = any(it.probability is None for it in records)
    return document(
        [_section(it) for it in records],
        [to_json(it) for it in records],
        _facts(records),
        measure="value" if value else "confidence",
        noun=_noun(records),
    )


def draw_part(records: Sequence[Record]) -> str:
    """Draw the same as a part of somebody else's page, such as a notebook's output, its numbers in tables."""
    return document_part([_section(it)._replace(more=_tables(it)) for it in records])


def _section(record: Record) -> Section:
    """Return what is drawn of one text: its words, where they are known, as they were written."""
    pieces = record.pieces()
    units, notes = record.units, record.notes
    if record.picture is not None:  # no words, between which there are gaps
        pieces = [[piece for piece in text if piece.tokens] for text in pieces]
    scored = [piece for text in pieces for piece in text if piece.tokens]
    lines = []
    for name, scores in record.scores.items():
        merged = iter(merge_scores(scores, scored))
        texts = [[_part(piece, next(merged) if piece.tokens else None) for piece in text] for text in pieces]
        lines.append(Line(name, units[name], texts, notes[name], _first(record, name)))
    return Section(
        heading=record.heading,
        label=record.prediction,
        text=" / ".join(record.sources) if record.picture is None else "",  # the heading names its file
        lines=lines,
        about=_likely(record),
        tokens=[piece.tokens for piece in scored],
        layers=any(record.layers.values()),
        picture=record.picture,
        answer=[]
        if record.answer is None
        else [*zip(record.answer.tokens, record.answer.log_probabilities, strict=True)],
    )


def _part(piece: Piece, score: float | None) -> Part:
    return Part(piece.text, score, piece.special, piece.note)


def _first(record: Record, name: str) -> int:
    """Return the number of the first layer: signed scores begin with what enters layer 1."""
    return 0 if record.kinds[name] in ("signed", "contributions") else 1


def _likely(record: Record) -> str:
    """Return the most probable classes, where there are more than the predicted one."""
    ranked = sorted(record.probabilities.items(), key=lambda it: -it[1])
    said = ", ".join(f"{name} {share:.1%}" for name, share in ranked[:NAMED])
    left = len(ranked) - NAMED
    return (f"{said} and {left} more" if left > 0 else said) if len(ranked) > 1 else ""


def _tables(record: Record) -> str:
    """Return the numbers of all tokens, and what every word scores after every layer."""
    tables = {"Numbers": number_table(record.tokens, record.scores, record.units)}
    scored = [piece for text in record.pieces() for piece in text if piece.tokens]
    for name, layers in record.layers.items():
        merged = [merge_scores(row, scored) for row in layers]
        texts = [piece.text for piece in scored]
        unit = record.units[name]
        drawn = heat_map(texts, merged, unit, first=_first(record, name))
        tables[f"Layers of {name}"] = f'<p class="note">{depths_note(unit)}</p>{drawn}'
    return "".join(
        f"\n<details><summary>{escape(name)}</summary>{made}</details>" for name, made in tables.items()
    )


def _facts(records: Sequence[Record]) -> dict[str, str]:
    """Return what holds for all the texts, by name."""
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
    """Return what several of them are called."""
    kinds = {"text" if it.picture is None else it.picture.kind for it in records}
    return f"{kinds.pop()}s" if len(kinds) == 1 else "texts"


def _model(record: Record) -> str:
    name, kind = record.model.get("name", ""), record.model.get("class", "")
    return f"{name} ({kind})" if name and kind else name or kind


def _position(record: Record) -> str:
    where = record.position
    if isinstance(where, int):
        return f"{record.tokens[where]} ({where})"
    return "mean of all tokens" if where == "mean" else "what the head reads"


def _list(names: Iterable[str]) -> str:
    """Return some different names in a row."""
    known = [*dict.fromkeys(name for name in names if name)]
    return ", ".join([*known[:NAMED], *([f"{len(known) - NAMED} more"] if len(known) > NAMED else [])])
