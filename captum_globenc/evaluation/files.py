"""Rows of a file of texts, whatever its format, encoding and packing, and the line that each begins on."""

import codecs
import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TABLES: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    # As the shipped file: quotes are part of a text, tabs and line ends are not.
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}
ENDINGS = (*TABLES, ".jsonl", ".json")
DELIMITERS = ",;\t|"
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # ahead of UTF-16, whose mark is how it begins
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""The encodings that a file's first bytes tell."""

LONGEST_FIELD = 2**31 - 1
Row = tuple[int, Mapping[str, Any]]


def read_rows(path: Path, encoding: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file, each with the number of the line that it begins on, from 1.

    Args:
        path: a name that ends in one of :data:`ENDINGS`, or in it and `.gz`. The delimiter of a table is
            the ending's, or else what stands in its head.
        encoding: of the file; left out, what its first bytes tell, or else UTF-8.

    Raises:
        ValueError: the name's ending or the encoding is not known, or the content does not fit either.
        OSError: the file cannot be read.
        csv.Error: it is no table.
    """
    packed = path.suffix.lower() == ".gz"
    ending = Path(path.stem if packed else path.name).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"its name ends in none of {', '.join(ENDINGS)}, nor one of these and .gz")
    content = path.read_bytes()
    if packed:
        try:
            content = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise ValueError("it is no gzip file, or a damaged one") from None
    text = _decoded(content, encoding)
    if ending == ".json":
        yield from _entries(text)
    elif ending == ".jsonl":
        yield from _lines(text)
    else:
        yield from _table(text, TABLES[ending])


def _decoded(content: bytes, encoding: str | None) -> str:
    told = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding or told)
    except LookupError:
        raise ValueError(f"no encoding is called {encoding!r}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} is not {encoding or told}: name the file's encoding (--encoding latin-1, say)"
        ) from None


def _table(text: str, dialect: Mapping[str, Any]) -> Iterator[Row]:
    head = re.sub('"[^"]*"', "", text.partition("\n")[0])
    usual = dialect["delimiter"]
    delimiter = max(DELIMITERS, key=lambda it: (head.count(it), it == usual))
    if delimiter != usual and head.count(delimiter):
        dialect = {**TABLES[".csv"], "delimiter": delimiter}
    with _fields_of_any_length():
        reader = csv.DictReader(io.StringIO(text, newline=""), **dialect)
        _check_head(reader.fieldnames or ())
        found = []
        begins = reader.line_num + 1
        for row in reader:
            if None in row or None in row.values():
                more = "more" if None in row else "fewer"
                raise ValueError(f"line {begins} has {more} fields than the head of the table")
            found.append((begins, row))
            begins = reader.line_num + 1
    yield from found


def _check_head(names: Sequence[str]) -> None:
    plain = [name.strip().lower() for name in names]
    repeated = sorted({name for name in names if plain.count(name.strip().lower()) > 1})
    if repeated:
        raise ValueError(f"several columns are called {', '.join(repeated)}")


@contextmanager
def _fields_of_any_length() -> Iterator[None]:
    """Lift the limit that Python sets for all readers of tables, and set it again."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # nested deeper than Python reads
            raise ValueError(f"line {number} is not valid JSON") from None
        yield number, _object(entry, number)


def _entries(text: str) -> Iterator[Row]:
    """Yield the objects of a JSON array, one after the other, so that the line of each is known."""
    decoder = json.JSONDecoder()
    at = _past_space(text, 0)
    if text[at : at + 1] != "[":
        raise ValueError("it is no JSON array of objects; one object a line is what .jsonl is for")
    at = _past_space(text, at + 1)
    while text[at : at + 1] != "]":
        line = text.count("\n", 0, at) + 1
        try:
            entry, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError(f"line {line} is nested too deep") from None
        yield line, _object(entry, line)
        at = _past_space(text, at)
        if text[at : at + 1] not in (",", "]"):
            raise ValueError(f"line {line} begins an object that is followed by neither , nor ]")
        if text[at] == ",":
            at = _past_space(text, at + 1)


def _past_space(text: str, at: int) -> int:
    while text[at : at + 1].isspace():
        at += 1
    return at


def _object(entry: Any, line: int) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"line {line} is no JSON object")
    return entry
