"""Labeled texts, read from files and tables, and the classes of their labels."""

import json
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captum_globenc.datasets.files import WHOLE, Row, find_files, read_rows, reading, required_columns
from captum_globenc.texts.classes import MULTI, VALUE, Name, class_of
from captum_globenc.texts.options import as_python, as_string

SENTENCES = Path(__file__).parents[1] / "data" / "sentiment_sentences.tsv"
"""The 3,000 sentences that ship with the package; the README beside them names their source."""

MARKS = {"marked": "marked_spans", "decoys": "decoy_spans"}
"""The columns of spans, by role."""

Span = tuple[int, int]
"""Start and end of a span of characters; the end is exclusive."""

Label = Name | Sequence[Name] | None
"""A class, a list of classes, or the value of a regression; None for unlabeled texts."""


@dataclass(frozen=True)
class Example:
    """One text of a data set.

    Args:
        number: its row in the file, counted from 0, or its id; the name of the text in `results.csv`.
        text: the text.
        label: the index or name of a class, a list of classes (multi-label), or the true value of a
            regression; None for unlabeled texts.
        pair: the second segment; None for single texts.
        line: the first line of the text in the file (the row in Parquet and tables), counted from 1, with
            the file's name if the data is a folder; None for texts that were not read from a file.
        marked: character spans `(start, end)` of `text` that are known to determine the label.
        decoys: character spans `(start, end)` of `text` that are known to have no effect.
        answer: the answer that is explained, if the text is a prompt.

    Raises:
        ValueError: a span is not inside the text, or a text is not valid Unicode.
    """

    number: int | str
    text: str
    label: Label = None
    pair: str | None = None
    line: int | str | None = None
    marked: tuple[Span, ...] = ()
    decoys: tuple[Span, ...] = ()
    answer: str | None = None

    def __post_init__(self) -> None:
        for name in ("text", "pair", "answer"):
            if (value := getattr(self, name)) is not None:
                as_string(value, name)
        object.__setattr__(self, "label", as_python(self.label))
        for start, end in (*self.marked, *self.decoys):
            if not 0 <= start < end <= len(self.text):
                raise ValueError(
                    f"span ({start}, {end}) is empty or outside a text of {len(self.text)} characters"
                )


def read_examples(
    data: Any,
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str = "text_pair",
    answer_column: str = "answer",
    id_column: str | None = None,
    encoding: str | None = None,
) -> list[Example]:
    """Read texts, labels and marked spans from a file or table.

    Columns `marked_spans` and `decoy_spans` hold character spans `[start, end]`, in .csv and .tsv as JSON:
    `[[0, 4], [9, 12]]`. See :func:`captum_globenc.datasets.attribute_files` for the formats.

    Args:
        data: a .csv, .tsv, .jsonl or .json file (also compressed, .gz), a .parquet file, a folder of such
            files (read in the order of their names), a pandas DataFrame, or a `datasets.Dataset`.
        text_column: the column of texts. Column names match in any case; other columns are ignored.
        label_column: the column of labels. The default "label" may be missing, unless other columns look
            like labels: `labels`, or several columns with only 0 and 1.
        pair_column: the column of second segments. The default "text_pair" may be missing; then "pair" is
            used if it exists.
        answer_column: the column of the answers to prompts. The default "answer" may be missing.
        id_column: the column of ids, which become the examples' numbers; by default the row numbers.
        encoding: the encoding of text files; by default given by the byte order mark, else UTF-8.

    Returns:
        The examples, in the order of the data.

    Raises:
        ValueError: the data cannot be read, lacks a required column, or contains an empty text. The message
            is one line and names the line or row.
        ImportError: a file is .parquet, and pyarrow is not installed.

    Example:
        >>> len(read_examples(SENTENCES)), read_examples(SENTENCES)[3].text
        (3000, 'Very little music or anything to speak of.')
    """
    wanted = {"text": text_column, "label": label_column, "pair": pair_column, "answer": answer_column}
    wanted |= MARKS
    if id_column is not None:
        wanted["id"] = id_column
    files = find_files(data)
    examples: list[Example] = []
    ids: dict[str, str] = {}  # id to the place of its row
    marks: list[str] | None = None  # columns that look like labels in every unlabeled row
    for file in files:
        within = "" if len(files) == 1 else f" of {file.name}"
        with reading(file):
            for row in read_rows(file, wanted, encoding=encoding, whole=True):
                example = _example(row, wanted, len(examples))
                examples.append(replace(example, line=f"{row.number}{within}") if within else example)
                if (example.pair is None) != (examples[0].pair is None):
                    number = examples[-1 if example.pair is None else 0].line
                    raise ValueError(f"{row.unit} {number} has no second segment, and others have")
                if id_column is not None:
                    _add_id(ids, row.values["id"], row.place + within)
                cells = {} if "label" in row.values else row.cells
                marked = [name for name, value in cells.items() if _is_mark(name, value)]
                marks = marked if marks is None else [name for name in marks if name in marked]
    with reading(data):
        if not examples:
            raise ValueError("it contains no texts")
        _check_unlabelled(marks or ())
    if id_column is None:
        return examples
    whole = all(map(WHOLE.fullmatch, ids))
    return [replace(it, number=int(its) if whole else its) for it, its in zip(examples, ids, strict=True)]


