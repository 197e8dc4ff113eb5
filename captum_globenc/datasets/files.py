"""Read rows of data files and tables, for every command: .csv, .tsv, .jsonl, .json and .parquet.

Files are streamed, except for .json arrays, which are read into memory. Only .parquet needs pyarrow.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from captum_globenc.extras import optional

__all__ = ["Row", "ending", "find_files", "name_of", "open_text", "read_rows", "reading", "required_columns"]

USUAL: Mapping[str, tuple[str, ...]] = {
    "pair": ("pair", "text_pair"),
    "label": ("label",),
    "answer": ("answer",),
    "marked": ("marked_spans",),
    "decoys": ("decoy_spans",),
}
"""Names of optional columns, by role. Columns of other names must exist."""

TABLES: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ","},
    # Quotes are part of a text; tabs and line ends are not.
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
DELIMITERS = ",;\t|"
ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose byte order mark is a prefix of this one
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by byte order mark; other files are read as UTF-8, with or without a mark."""

LONGEST_FIELD = 1 << 28
"""Maximum number of characters of a field; limits the memory if a quote is never closed."""

READ_ROWS = 1024
"""Number of rows of a table that are converted at once."""

WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""Text that is converted to an integer; not codes such as 007, which would lose their zeros."""

HINT = ": name the file's encoding (--encoding latin-1, say)"
"""End of messages about bytes that are not valid in the encoding."""

UNDECODED = re.compile("[\udc80-\udcff]")
"""Bytes that are not valid in the file's encoding, as decoded by Python's `surrogateescape`."""

T = TypeVar("T", bound=Container[str])
Wanted = Mapping[str, str]
"""Names of columns by role: "text", and any of "pair", "answer", "label", "id", "marked", "decoys"."""


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        number: the first line of the row, or its number in a table, from 1.
        values: the wanted columns that exist, by role.
        cells: all columns that were read, by name.
        problem: why the row cannot be read, such as "is not valid JSON"; "" if it can.
        hint: advice that follows `problem` in a message, or "".
        unit: the unit of `number`: "line" or "row".
    """

    number: int
    values: Mapping[str, Any]
    cells: Mapping[str, Any] = {}
    problem: str = ""
    hint: str = ""
    unit: str = "line"

    @property
    def place(self) -> str:
        """The place of the row in messages, for example "line 3"."""
        return f"{self.unit} {self.number}"


def find_files(data: Any) -> list[Any]:
    """Return the files of a folder in the order of their names, or a list of `data` alone.

    In a folder, `.json` files are skipped, because they often describe the data, and `.gz` files are skipped
    if the uncompressed file exists.

    Raises:
        ValueError: the file does not exist, or its ending is unknown.
    """
    if not isinstance(data, str | PathLike):
        return [data]
    path = Path(data)
    if path.is_dir():
        formats = [it for it in FORMATS if it != ".json"]
        visible = (it for it in sorted(path.iterdir()) if not it.name.startswith(".") and not it.is_dir())
        files = [it for it in visible if ending(it) in formats]
        if not files:
            raise ValueError(f"{path} contains no file that ends in {', '.join(formats)}")
        return [it for it in files if not _is_packed(it) or it.with_suffix("") not in files]
    if not path.exists():
        raise ValueError(f"cannot read {path}: no such file or folder")
    if ending(path) not in FORMATS:
        raise ValueError(
            f"cannot read {path}: the supported endings are {', '.join(FORMATS)}, and all but the last "
            "followed by .gz"
        )
    return [path]


def ending(path: Path) -> str:
    """Return the ending of a file's name, ignoring `.gz`; "" if there is none."""
    if not _is_packed(path):
        return path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return "" if inner == ".parquet" else inner


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def name_of(data: Any) -> str:
    """Return the name of a file or table for messages."""
    return str(data) if isinstance(data, str | PathLike) else f"the {type(data).__name__}"


