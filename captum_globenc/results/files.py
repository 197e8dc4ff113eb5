"""Save and load explanations as JSON lines without loss, and convert them to pandas."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from captum_globenc.drawing.picture import Picture
from captum_globenc.errors import FileFormatError
from captum_globenc.extras import optional
from captum_globenc.results.record import Answer, Record, Span
from captum_globenc.results.words import Word

__all__ = ["FORMAT", "FileFormatError", "fields_of", "read_lines", "to_frame", "to_json", "write_lines"]

FORMAT = "captum_globenc.explanation/1"
"""The value of "format" in every object."""

T = TypeVar("T")

LARGEST = 1e300
"""Upper bound of numbers, so that their sums are finite."""


def to_json(record: Record) -> dict[str, Any]:
    """Return an explanation as a dictionary for JSON, including the sums of contributions as text."""
    made: dict[str, Any] = {"format": FORMAT}
    for it in fields(record):
        value, form = getattr(record, it.name), FORMS[it.name]
        if form.omitted and not value and value != "":
            continue
        made[it.name] = form.write(value)
        if it.name == "scores":
            made["sums"] = record.sums
    return made


def fields_of(made: object) -> dict[str, Any]:
    """Return the fields of an explanation from a dictionary of `to_json`.

    Raises:
        FileFormatError: The object is not such a dictionary, or a field is missing or of another type.
    """
    if not isinstance(made, dict) or not str(made.get("format", "")).startswith(
        FORMAT.partition("/")[0] + "/"
    ):
        raise FileFormatError(f'not an explanation: an object with "format": {FORMAT!r} is expected')
    if made["format"] != FORMAT:
        raise FileFormatError(f"format {made['format']!r} is of another version: this one reads {FORMAT!r}")
    found: dict[str, Any] = {"pair": None}
    for it in fields(Record):
        form = FORMS[it.name]
        if it.name in made:
            value = made[it.name]
            if not form.check(value):
                raise FileFormatError(f"{it.name!r} has an invalid value: {str(value)[:40]}")
            found[it.name] = form.read(value)
        elif not form.omitted and it.default is MISSING and it.default_factory is MISSING:
            raise FileFormatError(f"the explanation has no {it.name!r}")
    return found


def write_lines(records: Iterable[Record], path: str | PathLike[str]) -> None:
    """Write one JSON object per line, compressed with gzip if the name ends in ``.gz``.

    Raises:
        OSError: The file cannot be written.
    """
    lines = "".join(f"{json.dumps(to_json(it), allow_nan=False, ensure_ascii=False)}\n" for it in records)
    written = lines.encode()
    if Path(path).suffix == ".gz":
        written = gzip.compress(written, mtime=0)
    Path(path).write_bytes(written)


def read_lines(path: str | PathLike[str], make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """Yield the explanations of a file from `write_lines`, each created by `make` from its fields.

    Raises:
        OSError: The file cannot be read.
        FileFormatError: A line is not an explanation.
    """
    read = Path(path).read_bytes()
    try:
        text = (gzip.decompress(read) if Path(path).suffix == ".gz" else read).decode()
    except (gzip.BadGzipFile, zlib.error, EOFError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: {error}: not a file of explanations") from error
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            yield make(fields_of(json.loads(line, parse_constant=_reject)))
        except (ValueError, RecursionError) as error:
            reason = "not valid JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else error
            raise FileFormatError(f"{path}, line {number}: {reason}") from error


def to_frame(records: Sequence[Record]) -> Any:
    """Return a `pandas.DataFrame` with one row per token and method.

    Columns: `text`, the number of the text; `index` and `token`; `segment`, `start` and `stop`, missing for
    tokens without offsets; `method` and `score`.

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
    types |= dict.fromkeys(("segment", "start", "stop"), "Int64")  # nullable integers of pandas
    return pandas.DataFrame(columns).astype(types)


def _reject(name: str) -> float:
    raise FileFormatError(f"{name} is not a valid score")


