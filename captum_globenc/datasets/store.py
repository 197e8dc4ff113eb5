"""Write files atomically, and check that a resumed run has the settings of the interrupted one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["check_settings", "read_settings", "replace", "replacing"]

DIGESTS = {
    "data": "of other texts",
    "sha256": "of other texts",
    "tokens": "of texts that were tokenized otherwise",
    "config": "of a model with another config",
    "weights": "of a model with other weights",
    "tokenizer": "of another tokenizer",
    "generation": "of a model with another generation config",
}
"""Descriptions of settings that are digests, for messages."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, which replaces `path` once it is complete and on the disk.

    An interrupted process leaves a `.part` file behind, and `path` unchanged.

    Raises:
        OSError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def replace(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        OSError: the file cannot be written.
    """
    with replacing(path) as file:
        file.write(text.encode())


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of a run.

    Raises:
        ValueError: the file cannot be read, is damaged, or is not a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: choose another folder, or remove it") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} was written by another program: choose another folder")
    return found


def check_settings(
    folder: Path, what: str, before: Mapping[str, Any], now: Mapping[str, Any], ignored: tuple[str, ...] = ()
) -> None:
    """Reject a folder with results of other settings.

    Args:
        folder: the folder.
        what: the name of the results in messages.
        before: the settings of the existing results; nested settings are compared one by one.
        now: the settings of the new run.
        ignored: prefixes of the names of settings that may differ, for example "model.name".

    Raises:
        ValueError: a setting differs; the message names it.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    for name in dict.fromkeys([*new, *old]):
        if not name.startswith(ignored) and old.get(name) != new.get(name):
            last = name.rpartition(".")[2]
            was, wanted = (_brief(values.get(name)) for values in (old, new))
            differs = DIGESTS.get(last, f"with {last} {was}, not {wanted}")
            raise ValueError(f"{folder} holds {what} {differs}: choose another folder")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(it, dict) for it in value):
            yield from _flat({str(place): it for place, it in enumerate(value)}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:56] + " ..."
