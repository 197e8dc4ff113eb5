"""Read data in blocks of equal size, with one type for all labels and one for all ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from captum_globenc.datasets.files import WHOLE, Row, ending, find_files, name_of, read_rows, reading
from captum_globenc.texts.provenance import digest, file_digest

__all__ = ["Block", "Source", "Survey"]


class Survey(NamedTuple):
    """Number of rows and types of a source, found by reading it once.

    Attributes:
        rows: number of rows.
        types: the types of "label" and "id": "int64", "float64" or "string"; "" if the column is missing.
        pairs: whether there are second segments.
        answers: whether there are answers.
        files: name, number of rows and digest of each file.
    """

    rows: int
    types: Mapping[str, str]
    pairs: bool
    answers: bool
    files: list[dict[str, Any]]


@dataclass
class Block:
    """Consecutive rows.

    Attributes:
        start: the number of the first row.
        columns: `text`, and `pair`, `answer`, `label` and `id` if wanted.
        problems: why rows could not be read, by index in the block.
    """

    start: int
    columns: dict[str, list[Any]]
    problems: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["text"])

    @property
    def rows(self) -> dict[str, Any]:
        """The arguments of :meth:`captum_globenc.datasets.Attributor.explain`."""
        named = {"texts": "text", "pairs": "pair", "answers": "answer"}
        return {name: self.columns.get(role) for name, role in named.items()}


class Source:
    """The rows of a file, of all files of a folder in the order of their names, or of a table in memory.

    Args:
        data: the `data` argument of :func:`captum_globenc.datasets.attribute_files`.
        columns: names of columns by role, "text", "pair", "answer", "label" and "id"; None for unwanted
            columns.
        encoding: the encoding of text files.

    Raises:
        ValueError: the file does not exist, or its format is unknown.
    """

    def __init__(self, data: Any, columns: Mapping[str, str | None], encoding: str | None = None) -> None:
        self._wanted = {role: column for role, column in columns.items() if column}
        self._files, self._encoding = find_files(data), encoding

    def survey(self) -> Survey:
        """Read all rows once, to find their number and the types of labels and ids."""
        files: list[dict[str, Any]] = []
        kinds: dict[str, set[str]] = {"label": set(), "id": set()}
        seen = set[str]()
        for data in self._files:
            on_disk = isinstance(data, Path)
            # Tables on disk store numbers as text; JSON and tables in memory do not.
            by_text = on_disk and ending(data) not in (".jsonl", ".json")
            rows = 0
            for row in self._rows(data):
                rows += 1
                seen |= row.values.keys()
                for role, found in kinds.items():
                    if row.values.get(role) not in (None, ""):
                        found.add(_kind(row.values[role], by_text))
            made = (
                file_digest(data) if on_disk else digest(repr(it.values).encode() for it in self._rows(data))
            )
            files.append(
                {"name": data.name if on_disk else type(data).__name__, "rows": rows, "sha256": made}
            )
        total = sum(file["rows"] for file in files)
        if not total:
            raise ValueError(f"there are no rows in {', '.join(map(name_of, self._files))}")
        types = {
            role: next(
                (it for it in ("string", "float64", "int64") if it in found), "string" * (role in seen)
            )
            for role, found in kinds.items()
        }
        return Survey(total, types, "pair" in seen, "answer" in seen, files)

    def blocks(self, size: int, types: Mapping[str, str]) -> Iterator[Block]:
        """Yield all rows in blocks of `size` rows, with labels and ids of the types in `Survey.types`."""
        block = self._empty(0)
        for data in self._files:
            for row in self._rows(data):
                if row.problem:
                    block.problems[len(block)] = f"{row.place} of {data.name} {row.problem}"
                for role, column in block.columns.items():
                    value = row.values.get(role)
                    column.append(_typed(value, types[role]) if role in types else value)
                if len(block) == size:
                    yield block
                    block = self._empty(block.start + size)
        if len(block):
            yield block

    def _empty(self, start: int) -> Block:
        return Block(start, {role: [] for role in self._wanted})

    def _rows(self, data: Any) -> Iterator[Row]:
        with reading(data):
            yield from read_rows(data, self._wanted, encoding=self._encoding)


def _kind(value: Any, by_text: bool) -> str:
    if isinstance(value, str) and by_text and WHOLE.fullmatch(value):
        return "int64"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "string"
    if isinstance(value, float):
        return "float64"
    return "int64" if abs(value) < 1 << 63 else "string"


def _typed(value: Any, kind: str) -> Any:
    if value is None or value == "":
        return None
    if kind == "string":
        as_json = isinstance(value, bool | int | float | list | dict)
        return json.dumps(value, default=str) if as_json else str(value)  # a date, say
    return int(value) if kind == "int64" else float(value)
