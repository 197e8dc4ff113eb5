"""Explanations as a table of pandas: a row for each token and method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum_globenc.extras import optional
from captum_globenc.results.record import Record

__all__ = ["to_frame"]


def to_frame(records: Sequence[Record]) -> Any:
    """Return a `pandas.DataFrame` of all tokens of all texts by every method.

    Columns: `text`, the number of the text; `index` and `token`; `segment`, `start` and `stop`, missing
    where a token stands nowhere; `method` and `score`.

    Raises:
        ImportError: pandas is not installed; the message says what to install.
    """
    pandas = optional("pandas", "pandas")
    columns: dict[str, list[Any]] = {
        name: [] for name in ("text", "index", "token", "segment", "start", "stop", "method", "score")
    }
    for number, record in enumerate(records):
        places = record.offsets or [None] * len(record.tokens)
        for method, scores in record.scores.items():
            for index, (token, place, score) in enumerate(zip(record.tokens, places, scores, strict=True)):
                start, stop, segment = (None, None, None) if place is None else place
                row = (number, index, token, segment, start, stop, method, score)
                for column, value in zip(columns.values(), row, strict=True):
                    column.append(value)
    types = {"text": "int64", "index": "int64", "score": "float64"}
    types |= dict.fromkeys(("segment", "start", "stop"), "Int64")  # of pandas, which knows missing ones
    return pandas.DataFrame(columns).astype(types)
