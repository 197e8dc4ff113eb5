"""Results on disk that survive an interrupted run: each batch of rows is added completely or not at all."""

import csv
import io
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from captum_globenc.datasets.store import check_settings, read_settings, replace

RESULTS, SETTINGS = "results.csv", "settings.json"
BATCH, EXAMPLE, SECONDS = "batch", "example", "seconds"
METHOD, LABEL, PREDICTION = TEXTS = ("method", "label", "prediction")
COLUMNS = (BATCH, EXAMPLE, *TEXTS, SECONDS)
"""The columns of the results besides the metrics."""

Row = dict[str, Any]


class Checkpoint:
    """The rows of an evaluation, saved to a folder.

    Args:
        folder: the folder; None keeps the rows in memory only.
        settings: everything that the rows depend on. A folder holds rows of one set of settings.
        metrics: names of the metric columns.
        batches: the ids of the examples of each batch. A finished batch has a row per example and method.

    Raises:
        ValueError: the folder cannot be used, or holds results of other settings.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        metrics: Sequence[str],
        batches: Sequence[Sequence[int | str]],
    ) -> None:
        self.rows: list[Row] = []
        self._read: dict[str, Callable[[str], Any]] = {
            BATCH: int,
            **dict.fromkeys((EXAMPLE, *TEXTS), str),
            **dict.fromkeys((*metrics, SECONDS), float),
        }
        self._batches, self._methods = batches, settings["methods"]
        self._path = None if folder is None else folder / RESULTS
        self._written = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._load(folder / RESULTS, self._check(folder / SETTINGS, settings))
            except OSError as error:
                raise ValueError(f"cannot use {folder}: {error.strerror}") from error

    def has(self, batch: int) -> bool:
        """Return whether a batch is done."""
        return any(row[BATCH] == batch for row in self.rows)

    def add(self, rows: Sequence[Row]) -> None:
        """Add the rows of a batch, one per example and method, in one write that is flushed to the disk.

        Raises:
            ValueError: the file cannot be written, or another evaluation writes to it.
        """
        self.rows = _same_type([*self.rows, *rows])
        if self._path is None:
            return
        content = self._lines(rows).encode()
        try:
            if self._path.stat().st_size != self._written:
                raise ValueError(f"another evaluation writes to {self._path}: choose another folder")
            with self._path.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ValueError(f"cannot write {self._path}: {error.strerror}") from error
        self._written += len(content)

    def _check(self, path: Path, settings: Mapping[str, Any]) -> bool:
        """Return whether the folder holds rows of these settings; rows of others raise ValueError."""
        results = path.parent / RESULTS
        if not path.exists() and results.exists():
            raise ValueError(f"{path.parent} contains a {RESULTS} of another program: choose another folder")
        before = read_settings(path) if path.exists() else {}
        if not _holds_rows(results):
            # An earlier run failed before it saved a row.
            replace(path, json.dumps(settings, indent=2) + "\n")
            results.unlink(missing_ok=True)
            return False
        check_settings(path.parent, "an evaluation", before, settings)
        return True

    def _load(self, path: Path, known: bool) -> None:
        """Load the finished batches, and remove the rows of an unfinished one."""
        # Decode bytes, because text mode would change line ends within ids and labels.
        text = path.read_bytes().decode(errors="replace") if known else ""
        found = list(self._parsed(text[: text.rfind("\n") + 1]))  # without an incomplete last line
        ids = {str(name): name for batch in self._batches for name in batch}
        by_batch: defaultdict[int, list[Row]] = defaultdict(list)
        for row in found:
            by_batch[row[BATCH]].append(row)
        finished = []
        for batch, names in enumerate(self._batches):
            rows = by_batch[batch]
            wanted = Counter(product(map(str, names), self._methods))
            if Counter((row[EXAMPLE], row[METHOD]) for row in rows) == wanted:
                finished += [{**row, EXAMPLE: ids[row[EXAMPLE]]} for row in rows]
        self.rows = _same_type(finished)
        whole = ",".join(self._read) + "\n" + self._lines(self.rows)
        if whole != text:
            replace(path, whole)
        self._written = len(whole.encode())

    def _parsed(self, text: str) -> Iterator[Row]:
        """Yield the rows of a CSV file up to the first damaged one."""
        try:
            for row in csv.DictReader(io.StringIO(text)):
                yield {name: read(row[name]) for name, read in self._read.items()}
        except (KeyError, TypeError, ValueError, csv.Error):
            return

    def _lines(self, rows: Sequence[Row]) -> str:
        file = io.StringIO()
        # csv writes floats as their shortest exact decimal, so reading them back loses nothing.
        csv.DictWriter(file, self._read, lineterminator="\n").writerows(rows)
        return file.getvalue()


def _same_type(rows: list[Row]) -> list[Row]:
    """Convert all ids to strings if one is a string: 12 and b2 become "12" and "b2"."""
    if any(isinstance(row[EXAMPLE], str) for row in rows):
        return [{**row, EXAMPLE: str(row[EXAMPLE])} for row in rows]
    return rows


def free_folder(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Return the folder, or the first of `folder-2`, `folder-3`, ..., that an evaluation can use.

    A folder can be used if it does not exist, holds no results, or holds results of the same settings.
    """
    found, number = folder, 1
    while not _is_free(found, settings):
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _is_free(folder: Path, settings: Mapping[str, Any]) -> bool:
    if not folder.exists():
        return True
    if not (folder / RESULTS).exists():
        return folder.is_dir()
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return before == settings or not _holds_rows(folder / RESULTS)


def _holds_rows(results: Path) -> bool:
    return results.exists() and results.read_bytes().count(b"\n") > 1