def sample(examples: Sequence[Example], limit: int | None, seed: int = 0) -> list[Example]:
    """Draw some examples at random, because files are often sorted by label.

    Args:
        examples: the examples to draw from.
        limit: the number of examples; all of them if it is None or larger than their number.
        seed: random seed.

    Returns:
        The drawn examples, in their original order.

    Raises:
        ValueError: `limit` is less than 1.
    """
    if limit is None or limit >= len(examples):
        return list(examples)
    if limit < 1:
        raise ValueError(f"limit is {limit}: at least 1")
    return [examples[place] for place in sorted(random.Random(seed).sample(range(len(examples)), limit))]


def _example(row: Row, wanted: Mapping[str, str], number: int) -> Example:
    """Return the example of a row; the message of an error names its place."""
    if row.problem:
        raise ValueError(f"{row.place} {row.problem}{row.hint}")
    for role in required_columns(wanted):
        if role not in row.values:
            raise ValueError(
                f"{row.place} has no column {wanted[role]}; it has {', '.join(row.cells) or 'none'}"
            )
    text, pair = row.values["text"], row.values.get("pair")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{row.place} has no text")
    if pair is not None and not isinstance(pair, str):
        raise ValueError(f"the second segment of {row.place} is not a string")
    answer = row.values.get("answer")
    answer = answer if isinstance(answer, str) and answer else None
    label = _label(row.values.get("label"), row.place)
    try:
        marked, decoys = (read_spans(row.values.get(role)) for role in MARKS)
        return Example(number, text, label, pair or None, row.number, marked, decoys, answer)
    except ValueError as error:
        raise ValueError(f"{row.place}: {error}") from error


def read_spans(value: Any) -> tuple[Span, ...]:
    """Parse the spans of a text: a list of pairs of integers, or such a list as JSON.

    Args:
        value: the value in the file; None or "" means no spans.

    Raises:
        ValueError: the value is not a list of spans.

    Example:
        >>> read_spans("[[2, 11]]"), read_spans([[0, 3], [4, 7]]), read_spans(None)
        (((2, 11),), ((0, 3), (4, 7)), ())
    """
    try:
        found = json.loads(value or "[]") if isinstance(value, str | None) else value
        spans = [(start, end) for start, end in found]
        if all(type(end) is int for span in spans for end in span):
            return tuple(spans)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{value!r} is not a list of spans such as [[0, 4], [9, 12]]")


