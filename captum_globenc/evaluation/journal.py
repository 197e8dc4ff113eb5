"""Results on disk that survive being killed: rows are added batch by batch, whole or not at all."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS, SETTINGS = "results.csv", "settings.json"
BATCH, EXAMPLE = "batch", "example"
"""The columns that every journal starts with: numbers of the batch and of the example."""

Row = dict[str, Any]


class Journal:
    """The rows of an evaluation, kept in a folder.

    Args:
        folder: where; None keeps them in memory only.
        settings: what the rows depend on; a folder takes rows of one setting only.
        texts: names of further columns that hold text.
        numbers: names of further columns that hold numbers.
        batch_sizes: how many rows each batch has when it is done.

    Raises:
        ValueError: the folder cannot be used, or holds results of other settings.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        texts: Sequence[str],
        numbers: Sequence[str],
        batch_sizes: Sequence[int],
    ) -> None:
        self.rows: list[Row] = []
        self._read: dict[str, Callable[[str], Any]] = {
            **dict.fromkeys((BATCH, EXAMPLE), int),
            **dict.fromkeys(texts, str),
            **dict.fromkeys(numbers, float),
        }
        self._sizes = batch_sizes
        self._path = None if folder is None else folder / RESULTS
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._check(folder / SETTINGS, settings)
                self._load(folder / RESULTS)
            except OSError as error:
                raise ValueError(f"cannot use {folder}: {error.strerror}") from error

    def has(self, batch: int) -> bool:
        """Tell whether a batch is done."""
        return any(row[BATCH] == batch for row in self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Add all rows of a batch, in one write that reaches the disk before it returns.

        Args:
            rows: one per example and method.
        """
        self.rows.extend(rows)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._lines(rows))
                file.flush()
                os.fsync(file.fileno())

    def _check(self, path: Path, settings: Mapping[str, Any]) -> None:
        if not path.exists():
            if (path.parent / RESULTS).exists():
                raise ValueError(f"{path.parent} holds a {RESULTS} of something else: choose another folder")
            replace(path, json.dumps(settings, indent=2) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: choose another folder, or remove it") from error
        for name in dict.fromkeys([*settings, *before]):
            if settings.get(name) != before.get(name):
                was, now = (_brief(values.get(name)) for values in (before, settings))
                raise ValueError(
                    f"{path.parent} holds an evaluation with {name} {was}, not {now}: choose another folder"
                )

    def _load(self, path: Path) -> None:
        """Take up the batches that are done, and clear away what was cut off in the middle of one."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        found = []
        for row in csv.DictReader(io.StringIO(text)):
            try:
                found.append({name: read(row[name]) for name, read in self._read.items()})
            except (KeyError, TypeError, ValueError):
                break  # The line that was being written.
        count = Counter(row[BATCH] for row in found)
        done = {batch for batch, size in enumerate(self._sizes) if count[batch] == size}
        self.rows = [row for row in found if row[BATCH] in done]
        whole = ",".join(self._read) + "\n" + self._lines(self.rows)
        if whole != text:
            replace(path, whole)

    def _lines(self, rows: Sequence[Row]) -> str:
        file = io.StringIO()
        # The shortest decimal that gives the number back: what is read again is what was measured.
        csv.DictWriter(file, self._read, lineterminator="\n").writerows(rows)
        return file.getvalue()


def replace(path: Path, text: str) -> None:
    """Write a file so that it is there whole or as it was before.

    Args:
        path: the file.
        text: its content.
    """
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:56] + " ..."