Check = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < (LARGEST if isinstance(value, float) else 2**53)  # False for NaN


def _index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _by_name(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


def _each(*checks: Check) -> Check:
    return lambda value: (
        isinstance(value, list)
        and len(value) == len(checks)
        and all(check(it) for check, it in zip(checks, value, strict=True))
    )


def _object(**checks: Check) -> Check:
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == checks.keys()
        and all(checks[name](it) for name, it in value.items())
    )


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _as_floats(value: Any) -> Any:
    """Convert numbers to floats, because other JSON writers may write 1.0 as 1."""
    if isinstance(value, dict):
        return {name: _as_floats(it) for name, it in value.items()}
    if isinstance(value, list):
        return [_as_floats(it) for it in value]
    return None if value is None else float(value)


class _Form(NamedTuple):
    """The form of a field in files.

    Attributes:
        check: Whether a JSON value is valid.
        read: The field from a valid JSON value.
        write: The JSON value of the field.
        omitted: Whether the field is omitted if it is empty.
    """

    check: Check
    read: Callable[[Any], Any] = lambda value: value
    write: Callable[[Any], Any] = _plain
    omitted: bool = False


_SPAN = _each(_index, _index, _index)

FORMS: Mapping[str, _Form] = {
    "text": _Form(_text),
    "pair": _Form(_or_none(_text), omitted=True),
    "prediction": _Form(_text),
    "probability": _Form(_or_none(_number), _as_floats),
    "value": _Form(_number, float),
    "probabilities": _Form(_by_name(_number), _as_floats),
    "target": _Form(_text),
    "against": _Form(_or_none(_text)),
    "explained": _Form(_number, float),
    "position": _Form(lambda value: value is None or value == "mean" or _index(value)),
    "tokens": _Form(_list(_text)),
    "scores": _Form(_by_name(_list(_number)), _as_floats),
    "kinds": _Form(_by_name(_text)),
    "layers": _Form(_by_name(_list(_list(_number))), _as_floats, omitted=True),
    "groups": _Form(
        _list(_each(_text, _list(_index), _flag)),
        lambda words: [Word(text, tuple(tokens), special) for text, tokens, special in words],
        lambda words: [[word.text, list(word.tokens), word.special] for word in words],
    ),
    "offsets": _Form(
        _list(_or_none(_SPAN)),
        lambda spans: [span if span is None else Span(*span) for span in spans],
        lambda spans: [span if span is None else list(span) for span in spans],
    ),
    "model": _Form(_by_name(_text)),
    "settings": _Form(_by_name(_text)),
    "versions": _Form(_by_name(_text)),
    "truncated": _Form(_flag),
    "less": _Form(_or_none(_text), omitted=True),
    "ids": _Form(_list(_index), omitted=True),
    "unknown": _Form(_list(_index), omitted=True),
    "span": _Form(_or_none(_SPAN), lambda span: span and Span(*span), omitted=True),
    "outputs": _Form(
        _by_name(_each(_text, _number)),
        lambda outputs: {name: (target, float(value)) for name, (target, value) in outputs.items()},
        omitted=True,
    ),
    "picture": _Form(
        _or_none(_object(kind=_text, widths=_list(_index), heights=_list(_index), source=_text)),
        lambda picture: picture and Picture(**picture),
        asdict,
        omitted=True,
    ),
    "answer": _Form(
        _or_none(
            _object(text=_text, tokens=_list(_text), ids=_list(_index), log_probabilities=_list(_number))
        ),
        lambda it: it and Answer(**{**it, "log_probabilities": _as_floats(it["log_probabilities"])}),
        Answer._asdict,
        omitted=True,
    ),
    "answer_scores": _Form(_by_name(_list(_list(_number))), _as_floats, omitted=True),
    "passage_spans": _Form(
        _list(_each(_text, _SPAN)),
        lambda passages: [(name, Span(*span)) for name, span in passages],
        lambda passages: [[name, list(span)] for name, span in passages],
        omitted=True,
    ),
}
"""The form of each field of an explanation."""
