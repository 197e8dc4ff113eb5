"""Labelled texts from CSV, TSV and JSON-lines files."""

import csv
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SENTENCES = Path(__file__).parents[1] / "data" / "sentiment_sentences.tsv"
"""The 3,000 sentences that ship with the package; its README says whose they are."""

DIALECTS: Mapping[str, Mapping[str, Any]] = {
    ".csv": {"delimiter": ",", "strict": True},
    # As the shipped file: quotes are part of a text, tabs and line ends are not.
    ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE},
}


@dataclass(frozen=True)
class Example:
    """One text of a data set.

    Args:
        number: its row in the file, from 0; what `results.csv` calls it.
        text: the text.
        label: a class's index or name, or None where it has none.
    """

    number: int
    text: str
    label: str | int | None = None


def read_examples(path: Path) -> list[Example]:
    """Read texts and labels from a file.

    Args:
        path: `.csv` or `.tsv` with a header, or `.jsonl`, in UTF-8: fields `text` and, if there is one,
            `label`, in any case; other fields are passed over.

    Returns:
        The examples, in the order of the file.

    Raises:
        ValueError: the file cannot be read, has no such field, or holds an empty text; the message
            is one line.

    Example:
        >>> len(read_examples(SENTENCES)), read_examples(SENTENCES)[3].text
        (3000, 'Very little music or anything to speak of.')
    """
    examples = []
    try:
        for number, row in enumerate(_rows(path)):
            named = {str(name).strip().lower(): value for name, value in row.items()}
            text, label = named.get("text"), named.get("label")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"row {number + 1} has no text")
            text.encode()  # a lone surrogate is no text
            examples.append(Example(number, text, _label(label, number)))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"cannot read {path}: {reason}") from error
    if not examples:
        raise ValueError(f"cannot read {path}: it holds no texts")
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


def _label(label: Any, number: int) -> str | int | None:
    """Return a label as a name or a whole number: 1.0 is 1, as tables with gaps write it."""
    if isinstance(label, str):
        label = label.strip()
        whole = label.removesuffix(".0")
        return (whole if whole.isdecimal() else label) or None
    if isinstance(label, float) and label.is_integer():
        return int(label)
    if not isinstance(label, int | None):
        raise ValueError(f"the label of row {number + 1} is neither a name nor a whole number")
    return label


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    kind = path.suffix.lower()
    if kind not in (*DIALECTS, ".jsonl"):
        raise ValueError(f"its name ends in none of {', '.join((*DIALECTS, '.jsonl'))}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if kind in DIALECTS:
            yield from csv.DictReader(file, **DIALECTS[kind])
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no JSON object")
                yield row
