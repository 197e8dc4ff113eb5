"""Labelled texts of a data set, as files hold them."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captum_globenc.evaluation.files import read_rows
from captum_globenc.evaluation.labels import Label
from captum_globenc.evaluation.marks import Span, check_spans, read_spans
from captum_globenc.texts.classes import Name

SENTENCES = Path(__file__).parents[1] / "data" / "sentiment_sentences.tsv"
"""The 3,000 sentences that ship with the package; its README says whose they are."""

TEXT, LABEL, PAIR = "text", "label", "text_pair"
MARKED, DECOYS = "marked_spans", "decoy_spans"
"""The columns that are read; others may be named in the place of the first three."""


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
        marked: stretches of `text` that are known to decide, each the first character and the one behind
            the last.
        decoys: stretches that are known to have no effect.

    Raises:
        ValueError: what is marked is no stretch of the text.
    """

    number: int
    text: str
    label: Label = None
    pair: str | None = None
    line: int | None = None
    marked: tuple[Span, ...] = ()
    decoys: tuple[Span, ...] = ()

    def __post_init__(self) -> None:
        check_spans((*self.marked, *self.decoys), self.text)


def read_examples(
    path: Path,
    *,
    text_column: str = TEXT,
    label_column: str = LABEL,
    pair_column: str = PAIR,
    encoding: str | None = None,
) -> list[Example]:
    """Read texts and labels from a file, and what is marked in them.

    Columns `marked_spans` and `decoy_spans` hold pairs of a first character and the one behind the last, in
    tables as JSON: `[[0, 4], [9, 12]]`.

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
    given = {TEXT: text_column, LABEL: label_column, PAIR: pair_column}
    columns = [name.strip().lower() for name in given.values()]
    needed = sorted({name for usual, name in given.items() if usual == TEXT or name != usual})
    examples: list[Example] = []
    marks: list[str] | None = None  # the columns that look like labels in every row that has none
    try:
        for number, (line, row) in enumerate(read_rows(path, encoding)):
            named = {str(name).strip().lower(): value for name, value in row.items()}
            for name in needed:
                if name.strip().lower() not in named:
                    raise ValueError(f"line {line} has no column {name}, only {', '.join(map(str, row))}")
            text, label, pair = map(named.get, columns)
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"line {line} has no text")
            if pair is not None and not isinstance(pair, str):
                raise ValueError(f"the second segment of line {line} is no text")
            known = _label(label, line)
            try:
                (text + (pair or "")).encode()  # a lone surrogate is no text
                spans = [read_spans(named.get(name)) for name in (MARKED, DECOYS)]
                examples.append(Example(number, text, known, pair or None, line, *spans))
            except ValueError as error:
                raise ValueError(f"line {line}: {error}") from error
            marked = [] if columns[1] in named else [it for it, value in named.items() if _is_mark(it, value)]
            marks = marked if marks is None else [name for name in marks if name in marked]
        _check_unlabelled(marks or [])
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
    """Return a label as a name or a number, or a list of these; None where a text has none."""
    if not isinstance(label, list):
        return _name(label, line)
    names = [name for name in (_name(each, line) for each in label) if name is not None]
    if len(names) < len(label):
        raise _bad_label(line)
    return names


def _name(label: Any, line: int) -> Name | None:
    """Return a label as a name, as it is written, or a number; None where there is none."""
    if isinstance(label, str | bool):
        return str(label).strip() or None
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, int | float | None):
        raise _bad_label(line)
    return label


def _bad_label(line: int) -> ValueError:
    return ValueError(f"the label of line {line} is neither a name nor a number, nor a list of these")
