"""Rows of Parquet, CSV and JSON Lines files, streamed in blocks; and what is to be known of them before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from captum_globenc.extras import optional
from captum_globenc.texts.provenance import file_digest

__all__ = ["KINDS", "Block", "Source", "Survey"]

pa: Any = optional("pyarrow", "datasets")

READ_ROWS = 1024
CSV_BLOCK = 1 << 24
"""Bytes that are parsed at once, more than which no row may have."""

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""Labels of tables that become whole numbers, and can be written back as they were: not 007, a code."""

USUAL = {"pair": "pair", "label": "label"}
"""Columns that are used where they are there."""

Wanted = dict[str, str]
"""The names of columns by what they hold: text, pair, label."""

Row = tuple[dict[str, Any], str]
"""What a row holds, and what is wrong with it as a whole; "" where nothing is."""


class Survey(NamedTuple):
    """What is known of a source once it was read through.

    Attributes:
        rows: how many there are.
        label: what labels are: "int64", "float64" or "string"; "" where there are none.
        pairs: whether there are second segments.
        files: name, rows and digest of each file.
    """

    rows: int
    label: str
    pairs: bool
    files: list[dict[str, Any]]


@dataclass
class Block:
    """Some rows in their order.

    Attributes:
        start: the number of the first.
        columns: `text`, and `pair` and `label` where there are any.
        problems: what is wrong with rows that could not be read, by their place in the block.
    """

    start: int
    columns: dict[str, list[Any]]
    problems: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns["text"])


class Source:
    """The rows of a file, or of all files of a folder, in the order of their names.

    Args:
        path: a file, .parquet, .csv, .tsv or .jsonl, or a folder of such.
        text: the column of the texts.
        pair: the column of second segments, or None. The usual name is used where there is such a column,
            another has to be there.
        label: the column of labels, likewise.

    Raises:
        ValueError: there is no such file, or none of these kinds, or a column is missing or of a wrong type.
    """

    def __init__(
        self, path: Path, *, text: str = "text", pair: str | None = "pair", label: str | None = "label"
    ) -> None:
        self._wanted = {
            "text": text,
            **({"pair": pair} if pair else {}),
            **({"label": label} if label else {}),
        }
        self._files = _files(path)

    def survey(self) -> Survey:
        """Read all files through once: how many rows, what kind of labels."""
        files: list[dict[str, Any]] = []
        kinds, seen = set[str](), set[str]()
        for path in self._files:
            names, rows = set[str](), 0
            for row, _ in self._rows(path):
                rows += 1
                names |= row.keys()
                if row.get("label") not in (None, ""):
                    kinds.add(_kind(row["label"], by_text=path.suffix.lower() != ".jsonl"))
            if rows:
                _present(path, [self._wanted[what] for what in names], self._wanted)
            seen |= names
            files.append({"name": path.name, "rows": rows, "sha256": file_digest(path)})
        total = sum(file["rows"] for file in files)
        if not total:
            raise ValueError(f"there are no rows in {', '.join(str(path) for path in self._files)}")
        label = next((kind for kind in ("string", "float64", "int64") if kind in kinds), "string")
        return Survey(total, label if "label" in seen else "", "pair" in seen, files)

    def blocks(self, size: int, label: str = "string") -> Iterator[Block]:
        """Yield all rows, so many at a time.

        Args:
            size: how many.
            label: as the survey has it: what labels are made.
        """
        start, columns = 0, self._empty()
        problems: dict[int, str] = {}
        for path in self._files:
            for row, problem in self._rows(path):
                place = len(columns["text"])
                if problem:
                    problems[place] = problem
                for name, column in columns.items():
                    value = row.get(name)
                    column.append(_label(value, label) if name == "label" else value)
                if place + 1 == size:
                    yield Block(start, columns, problems)
                    start, columns, problems = start + size, self._empty(), {}
        if columns["text"]:
            yield Block(start, columns, problems)

    def _empty(self) -> dict[str, list[Any]]:
        return {name: [] for name in self._wanted}

    def _rows(self, path: Path) -> Iterator[Row]:
        try:
            yield from KINDS[path.suffix.lower()](path, self._wanted)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"cannot read {path}: {' '.join(str(error).split())[:300]}") from error


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(
            it
            for it in path.iterdir()
            if it.suffix.lower() in KINDS and not it.name.startswith(".") and not it.is_dir()
        )
        if not files:
            raise ValueError(f"{path} holds no file of {', '.join(KINDS)}")
        return files
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path} is none of {', '.join(KINDS)}, and no folder of such files")
    return [path]


