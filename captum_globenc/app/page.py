"""Explanations as an HTML page: what is drawn of them, and what is said under each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from captum_globenc.visualization.page import SHARE, html_page

if TYPE_CHECKING:
    from captum_globenc.texts.explanation import Explanation

__all__ = ["draw_page"]


def draw_page(explanations: Sequence[Explanation]) -> str:
    """Draw every method over every text; the layers, where asked for, are lines of their own."""
    rows: list[dict[str, list[float]]] = []
    units: dict[str, str] = {}
    for explanation in explanations:
        row = dict(explanation.scores)
        units |= explanation.units
        for name, layers in explanation.layers.items():
            first = 1 if explanation.units[name] == SHARE else 0
            named = {f"{name}, layer {number}": scores for number, scores in enumerate(layers, first)}
            row |= named
            units |= dict.fromkeys(named, explanation.units[name])
        rows.append(row)
    said = [explanation.notes for explanation in explanations]
    return html_page(
        [explanation.tokens for explanation in explanations],
        {name: [row.get(name) for row in rows] for name in units},
        headings=[explanation.headline for explanation in explanations],
        title="Token attributions",
        notes={name: [notes.get(name, "") for notes in said] for name in units},
        units=units,
    )
