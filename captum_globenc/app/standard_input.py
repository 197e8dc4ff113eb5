"""Read the texts of a command from its arguments, standard input, or a file of chats."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from captum_globenc.app.command import CommandError, note
from captum_globenc.datasets.files import open_text


def read_texts(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the arguments, with "-" replaced by the lines of standard input."""
    found = False
    for argument in arguments:
        for text in _lines() if argument == "-" else [argument]:
            found = True
            if not text.strip():
                raise CommandError("a text is empty")
            yield text
    if not found:
        raise CommandError("no text to explain: standard input is empty")


def read_chats(path: Path) -> list[list[dict[str, Any]]]:
    """Return the chats of a JSON file, which holds one list of messages or several.

    Raises:
        CommandError: The file cannot be read, or does not hold chats.
    """
    try:
        with open_text(path) as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"no JSON: {error}"
        raise CommandError(f"cannot read {path}: {reason}") from error
    chats = [found] if isinstance(found, list) and found and isinstance(found[0], dict) else found
    if not isinstance(chats, list) or not all(
        isinstance(it, list) and it and all(isinstance(message, dict) for message in it) for it in chats
    ):
        raise CommandError(f'{path} is no chat: a list of messages, [{{"role": "user", "content": "..."}}]')
    return chats


def _lines() -> Iterator[str]:
    """Return the lines of standard input that are not blank."""
    if sys.stdin is None:  # closed
        return iter(())
    if sys.stdin.isatty():
        note("reading texts from standard input, one per line; Ctrl-D ends it")
    try:
        # Decode bytes, because the locale's encoding may differ from the file's.
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("standard input is not valid UTF-8") from None
    return (line.rstrip("\r") for line in content.split("\n") if line.strip())
