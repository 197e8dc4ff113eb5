"""Explanations as HTML: what is drawn of them, and what is said under each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum_globenc.drawing.page import html_page, html_part
from captum_globenc.results.record import Record

__all__ = ["draw_page", "draw_part"]


def draw_page(records: Sequence[Record]) -> str:
    """Draw every method over every text; the layers, where there are some, are lines of their own."""
    return html_page(**_drawn(records), title="Token attributions")


def draw_part(records: Sequence[Record]) -> str:
    """Draw the same as a part of somebody else's page, such as a notebook's output."""
    return html_part(**_drawn(records))


def _drawn(records: Sequence[Record]) -> dict[str, Any]:
    rows: list[dict[str, list[float]]] = []
    units: dict[str, str] = {}
    for record in records:
        row = dict(record.scores)
        units |= record.units
        for name, layers in record.layers.items():
            first = 0 if record.kinds[name] in ("signed", "contributions") else 1
            named = {f"{name}, layer {number}": scores for number, scores in enumerate(layers, first)}
            row |= named
            units |= dict.fromkeys(named, record.units[name])
        rows.append(row)
    said = [record.notes for record in records]
    return {
        "tokens": [record.tokens for record in records],
        "methods": {name: [row.get(name) for row in rows] for name in units},
        "headings": [record.headline for record in records],
        "notes": {name: [notes.get(name, "") for notes in said] for name in units},
        "units": units,
    }
