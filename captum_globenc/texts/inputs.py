"""Check the texts and pairs of a call; errors name the invalid entry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import shorten
from typing import Any

__all__ = ["Pairs", "Texts", "texts_and_pairs"]

Texts = Sequence[str] | Sequence[tuple[str, str]]
"""Texts, or tuples (text, pair)."""

Pairs = str | Sequence[str | None] | None
"""One second segment for all texts, one per text, or None."""


def texts_and_pairs(
    texts: Texts, pair: Pairs = None, context: Pairs = None
) -> tuple[list[str], list[str | None]]:
    """Return the texts, and the second segment of each text or None.

    Args:
        texts: B texts, or B tuples (text, pair).
        pair: One second segment for all texts, or one per text; None if `texts` has tuples.
        context: An alias of `pair` for question answering.

    Raises:
        TypeError: `texts` is not a sequence of texts, or an entry is not a string.
        ValueError: The numbers of pairs and texts differ, a tuple does not have two entries, or `pair` is
            combined with tuples or with `context`.

    Example:
        >>> texts_and_pairs([("A cat sleeps.", "It is awake.")])
        (['A cat sleeps.'], ['It is awake.'])
    """
    name = "pair" if context is None else "context"
    if context is not None:
        if pair is not None:
            raise ValueError("context is an alias of pair: leave one of the two out")
        pair = context
    entries = _entries(texts)
    if any(isinstance(it, list | tuple) for it in entries):
        if pair is not None:
            raise ValueError(f"texts contain pairs already, (text, pair) each: leave {name} out")
        return _split(entries)
    pairs = [pair] * len(entries) if pair is None or isinstance(pair, str) else list(pair)
    if len(pairs) != len(entries):
        raise ValueError(
            f"there are {len(pairs)} pairs for {len(entries)} texts: pass one for each, or a string"
        )
    return (
        [_string(it, f"texts[{number}]") for number, it in enumerate(entries)],
        [it if it is None else _string(it, f"{name}[{number}]") for number, it in enumerate(pairs)],
    )


def _entries(texts: Any) -> list[Any]:
    """Return the entries of `texts` as a list; reject a string, a mapping, a table and a non-iterable."""
    if isinstance(texts, str):
        raise TypeError(f"texts is one string: pass a list of texts, [{shorten(texts, 40)!r}]")
    named = list(getattr(texts, "columns", texts if isinstance(texts, Mapping) else ()))
    if named or isinstance(texts, Mapping):
        column = named[0] if named else "text"
        raise TypeError(
            f"texts is a {type(texts).__name__}: pass a list of texts, such as a column, texts[{column!r}]"
        )
    if texts is None or not isinstance(texts, Iterable):
        what = "None" if texts is None else f"a {type(texts).__name__}"
        raise TypeError(f"texts is {what}: pass a list of texts")
    return list(texts)


def _split(entries: Sequence[Any]) -> tuple[list[str], list[str | None]]:
    """Return the texts and the pairs of a list of strings and tuples (text, pair)."""
    texts: list[str] = []
    pairs: list[str | None] = []
    for number, entry in enumerate(entries):
        name = f"texts[{number}]"
        if not isinstance(entry, list | tuple):
            texts.append(_string(entry, name))
            pairs.append(None)
            continue
        if len(entry) != 2:
            raise ValueError(f"{name} has {len(entry)} entries: pass a string, or two strings (text, pair)")
        text, pair = (_string(it, f"{name}[{index}]") for index, it in enumerate(entry))
        texts.append(text)
        pairs.append(pair)
    return texts, pairs


def _string(entry: Any, name: str) -> str:
    if isinstance(entry, str):
        return entry
    if entry is None or entry != entry:
        raise TypeError(f"{name} is {entry}, not a string: leave missing texts out")
    hint = ": pass its texts, and second segments as pair" if isinstance(entry, Mapping) else ""
    shown = shorten(repr(entry), 60, placeholder="...")
    raise TypeError(f"{name} is {shown} ({type(entry).__name__}), not a string{hint}")