def read_rows(
    data: Any, wanted: Wanted, *, encoding: str | None = None, whole: bool = False
) -> Iterator[Row]:
    """Yield the rows of a file or table.

    Column names match exactly, or else in any case. A row that cannot be read has a `problem`. Values are
    strings in .csv and .tsv, and of any type in JSON and Parquet. Use it within :func:`reading`, which turns
    all errors of reading into ValueError.

    Args:
        data: an element of the result of :func:`find_files`: a path, a pandas DataFrame, or a
            `datasets.Dataset`.
        wanted: the columns by role. Those in :data:`USUAL` may be missing.
        encoding: the encoding of a text file; by default given by the byte order mark, else UTF-8.
        whole: whether `cells` must contain columns that may hold labels, if there is no label column.

    Raises:
        ValueError: the content is not of the format, or a column is missing, ambiguous or not of texts.
        OSError: the file cannot be read.
        csv.Error: the file is not a table.
        ImportError: pyarrow is not installed, and the file is .parquet.
        TypeError: `data` has another type.
    """
    if not isinstance(data, Path):
        yield from _frame(data, wanted, whole)
    elif ending(data) == ".parquet":
        yield from _parquet(data, wanted, whole)
    else:
        lines = "\n" if ending(data) == ".jsonl" else ""
        with open_text(data, encoding, newline=lines, errors="surrogateescape") as file:
            yield from _TEXT_FORMATS[ending(data)](file, wanted)


@contextmanager
def reading(data: Any) -> Iterator[None]:
    """Convert errors of reading to ValueError, with a one-line message that starts with the file's name."""
    try:
        yield
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise ValueError(f"cannot read {name_of(data)}: {reason[:300]}") from error


@contextmanager
def open_text(
    path: Path, encoding: str | None = None, *, newline: str | None = None, errors: str = "strict"
) -> Iterator[TextIO]:
    """Open a text file for reading, with or without gzip compression.

    Args:
        path: the file; compressed if its name ends in `.gz`.
        encoding: its encoding; by default given by the byte order mark, else UTF-8.
        newline: the `newline` argument of Python's `open`.
        errors: the `errors` argument of Python's `open`.

    Raises:
        ValueError: the encoding is unknown, or the content is not valid in it, or is damaged.
        OSError: the file cannot be read.
    """
    try:
        "".encode(encoding or "utf-8")
    except LookupError:
        raise ValueError(f"no encoding is called {encoding!r}") from None
    try:
        with gzip.open(path) if _is_packed(path) else path.open("rb") as file:
            start = file.peek(4)[:4]
            marked = next((name for mark, name in ENCODINGS.items() if start.startswith(mark)), "utf-8")
            name = codecs.lookup(encoding or marked).name
            name = "utf-8-sig" if name == "utf-8" else name
            yield io.TextIOWrapper(file, name, errors=errors, newline=newline)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not valid {error.encoding}{HINT}") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError("it is not a gzip file, or a damaged one") from error


def _undecoded(file: TextIO, number: int, values: Mapping[str, Any] | None = None) -> Row:
    """Return the row of a line whose bytes are not valid in the encoding."""
    name = "UTF-8" if file.encoding == "utf-8-sig" else file.encoding
    return Row(number, values or {}, problem=f"is not valid {name}", hint=HINT)


def required_columns(wanted: Wanted) -> list[str]:
    """Return the roles whose columns must exist."""
    return [role for role, column in wanted.items() if column not in USUAL.get(role, ())]


def _find(names: Iterable[str], wanted: Wanted) -> dict[str, str]:
    """Return the columns that exist, by role."""
    found = {}
    for role, column in wanted.items():
        usual = USUAL.get(role, ())
        tried = (column, *usual) if column in usual else (column,)
        matches = next(filter(None, (_matches(names, it) for it in tried)), [])
        if len(matches) > 1:
            raise ValueError(f"several columns are called {', '.join(matches)}")
        if matches:
            found[role] = matches[0]
    return found


def _matches(names: Iterable[str], column: str) -> list[str]:
    """Return the names that match a column exactly, or else in any case."""
    plain = column.strip().lower()
    return [it for it in names if it == column] or [it for it in names if it.strip().lower() == plain]


