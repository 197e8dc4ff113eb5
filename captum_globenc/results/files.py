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
from typing import Any, TypeVar

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

LEFT_OUT = (
    "pair",
    "layers",
    "less",
    "ids",
    "unknown",
    "span",
    "outputs",
    "picture",
    "answer",
    "answer_scores",
    "passage_spans",
)
"""Fields that are omitted if they are empty."""

NUMBERS = ("probability", "value", "probabilities", "explained", "scores", "layers", "answer_scores")
"""Fields of floats; other JSON writers may write 1.0 as 1."""


def to_json(record: Record) -> dict[str, Any]:
    """Return an explanation as a dictionary for JSON, including the sums of contributions as text."""
    made: dict[str, Any] = {"format": FORMAT}
    for it in fields(record):
        value = getattr(record, it.name)
        if it.name in LEFT_OUT and not value and value != "":
            continue
        made[it.name] = dict(value) if isinstance(value, Mapping) else value
        if it.name == "scores":
            made["sums"] = record.sums
    made["groups"] = [[word.text, list(word.tokens), word.special] for word in record.groups]
    made["offsets"] = [place if place is None else list(place) for place in record.offsets]
    if record.picture is not None:
        made["picture"] = asdict(record.picture)
    if record.answer is not None:
        made["answer"] = record.answer._asdict()
    if record.passage_spans:
        made["passage_spans"] = [[name, list(span)] for name, span in record.passage_spans]
    return made


def fields_of(made: object) -> dict[str, Any]:
    """Return the fields of an explanation from a dictionary of `to_json`.

    Raises:
        FileFormatError: The object is not such a dictionary, or a field is missing or of another type.
    """
    if not isinstance(made, dict) or not str(made.get("format", "")).startswith(
        FORMAT.partition("/")[0] + "/"
    ):
        raise FileFormatError(f'this is no explanation: an object with "format": {FORMAT!r} is expected')
    if made["format"] != FORMAT:
        raise FileFormatError(f"format {made['format']!r} is of another version: this one reads {FORMAT!r}")
    found: dict[str, Any] = {}
    for it in fields(Record):
        if it.name not in made:
            if it.name not in LEFT_OUT and it.default is MISSING and it.default_factory is MISSING:
                raise FileFormatError(f"an explanation without {it.name!r}")
            if it.name == "pair":
                found["pair"] = None
            continue
        value = made[it.name]
        if not CHECKS[it.name](value):
            raise FileFormatError(f"{it.name!r} is not what an explanation has there: {str(value)[:40]}")
        found[it.name] = value
    if "groups" in found:
        found["groups"] = [Word(text, tuple(tokens), special) for text, tokens, special in found["groups"]]
    if "offsets" in found:
        found["offsets"] = [place if place is None else Span(*place) for place in found["offsets"]]
    if found.get("span") is not None:
        found["span"] = Span(*found["span"])
    if found.get("picture") is not None:
        found["picture"] = Picture(**found["picture"])
    if found.get("answer") is not None:
        found["answer"] = Answer(
            **found["answer"] | {"log_probabilities": _as_floats(found["answer"]["log_probabilities"])}
        )
    if "passage_spans" in found:
        found["passage_spans"] = [(name, Span(*span)) for name, span in found["passage_spans"]]
    if "outputs" in found:
        found["outputs"] = {
            name: (target, float(value)) for name, (target, value) in found["outputs"].items()
        }
    found |= {name: _as_floats(found[name]) for name in NUMBERS if name in found}
    return found


def _as_floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_floats(it) for name, it in value.items()}
    if isinstance(value, list):
        return [_as_floats(it) for it in value]
    return None if value is None else float(value)


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
        raise FileFormatError(f"{path}: {error}: this is no file of explanations") from error
    for number, line in enumerate(io.StringIO(text, newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            yield make(fields_of(json.loads(line, parse_constant=_reject)))
        except (ValueError, RecursionError) as error:
            reason = "this is no JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else error
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
    raise FileFormatError(f"{name} is no score")


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


CHECKS: Mapping[str, Check] = {
    "text": _text,
    "pair": _or_none(_text),
    "prediction": _text,
    "probability": _or_none(_number),
    "value": _number,
    "probabilities": _by_name(_number),
    "target": _text,
    "against": _or_none(_text),
    "explained": _number,
    "position": lambda value: value is None or value == "mean" or _index(value),
    "tokens": _list(_text),
    "scores": _by_name(_list(_number)),
    "kinds": _by_name(_text),
    "layers": _by_name(_list(_list(_number))),
    "groups": _list(_each(_text, _list(_index), _flag)),
    "offsets": _list(_or_none(_each(_index, _index, _index))),
    "model": _by_name(_text),
    "settings": _by_name(_text),
    "versions": _by_name(_text),
    "truncated": _flag,
    "less": _or_none(_text),
    "ids": _list(_index),
    "unknown": _list(_index),
    "span": _or_none(_each(_index, _index, _index)),
    "outputs": _by_name(_each(_text, _number)),
    "picture": _or_none(_object(kind=_text, widths=_list(_index), heights=_list(_index), source=_text)),
    "answer": _or_none(
        _object(text=_text, tokens=_list(_text), ids=_list(_index), log_probabilities=_list(_number))
    ),
    "answer_scores": _by_name(_list(_list(_number))),
    "passage_spans": _list(_each(_text, _each(_index, _index, _index))),
}
"""The check of each field's JSON value."""
