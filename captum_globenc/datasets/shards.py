"""A folder of Parquet shards that survives being killed: each is there whole, or not at all."""

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
"""What a description holds at least."""
COUNTS = b"captum_globenc"
"""The key of a shard's metadata that holds its counts."""
DIGEST = b"captum_globenc.sha256"
"""The key of a shard's metadata that holds the SHA-256 of all bytes before the metadata, in hex."""
FOOTER = 8
"""Bytes at the end of a Parquet file: the length of its metadata, four bytes, and "PAR1"."""


class Counts(NamedTuple):
    """What became of rows.

    Attributes:
        rows: how many.
        errors: how many could not be explained.
        cut: how many lost their end.
        windowed: how many were explained in windows.
        first: the first error; "" where there is none.
    """

    rows: int = 0
    errors: int = 0
    cut: int = 0
    windowed: int = 0
    first: str = ""

    def plus(self, other: Counts) -> Counts:
        """Return the counts of both."""
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
        folder: where; made if it is not there.
        about: what the scores depend on; a folder takes shards of one such description.
        rows: of all shards.
        size: rows of a shard; the last may have fewer.

    Raises:
        ValueError: the folder cannot be used, or holds attributions of something else.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], rows: int, size: int) -> None:
        self._folder, self._rows, self._size = folder, rows, size
        self._about = {"format": FORMAT, **about, "rows": rows, "rows_per_shard": size}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / ABOUT).exists():
                # A model may have moved: its weights tell whether it is the same.
                moved = ("model.name", "finished")
                check_settings(folder, "attributions", read_about(folder), self._about, moved)
            elif any(folder.glob("*.parquet")):
                raise ValueError(f"{folder} holds files of something else: choose another folder")
            else:
                self._write_about({})
        except OSError as error:
            raise ValueError(f"cannot use {folder}: {error.strerror or error}") from error

    def __len__(self) -> int:
        return -(-self._rows // self._size)

    def done(self) -> dict[int, Counts]:
        """Return the counts of the shards that are there, by their number."""
        found = {}
        for number in range(len(self)):
            counts = _counts(self._path(number))
            if counts is not None and counts.rows == min(self._size, self._rows - number * self._size):
                found[number] = counts
        return found

    def write(self, number: int, table: Any, counts: Counts) -> None:
        """Write a shard.

        Args:
            number: the shard's, from 0.
            table: a `pyarrow.Table`.
            counts: what became of its rows.

        Raises:
            ValueError: it cannot be written.
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
        """Say in the folder's description what came out, and clear away what killed runs left."""
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
    """Return what a folder says of its attributions.

    Raises:
        ValueError: it says nothing, or what cannot be read.
    """
    path = folder / ABOUT
    if not path.exists():
        raise ValueError(f"{folder} holds no attributions: there is no {ABOUT}")
    about = read_settings(path)
    if about.get("format") != FORMAT or not about.keys() >= NEEDED:
        raise ValueError(f"{path} is of something else, or of another version")
    return about


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a finished run, in order; :func:`check_shard` checks their content.

    Raises:
        ValueError: there are no attributions, or some shards are missing.
    """
    about = read_about(folder)
    count = -(-about["rows"] // about["rows_per_shard"])
    paths = [folder / f"{number:06d}.parquet" for number in range(count)]
    there = sum(path.exists() for path in paths)
    if there < count:
        raise ValueError(
            f"{folder} holds {there} of {count} shards: the command that began it goes on when run again"
        )
    return paths


def check_shard(path: Path) -> Path:
    """Check a shard against its checksum, and return its path.

    Shards of versions without a checksum pass.

    Raises:
        ValueError: the shard is damaged.
    """
    try:
        whole = _is_whole(path, pq.read_metadata(path).metadata or {})
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"cannot read {path}: {error.strerror}") from error
        whole = False  # pyarrow raises either for metadata that it cannot parse
    if not whole:
        raise ValueError(f"{path} is damaged: run the command that wrote it again, which makes it anew")
    return path


def _is_whole(path: Path, metadata: Mapping[bytes, bytes]) -> bool:
    """Return whether the content of a shard is what was written, as far as its metadata tells."""
    if DIGEST not in metadata:
        return True
    with path.open("rb") as file:
        end = file.seek(-FOOTER, os.SEEK_END)
        return _digest(file, end - int.from_bytes(file.read(4), "little")) == metadata[DIGEST]


def _digest(file: BinaryIO, size: int) -> bytes:
    """Return the SHA-256 of the first `size` bytes of a file, in hex; the file's position is kept."""
    place, made = file.tell(), hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, 1 << 20))):
        made.update(block)
        size -= len(block)
    file.seek(place)
    return made.hexdigest().encode()


def _counts(path: Path) -> Counts | None:
    """Return the counts in a shard; None where there is no shard, or it is damaged."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
        return Counts(**json.loads(metadata[COUNTS])) if _is_whole(path, metadata) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
