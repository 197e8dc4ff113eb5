"""Labelled texts of a data set, as files hold them."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_globenc.evaluation.files import read_rows
from captum_globenc.evaluation.labels import Label

SENTENCES = Path(__file__).parents[1] / "data" / "sentiment_sentences.tsv"
"""The 3,000 sentences that ship with the package; its README says whose they are."""

TEXT, LABEL, PAIR = "text", "label", "text_pair"
"""The columns that are read unless others are named."""


@dataclass(frozen=True)
class Example:
    """One text of a data set.

    Args:
        number: its row in the file, from 0; what `results.csv` calls it.
        text: the text.
        label: a class's index or name, a list of the classes that hold, or the value that a regression
            should give; None where it has none.
        pair: its second segment, or None where it has none.
        line: the line of the file that it begins on, from 1; None where it came from no file.
    """

    number: int
    text: str
    label: Label = None
    pair: str | None = None
    line: int | None = None


def read_examples(
    path: Path,
    *,
    text_column: str = TEXT,
    label_column: str = LABEL,
    pair_column: str = PAIR,
    encoding: str | None = None,
) -> list[Example]:
    """Read texts and labels from a file.

    Args:
        path: `.csv` or `.tsv` with a header, `.jsonl`, or a `.json` array of objects, as it is or with
            `.gz`.
        text_column: the column of the texts, in any case; other columns are passed over.
        label_column: that of the labels. A file need not have the usual one, `label`, but is refused
            where other columns look like labels: `labels`, or several of only 0 and 1.
        pair_column: that of second segments. A file need not have the usual one, `text_pair`.
        encoding: of the file; left out, what its first bytes tell, or else UTF-8.

    Returns:
        The examples, in the order of the file.

    Raises:
        ValueError: the file cannot be read, lacks a column that was named, or holds an empty text; the
            message is one line, and names the line of the file.

    Example:
        >>> len(read_examples(SENTENCES)), read_examples(SENTENCES)[3].text
        (3000, 'Very little music or anything to speak of.')
    """
    columns = {TEXT: text_column, LABEL: label_column, PAIR: pair_column}
    examples, rows_marked = [], []
    try:
        for number, (line, row) in enumerate(read_rows(path, encoding)):
            named = {str(name).strip().lower(): value for name, value in row.items()}
            needed = {name for usual, name in columns.items() if usual == TEXT or name != usual}
            lacking = [name for name in sorted(needed) if name.strip().lower() not in named]
            if lacking:
                found = ", ".join(str(name) for name in row if name is not None)
                raise ValueError(f"line {line} has no column {lacking[0]}, only {found}")
            text, label, pair = (named.get(columns[usual].strip().lower()) for usual in (TEXT, LABEL, PAIR))
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"line {line} has no text")
            if pair is not None and not isinstance(pair, str):
                raise ValueError(f"the second segment of line {line} is no text")
            (text + (pair or "")).encode()  # a lone surrogate is no text
            examples.append(Example(number, text, _label(label, line), pair or None, line))
            if label_column.strip().lower() not in named:
                rows_marked.append({name for name, value in named.items() if _is_mark(name, value)})
        if examples and len(rows_marked) == len(examples):
            _check_unlabelled([name for name in named if all(name in marked for marked in rows_marked)])
    except (OSError, ValueError, csv.Error, EOFError) as error:
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        raise ValueError(f"cannot read {path}: {reason}") from error
    if not examples:
        raise ValueError(f"cannot read {path}: it holds no texts")
    if len({example.pair is None for example in examples}) > 1:
        alone = next(example for example in examples if example.pair is None)
        raise ValueError(f"cannot read {path}: line {alone.line} has no second segment, and others have")
    return examples


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
    return sorted(random.Random(seed).sample(list(examples), limit), key=lambda example: example.number)


def _is_mark(name: str, value: Any) -> bool:
    return name == "labels" or str(value).strip() in ("0", "1")


def _check_unlabelled(marks: Sequence[str]) -> None:
    """Refuse to take for unlabelled what has labels of another kind, in columns that hold 0 and 1 alone."""
    if "labels" in marks:
        raise ValueError(
            "it has a column labels and none called label: name it (label_column, --label-column)"
        )
    if len(marks) > 1:
        raise ValueError(
            f"columns {', '.join(marks)} hold only 0 and 1, as one-hot labels do, and none is called label: "
            "give label, the class's name or (.jsonl) a list of those that hold, or leave these columns out"
        )


def _label(label: Any, line: int) -> Label:
    """Return a label as a name or a number, or a list of these: 1.0 is 1, as tables with gaps write it."""
    if isinstance(label, list) and not any(each is None or isinstance(each, list) for each in label):
        return [_label(each, line) for each in label]  # type: ignore[misc]
    if isinstance(label, str | bool):
        label = str(label).strip()
        whole = label.removesuffix(".0")
        return (whole if whole.isdecimal() else label) or None
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, int | float | None):
        raise ValueError(f"the label of line {line} is neither a name nor a number, nor a list of these")
    return label