def _checked(found: T, names: Iterable[str], wanted: Wanted) -> T:
    """Return `found`, or raise ValueError if a required column is missing."""
    missing = [wanted[role] for role in required_columns(wanted) if role not in found]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    return found


def _table(file: TextIO, wanted: Wanted, kind: str) -> Iterator[Row]:
    """Yield the rows of a table with a header, whose delimiter is detected from the header."""
    head, begins, names = file.readline(), 1, list[str]()

    def lines() -> Iterator[str]:
        yield from chain([head], file)
        if reader.line_num >= begins:  # the reader needs another line in the middle of a row
            raise ValueError(f"line {begins} opens a quote that is never closed")

    reader = csv.reader(lines(), **_dialect(head, wanted["text"], kind))
    while (cells := _next(reader)) is not None:
        if not names and any(map(str.strip, cells)):
            if UNDECODED.search("".join(cells)):
                row = _undecoded(file, begins)
                raise ValueError(f"{row.place} {row.problem}{row.hint}")
            names = cells
            places = {
                role: names.index(column)
                for role, column in _checked(_find(names, wanted), names, wanted).items()
            }
        elif names and cells:
            if len(cells) != len(names):
                more = "more" if len(cells) > len(names) else "fewer"
                raise ValueError(f"line {begins} has {more} fields than the header of the table")
            values = {role: cells[place] for role, place in places.items()}
            if UNDECODED.search("".join(values.values())):
                yield _undecoded(file, begins, dict.fromkeys(values))
            else:
                yield Row(begins, values, dict(zip(names, cells, strict=True)))
        begins = reader.line_num + 1
    if not names:
        raise ValueError("it contains no texts")


def _dialect(head: str, text: str, kind: str) -> Mapping[str, Any]:
    """Return the arguments of `csv.reader`: the most frequent delimiter that yields the text column."""
    usual = TABLES[kind]["delimiter"]
    dialects = {it: TABLES[kind] if it == usual else {"delimiter": it} for it in DELIMITERS}
    plain = re.sub('"[^"]*"', "", head)

    def rank(delimiter: str) -> tuple[bool, int, bool]:
        names = _next(csv.reader([head], **dialects[delimiter])) or []
        return bool(_matches(names, text)), plain.count(delimiter), delimiter == usual

    return dialects[max(DELIMITERS, key=rank)]


