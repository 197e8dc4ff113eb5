"""Labelled texts of a data set, as files hold them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captum_globenc.datasets.files import WHOLE, Row, find_files, read_rows, reading, required_columns
from captum_globenc.evaluation.labels import Label
from captum_globenc.evaluation.marks import Span, check_spans, read_spans
from captum_globenc.texts.classes import Name

SENTENCES = Path(__file__).parents[1] / "data" / "sentiment_sentences.tsv"
"""The 3,000 sentences that ship with the package; its README says whose they are."""

MARKS = {"marked": "marked_spans", "decoys": "decoy_spans"}
"""The columns of marks, by role."""


@dataclass(frozen=True)
class Example:
    """One text of a data set.

    Args:
        number: its row in the file, from 0, or its id; what `results.csv` calls it.
        text: the text.
        label: a class's index or name, a list of the classes that hold, or the value that a regression
            should give; None where it has none.
        pair: its second segment, or None where it has none.
        line: the line of the file that it begins on, or its row in Parquet and tables, from 1; in a folder,
            with the file's name; None where it came from no file.
        marked: stretches of `text` that are known to decide, each the first character and the one behind
            the last.
        decoys: stretches that are known to have no effect.

    Raises:
        ValueError: what is marked is no stretch of the text.
    """

    number: int | str
    text: str
    label: Label = None
    pair: str | None = None
    line: int | str | None = None
    marked: tuple[Span, ...] = ()
    decoys: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        check_spans((*self.marked, *self.decoys), self.text)


def read_examples(
    data: Any,
    *,
    text_column: str = "text",
    label_column: str = "label",
    pair_column: str = "text_pair",
    id_column: str | None = None,
    encoding: str | None = None,
) -> list[Example]:
    """Read texts and labels from a file or table, and what is marked in them.

    Columns `marked_spans` and `decoy_spans` hold pairs of a first character and the one behind the last, in
    .csv and .tsv as JSON: `[[0, 4], [9, 12]]`. The formats are those of
    :func:`captum_globenc.datasets.attribute_files`.

    Args:
        data: a file, .csv, .tsv, .jsonl or .json, also with .gz, or .parquet; a folder of such, read in the
            order of their names; a pandas DataFrame; or a `datasets.Dataset`.
        text_column: the column of the texts; other columns are passed over. Names match in any case.
        label_column: that of the labels. "label" need not exist, but the data is refused where other
            columns look like labels: `labels`, or several of only 0 and 1.
        pair_column: that of second segments. Where there is no "text_pair", "pair" is used; neither need
            exist.
        id_column: that of ids, which become the examples' numbers; left out, these are counted.
        encoding: of text files; left out, that of their byte order mark, or else UTF-8.

    Returns:
        The examples, in the order of the data.

    Raises:
        ValueError: the data cannot be read, lacks a column that was named, or holds an empty text; the
            message is one line, and names the line or row.
        ImportError: pyarrow is not installed, and a file is .parquet.

    Example:
        >>> len(read_examples(SENTENCES)), read_examples(SENTENCES)[3].text
        (3000, 'Very little music or anything to speak of.')
    """
    wanted = {"text": text_column, "label": label_column, "pair": pair_column, **MARKS}
    if id_column is not None:
        wanted["id"] = id_column
    files = find_files(data)
    examples: list[Example] = []
    ids: dict[str, str] = {}  # with the places of their rows
    marks: list[str] | None = None  # the columns that look like labels in every row that has none
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
            raise ValueError("it holds no texts")
        _check_unlabelled(marks or ())
    if id_column is None:
        return examples
    whole = all(map(WHOLE.fullmatch, ids))
    return [replace(it, number=int(its) if whole else its) for it, its in zip(examples, ids, strict=True)]


def sample(examples: Sequence[Example], limit: int | None, seed: int = 0) -> list[Example]:
    """Draw some examples at random, because files are often sorted by label.

    Args:
        examples: what to draw from.
        limit: how many; left out, or more than there are: all.
        seed: the same seed draws the same.

    Returns:
        The examples drawn, in their own order.

    Raises:
        ValueError: `limit` is less than 1.
    """
    if limit is None or limit >= len(examples):
        return list(examples)
    if limit < 1:
        raise ValueError(f"limit is {limit}; at least one text is needed")
    return [examples[place] for place in sorted(random.Random(seed).sample(range(len(examples)), limit))]


def _example(row: Row, wanted: Mapping[str, str], number: int) -> Example:
    """Return the example of a row.

    Raises:
        ValueError: the row holds none; the message says where it is.
    """
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
        raise ValueError(f"the second segment of {row.place} is no text")
    label = _label(row.values.get("label"), row.place)
    try:
        (text + (pair or "")).encode()  # a lone surrogate is no text
        marked, decoys = (read_spans(row.values.get(role)) for role in MARKS)
        return Example(number, text, label, pair or None, row.number, marked, decoys)
    except ValueError as error:
        raise ValueError(f"{row.place}: {error}") from error


def _add_id(ids: dict[str, str], value: Any, place: str) -> None:
    """Add the id of a row, which no other row may have."""
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()
    if value is None or not text:
        raise ValueError(f"{place} has no id")
    if text in ids:
        raise ValueError(f"{ids[text]} and {place} have the same id, {text}")
    ids[text] = place


def _is_mark(name: str, value: Any) -> bool:
    return name.strip().lower() == "labels" or str(value).strip() in ("0", "1")


def _check_unlabelled(marks: Sequence[str]) -> None:
    """Refuse to take for unlabelled what has labels of another kind, in columns that hold 0 and 1 alone."""
    if "labels" in (name.strip().lower() for name in marks):
        raise ValueError(
            "it has a column labels and none called label: name it (label_column, --label-column)"
        )
    if len(marks) > 1:
        raise ValueError(
            f"columns {', '.join(marks)} hold only 0 and 1, as one-hot labels do, and none is called label: "
            "give label, the class's name or (.jsonl) a list of those that hold, or leave these columns out"
        )


def _label(label: Any, place: str) -> Label:
    """Return a label as a name or a number, or a list of these; None where a text has none."""
    if not isinstance(label, list):
        return _name(label, place)
    names = [name for name in (_name(each, place) for each in label) if name is not None]
    if len(names) < len(label):
        raise _bad_label(place)
    return names


def _name(label: Any, place: str) -> Name | None:
    """Return a label as a name, as it is written, or a number; None where there is none."""
    if isinstance(label, str | bool):
        return str(label).strip() or None
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, int | float | None):
        raise _bad_label(place)
    return label


def _bad_label(place: str) -> ValueError:
    return ValueError(f"the label of {place} is neither a name nor a number, nor a list of these")
