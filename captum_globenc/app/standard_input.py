"""The texts of a command: its arguments, and the lines of standard input."""

import sys
from collections.abc import Iterable, Iterator

from captum_globenc.app.command import CommandError, note


def read_texts(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the texts, with the lines of standard input where an argument is "-"."""
    found = False
    for argument in arguments:
        for text in _lines() if argument == "-" else [argument]:
            found = True
            if not text.strip():
                raise CommandError("a text is empty")
            yield text
    if not found:
        raise CommandError("no text to explain: standard input is empty")


def _lines() -> Iterator[str]:
    """Yield the lines of standard input that are not blank."""
    if sys.stdin is None:  # closed
        return iter(())
    if sys.stdin.isatty():
        note("reading texts from standard input, one per line; Ctrl-D ends it")
    try:
        # Bytes, because the encoding of a terminal's locale says nothing about a file's.
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("standard input is not valid UTF-8") from None
    return (line.rstrip("\r") for line in content.split("\n") if line.strip())
