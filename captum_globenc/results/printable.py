"""What a terminal is given of a text: nothing that would steer it, and in tables nothing invisible."""

from __future__ import annotations

import unicodedata

__all__ = ["in_table", "printable"]

LONGEST_WORD = 40
"""Characters of a word that a table shows."""

BLANK = "\N{OPEN BOX}"
"""Shown in tables for a token that is nothing but white space."""

# Which shape letters, join emoji or say where one may break: harmless, and a part of how words are written.
_HARMLESS = "\N{SOFT HYPHEN}\u200b\u200c\u200d\u200e\u200f\u2060"


def in_table(text: str) -> str:
    """Return a word in one line that is not too long, and not invisible.

    Example:
        >>> in_table(" "), in_table("\u200b")
        ('␣', 'U+200B')
    """
    if not text.strip():
        text = BLANK
    elif not any(char.isprintable() for char in text):
        text = " ".join(f"U+{ord(char):04X}" for char in text)
    text = printable(text)
    return text if len(text) <= LONGEST_WORD else f"{text[: LONGEST_WORD - 1]}…"


def printable(text: str, kept: str = "") -> str:
    r"""Replace what would steer a terminal: escape sequences, line ends, changes of direction.

    Args:
        text: Any text.
        kept: Characters to leave as they are, such as line ends.

    Example:
        >>> printable("a\x1b[31mb")
        'a\ufffd[31mb'
    """
    kept += _HARMLESS
    return "".join(
        char
        if char.isprintable() or char in kept or unicodedata.category(char) == "Zs"
        else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