def _next(reader: Any) -> list[str] | None:
    """Return the next row; `csv.field_size_limit`, which is global, is raised meanwhile."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        row: list[str] | None = next(reader, None)
        return row
    finally:
        csv.field_size_limit(before)


def _json_lines(file: TextIO, wanted: Wanted) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if UNDECODED.search(line):
            yield _undecoded(file, number)
        elif line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # RecursionError: nested too deeply
                yield Row(number, {}, problem="is not valid JSON")
            else:
                yield _object(number, entry, wanted)


def _json_array(file: TextIO, wanted: Wanted) -> Iterator[Row]:
    """Decode the objects of a JSON array one by one, which gives the line of each."""
    text, decoder = file.read(), json.JSONDecoder()
    at, line = _past_space(text, 0), 1
    if text[at : at + 1] != "[":
        raise ValueError("it is not a JSON array of objects; files with one object per line end in .jsonl")
    counted, at = 0, _past_space(text, at + 1)
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            entry, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError(f"line {line} is nested too deeply") from None
        if UNDECODED.search(text, counted, at):
            yield _undecoded(file, line)
        else:
            yield _object(line, entry, wanted)
        at = _past_space(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise ValueError(f"line {line} begins an object that is followed by neither , nor ]")
        if text[at] == ",":
            at = _past_space(text, at + 1)
    if rest := text[at + 1 :].strip():
        raise ValueError(f"the array is followed by {rest[:20]!r}")


def _past_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _object(number: int, entry: Any, wanted: Wanted) -> Row:
    if not isinstance(entry, dict):
        return Row(number, {}, problem="is not a JSON object")
    try:
        found = _find(entry, wanted)
    except ValueError as error:
        return Row(number, {}, entry, f"cannot be read: {error}")
    return Row(number, {role: entry[name] for role, name in found.items()}, entry)


def _objects(read: Callable[[TextIO, Wanted], Iterator[Row]], file: TextIO, wanted: Wanted) -> Iterator[Row]:
    """Yield the rows of a JSON reader; at the end, check that every required column was found."""
    names, found, row = dict[str, None](), set[str](), None
    for row in read(file, wanted):
        names |= dict.fromkeys(row.cells)
        found |= row.values.keys()
        yield row
    if row is not None and row.problem and not names:  # no row can be read
        raise ValueError(f"{row.place} {row.problem}{row.hint}")
    if row is not None:
        _checked(found, names, wanted)


def _parquet(path: Path, wanted: Wanted, whole: bool) -> Iterator[Row]:
    with optional("pyarrow.parquet", "datasets").ParquetFile(path) as file:
        yield from _arrow(
            file.schema_arrow, lambda names: file.iter_batches(READ_ROWS, columns=names), wanted, whole
        )


def _arrow(
    schema: Any, batches: Callable[[list[str]], Iterable[Any]], wanted: Wanted, whole: bool
) -> Iterator[Row]:
    """Yield the rows of an Arrow table; only the necessary columns are read."""
    types = optional("pyarrow", "datasets").types
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    found = _checked(_find(schema.names, wanted), schema.names, wanted)
    for role in found.keys() & {"text", "pair"}:
        kind = schema.field(found[role]).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(test(kind) for test in texts):
            raise ValueError(f"column {found[role]} has the type {kind}, not string")
    names = dict.fromkeys(found.values())
    if whole and "label" not in found:  # others may hold labels
        simple = (*texts, types.is_integer)
        named = (it.name for it in schema if it.name == "labels" or any(test(it.type) for test in simple))
        names |= dict.fromkeys(named)
    yield from _of_columns((batch.to_pydict() for batch in batches(list(names))), found)


def _frame(table: Any, wanted: Wanted, whole: bool) -> Iterator[Row]:
    """Yield the rows of a `datasets.Dataset` or a pandas DataFrame, with None for missing values."""
    if hasattr(table, "iloc"):
        names = list(map(str, table.columns))
        found = _checked(_find(names, wanted), names, wanted)
        parts = (table.iloc[at : at + READ_ROWS] for at in range(0, len(table), READ_ROWS))
        columns = (
            part.rename(columns=str).astype(object).where(part.notna().to_numpy(), None).to_dict("list")
            for part in parts
        )
        yield from _of_columns(columns, found)
    elif hasattr(table, "features") and hasattr(table, "__len__"):

        def batches(names: list[str]) -> Iterable[Any]:
            yield from table.select_columns(names).with_format("arrow").iter(READ_ROWS)

        yield from _arrow(table.features.arrow_schema, batches, wanted, whole)
    else:
        raise TypeError(f"data is a {type(table).__name__}: pass a path, a DataFrame or a datasets.Dataset")


def _of_columns(parts: Iterable[Mapping[str, Sequence[Any]]], found: Mapping[str, str]) -> Iterator[Row]:
    """Yield the rows of tables given as columns."""
    number = 0
    for columns in parts:
        for values in zip(*columns.values(), strict=True):
            number += 1
            cells = dict(zip(columns, values, strict=True))
            yield Row(number, {role: cells[name] for role, name in found.items()}, cells, unit="row")


_TEXT_FORMATS: Mapping[str, Callable[[TextIO, Wanted], Iterator[Row]]] = {
    ".csv": partial(_table, kind=".csv"),
    ".tsv": partial(_table, kind=".tsv"),
    ".jsonl": partial(_objects, _json_lines),
    ".json": partial(_objects, _json_array),
}
FORMATS = (*_TEXT_FORMATS, ".parquet")
"""The supported file endings; all except .parquet may be followed by `.gz`."""
