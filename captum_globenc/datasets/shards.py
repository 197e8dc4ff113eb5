"""A folder of Parquet shards, each written atomically, so that an interrupted run can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from captum_globenc.datasets.store import check_settings, read_settings, replace, replacing
from captum_globenc.extras import optional

__all__ = ["ABOUT", "Counts", "Shards", "check_shard", "read_about", "shard_files"]

pq: Any = optional("pyarrow.parquet", "datasets")

ABOUT = "attributions.json"
FORMAT = 1
NEEDED = {"model", "settings", "rows", "rows_per_shard"}
"""Required keys of the description."""
COUNTS = b"captum_globenc"
"""Metadata key of a shard's counts."""
DIGEST = b"captum_globenc.sha256"
"""Metadata key of the SHA-256 of all bytes before the metadata, in hex."""
FOOTER = 8
"""Bytes at the end of a Parquet file: the length of its metadata, four bytes, and "PAR1"."""


class Counts(NamedTuple):
    """Numbers of rows by outcome.

    Attributes:
        rows: number of rows.
        errors: rows that could not be explained.
        cut: truncated rows.
        windowed: rows explained in windows.
        first: the message of the first error, or "".
    """

    rows: int = 0
    errors: int = 0
    cut: int = 0
    windowed: int = 0
    first: str = ""

    def plus(self, other: Counts) -> Counts:
        """Return the sum of two counts."""
        return Counts(
            rows=self.rows + other.rows,
            errors=self.errors + other.errors,
            cut=self.cut + other.cut,
            windowed=self.windowed + other.windowed,
            first=self.first or other.first,
        )


class Shards:
    """The shards of one run.

    Args:
        folder: the folder; created if it does not exist.
        about: the settings that the scores depend on. A folder holds shards of one set of settings.
        rows: number of rows of all shards.
        size: number of rows per shard; the last shard may have fewer.

    Raises:
        ValueError: the folder cannot be used, or holds attributions of other settings.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], rows: int, size: int) -> None:
        self._folder, self._rows, self._size = folder, rows, size
        self._about = {"format": FORMAT, **about, "rows": rows, "rows_per_shard": size}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / ABOUT).exists():
                # The folder of a model may change; its weights identify it.
                moved = ("model.name", "finished")
                check_settings(folder, "attributions", read_about(folder), self._about, moved)
            elif any(folder.glob("*.parquet")):
                raise ValueError(f"{folder} contains other .parquet files: choose another folder")
            else:
                self._write_about({})
        except OSError as error:
            raise ValueError(f"cannot use {folder}: {error.strerror or error}") from error

    def __len__(self) -> int:
        return -(-self._rows // self._size)

    def done(self) -> dict[int, Counts]:
        """Return the counts of the finished shards, by shard number."""
        found = {}
        for number in range(len(self)):
            counts = _counts(self._path(number))
            if counts is not None and counts.rows == min(self._size, self._rows - number * self._size):
                found[number] = counts
        return found

    def write(self, number: int, table: Any, counts: Counts) -> None:
        """Write a shard by its number, from 0: a `pyarrow.Table` of its rows, and their counts.

        Raises:
            ValueError: the shard cannot be written.
        """
        path = self._path(number)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), COUNTS: json.dumps(counts._asdict())}
        )
        try:
            with replacing(path) as file, pq.ParquetWriter(file, table.schema, compression="zstd") as writer:
                writer.write_table(table)
                file.flush()
                writer.add_key_value_metadata({DIGEST: _digest(file, file.tell())})
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror or error}") from error

    def finish(self, counts: Counts) -> None:
        """Add the counts to the folder's description, and remove temporary files of interrupted runs."""
        try:
            for part in self._folder.glob("*.part"):
                part.unlink(missing_ok=True)
            self._write_about({"finished": counts._asdict()})
        except OSError as error:
            raise ValueError(f"cannot write to {self._folder}: {error.strerror or error}") from error

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"

    def _write_about(self, more: Mapping[str, Any]) -> None:
        replace(self._folder / ABOUT, json.dumps({**self._about, **more}, indent=2) + "\n")


def read_about(folder: Path) -> dict[str, Any]:
    """Return the description of a folder of attributions.

    Raises:
        ValueError: the description is missing, or cannot be read.
    """
    path = folder / ABOUT
    if not path.exists():
        raise ValueError(f"{folder} holds no attributions: there is no {ABOUT}")
    about = read_settings(path)
    if about.get("format") != FORMAT or not about.keys() >= NEEDED:
        raise ValueError(f"{path} was written by another program or another version")
    return about


def shard_files(folder: Path) -> list[Path]:
    """Return the paths of the shards of a finished run, in order, without checking their content.

    Raises:
        ValueError: there are no attributions, or some shards are missing.
    """
    about = read_about(folder)
    count = -(-about["rows"] // about["rows_per_shard"])
    paths = [folder / f"{number:06d}.parquet" for number in range(count)]
    there = sum(path.exists() for path in paths)
    if there < count:
        raise ValueError(
            f"{folder} has {there} of {count} shards: repeat the command that wrote them to resume it"
        )
    return paths


def check_shard(path: Path) -> Path:
    """Check a shard against its checksum, and return its path.

    Shards without a checksum, written by older versions, pass.

    Raises:
        ValueError: the shard is damaged.
    """
    try:
        whole = _is_whole(path, pq.read_metadata(path).metadata or {})
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error
        whole = False  # pyarrow raises OSError or ValueError for metadata that it cannot parse
    if not whole:
        raise ValueError(f"{path} is damaged: repeat the command that wrote it, which replaces the file")
    return path


def _is_whole(path: Path, metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether the content of a shard matches its checksum, if there is one."""
    if DIGEST not in metadata:
        return True
    with path.open("rb") as file:
        end = file.seek(-FOOTER, os.SEEK_END)
        return _digest(file, end - int.from_bytes(file.read(4), "little")) == metadata[DIGEST]


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 of the first `size` bytes of a file, in hex, and restore the file's position."""
    place, made = file.tell(), hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        made.update(block)
        size -= len(block)
    file.seek(place)
    return made.hexdigest().encode()


def _counts(path: Path) -> Counts | None:
    """Return the counts of a shard; None if it is missing or damaged."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return Counts(**json.loads(metadata[COUNTS])) if _is_whole(path, metadata) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