def _add_id(ids: dict[str, str], value: Any, place: str) -> None:
    """Add the id of a row, and check that it is unique."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if value is None or not text:
        raise ValueError(f"{place} has no id")
    if text in ids:
        raise ValueError(f"{ids[text]} and {place} have the same id, {text}")
    ids[text] = place


def _is_mark(name: str, value: Any) -> bool:
    return name.strip().lower() == "labels" or str(value).strip() in ("0", "1")


def _check_unlabelled(marks: Sequence[str]) -> None:
    """Reject data without a label column whose other columns look like labels."""
    if "labels" in (name.strip().lower() for name in marks):
        raise ValueError(
            "it has a column labels but no column label: pass its name (label_column, --label-column)"
        )
    if len(marks) > 1:
        raise ValueError(
            f"columns {', '.join(marks)} contain only 0 and 1, like one-hot labels, and there is no column "
            "label: add a column label with the names of the classes, or remove these columns"
        )


def _label(label: Any, place: str) -> Label:
    """Return a label as a name, a number, or a list of names and numbers; None if the text has none."""
    if not isinstance(label, list):
        return _name(label, place)
    names = [name for name in (_name(each, place) for each in label) if name is not None]
    if len(names) < len(label):
        raise _bad_label(place)
    return names


def _name(label: Any, place: str) -> Name | None:
    """Return a label as a name, unchanged, or a number; None for an empty label."""
    if isinstance(label, str | bool):
        return str(label).strip() or None
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, int | float | None):
        raise _bad_label(place)
    return label


def _bad_label(place: str) -> ValueError:
    return ValueError(f"the label of {place} is neither a name nor a number, nor a list of these")


def classes_of(label: Label, names: Sequence[str], problem: str) -> tuple[int, ...] | None:
    """Return the class indices of a label; exactly one unless the model is multi-label.

    Args:
        label: the label of a text.
        names: the names of the classes, by index.
        problem: the model's problem type.

    Returns:
        The indices; None without a label, and for a regression.

    Raises:
        ValueError: the model has no such class; the label looks one-hot; the label has several classes, and
            the model is single-label; or the model is a regression, and the label is not a number.

    Example:
        >>> classes_of(["toxic", "threat"], ["toxic", "insult", "threat"], MULTI)
        (0, 2)
    """
    if label is None:
        return None
    if problem == VALUE:
        _check_number(label)
        return None
    if isinstance(label, str | int | float):
        return (_class(label, names),)
    _check_names(label, names)
    found = tuple(_class(each, names) for each in label)
    if problem != MULTI and len(found) != 1:
        raise ValueError(
            f"label {list(label)} has {len(found)} classes, but the model is single-label: for a multi-label "
            f"model, set model.config.problem_type to {MULTI!r}"
        )
    return found


def _class(label: Name, names: Sequence[str]) -> int:
    """Return the class of a label; "1.0", as tables with missing values have it, is read as 1."""
    if isinstance(label, str) and label.lower() not in (name.lower() for name in names):
        whole = label.removesuffix(".0")
        label = whole if whole.isdecimal() else label
    return class_of(label, names)


def _check_number(label: Label) -> None:
    if isinstance(label, Name):
        with suppress(ValueError):
            float(label)
            return
    raise ValueError(f"label {label!r} is not a number, and the model is a regression")


def _check_names(label: Sequence[Name], names: Sequence[str]) -> None:
    """Reject one-hot labels, which would be read as class indices, and repeated classes."""
    marks = {"0", "1", "0.0", "1.0"} - {name.lower() for name in names}
    one_hot = all(not isinstance(each, str) or each in marks for each in label)
    one_hot = one_hot and {str(float(each)) for each in label} <= {"0.0", "1.0"}
    if label and one_hot and (len(label) == len(names) or len(set(label)) < len(label)):
        raise ValueError(
            f"label {list(label)} is ambiguous, one-hot or class indices: list the names of the classes "
            f"instead, of {', '.join(names)}"
        )
    if len(set(label)) < len(label):
        raise ValueError(f"label {list(label)} names a class twice")