def _parquet(path: Path, wanted: Wanted) -> Iterator[Row]:
    file = optional("pyarrow.parquet", "datasets").ParquetFile(path)
    schema = file.schema_arrow
    wanted = _present(path, schema.names, wanted)
    for what in ("text", "pair"):
        if what in wanted:
            kind = schema.field(wanted[what]).type
            kind = kind.value_type if pa.types.is_dictionary(kind) else kind
            texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
            if not any(test(kind) for test in texts):
                raise ValueError(f"column {wanted[what]} of {path} holds {kind}, not texts")
    for batch in file.iter_batches(READ_ROWS, columns=list(dict.fromkeys(wanted.values()))):
        yield from _of_batch(batch, wanted)


def _delimited(delimiter: str) -> Any:
    def read(path: Path, wanted: Wanted) -> Iterator[Row]:
        csv = optional("pyarrow.csv", "datasets")
        quotes = delimiter == ","  # in tables parted by tabs, a quote is a character as any other
        parse = csv.ParseOptions(
            delimiter=delimiter, quote_char='"' if quotes else False, newlines_in_values=quotes
        )
        block = csv.ReadOptions(block_size=CSV_BLOCK)
        with csv.open_csv(path, read_options=block, parse_options=parse) as head:
            names = head.schema.names
        wanted = _present(path, names, wanted)
        columns = list(dict.fromkeys(wanted.values()))
        # As bytes, so that one text that is not valid UTF-8 costs one row and not the file.
        convert = csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.binary())
        )
        with csv.open_csv(path, read_options=block, parse_options=parse, convert_options=convert) as file:
            for batch in file:
                for row, _ in _of_batch(batch, wanted):
                    try:
                        yield {name: value.decode() for name, value in row.items() if value is not None}, ""
                    except UnicodeDecodeError:
                        yield dict.fromkeys(row), "the row is not valid UTF-8"

    return read


def _json_lines(path: Path, wanted: Wanted) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except UnicodeDecodeError:
                yield {}, f"line {number} of {path.name} is not valid UTF-8"
                continue
            except (ValueError, RecursionError):  # nested deeper than Python reads
                yield {}, f"line {number} of {path.name} is not valid JSON"
                continue
            if not isinstance(value, dict):
                yield {}, f"line {number} of {path.name} is no JSON object"
                continue
            yield {name: value[column] for name, column in wanted.items() if column in value}, ""


KINDS = {".parquet": _parquet, ".csv": _delimited(","), ".tsv": _delimited("\t"), ".jsonl": _json_lines}
"""Readers by the end of a file's name."""


def _of_batch(batch: Any, wanted: Wanted) -> Iterator[Row]:
    columns = [batch.column(batch.schema.names.index(column)).to_pylist() for column in wanted.values()]
    for values in zip(*columns, strict=True):
        yield dict(zip(wanted, values, strict=True)), ""


def _present(path: Path, names: Sequence[str], wanted: Wanted) -> Wanted:
    """Return what is wanted and there; what has the usual name may be missing."""
    missing = [column for what, column in wanted.items() if column not in names and USUAL.get(what) != column]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    return {what: column for what, column in wanted.items() if column in names}


def _kind(label: Any, by_text: bool) -> str:
    if isinstance(label, str) and by_text and WHOLE.fullmatch(label):
        return "int64"
    if isinstance(label, bool) or not isinstance(label, int | float):
        return "string"
    if isinstance(label, float):
        return "float64"
    return "int64" if abs(label) < 1 << 63 else "string"


def _label(value: Any, kind: str) -> Any:
    if value is None or value == "":
        return None
    if kind == "string":
        return value if isinstance(value, str) else json.dumps(value, default=str)
    return int(value) if kind == "int64" else float(value)
