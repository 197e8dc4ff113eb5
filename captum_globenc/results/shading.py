"""Split the original text into pieces for shading, by its words or tokens.

N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from captum_globenc.results.words import Word

__all__ = ["CUT", "UNREAD", "Piece", "cut_into_pieces"]

UNREAD = "the tokenizer drops this: the model does not read it"
"""The note on characters without a token."""

CUT = "truncated: the text is longer than the limit of the model"
"""The note on the truncated end or beginning of a text."""

Stretch = tuple[int, int, tuple[int, ...]]
"""Start and stop of a span of characters, and its tokens."""


class Piece(NamedTuple):
    """A shaded piece of a text, a gap between two pieces, or a special token.

    Attributes:
        text: The characters of the text, or the name of a special token. The pieces of a text that are not
            special join to the text.
        tokens: The tokens of the piece, whose scores `captum_globenc.results.words.merge_scores` combines;
            empty for a gap.
        special: Whether it is a special token such as [CLS], which is not part of the text.
        unknown: Whether one of its tokens is an unknown token such as [UNK].
        note: A note for the reader, or "".
    """

    text: str
    tokens: tuple[int, ...] = ()
    special: bool = False
    unknown: bool = False
    note: str = ""


def cut_into_pieces(
    sources: Sequence[str],
    units: Iterable[Word],
    places: Sequence[tuple[int, int, int] | None],
    unknown: Sequence[tuple[int, str]] = (),
    *,
    truncated: bool = False,
) -> list[list[Piece]]:
    """Split texts into pieces, one per unit, and the gaps between them.

    White space around a unit is not part of its piece. Units with the same characters share a piece; a unit
    without characters is part of the next piece.

    Args:
        sources: The text, and its pair if there is one.
        units: Words or single tokens, in the order of the tokens.
        places: `(start, stop, segment)` of each of the N tokens, None for tokens without offsets; empty if
            there are no offsets.
        unknown: Positions and names of the unknown tokens.
        truncated: Whether the texts were truncated.

    Returns:
        The pieces of each text. A special token follows the text before it, unless it starts a text of a
        pair. Without offsets, the pieces are the texts of the units, separated by spaces.

    Example:
        >>> units = [Word("[CLS]", (0,), True), Word("not", (1,), False), Word("bad", (2,), False)]
        >>> (pieces,) = cut_into_pieces(["NOT  bad!"], units, [None, (0, 3, 0), (5, 8, 0)])
        >>> [(piece.text, piece.tokens) for piece in pieces]
        [('[CLS]', (0,)), ('NOT', (1,)), ('  ', ()), ('bad', (2,)), ('!', ())]
    """
    names = dict(unknown)
    if not places:
        return _join_units(units, len(sources), names)
    ahead: list[Piece] = []
    behind: list[list[Piece]] = [[] for _ in sources]
    found: list[list[Stretch]] = [[] for _ in sources]
    current: int | None = None
    waiting: tuple[int, ...] = ()
    for unit in units:
        stands = [place for place in (places[token] for token in unit.tokens) if place is not None]
        if stands:
            current = stands[0][2]
            start, stop = min(stands)[0], max(place[1] for place in stands)
            _add(found[current], _trimmed(sources[current], start, stop), (*waiting, *unit.tokens))
            waiting = ()
        elif not unit.special:
            waiting += unit.tokens
        else:
            special = Piece(unit.text, unit.tokens, special=True)
            (ahead if current is None else behind[current]).append(special)
            if waiting and current is not None:  # they belong to the end of this text
                _add(found[current], found[current][-1][:2], waiting)
                waiting = ()
    if waiting:
        _add(found[current or 0], (0, 0) if current is None else found[current][-1][:2], waiting)
    # A tokenizer may truncate the beginning; then nothing is missing at the end.
    ends = [source[row[-1][1] if row else 0 :] for source, row in zip(sources, found, strict=True)]
    cut = ("end" if "".join(ends).strip() else "beginning") if truncated else ""
    filled = [_filled(source, row, names, cut) for source, row in zip(sources, found, strict=True)]
    filled[0] = [*ahead, *filled[0]]
    # Two texts that are encoded separately start with the same special tokens; assign these to the second.
    begins = [place for place, piece in enumerate(behind[0]) if ahead and piece.text == ahead[0].text]
    if len(sources) > 1 and begins:
        behind[0], own = behind[0][: begins[-1]], behind[0][begins[-1] :]
        filled[1] = [*own, *filled[1]]
    return [[*pieces, *rest] for pieces, rest in zip(filled, behind, strict=True)]


def _trimmed(source: str, start: int, stop: int) -> tuple[int, int]:
    """Return a span without white space at its ends, unless it is only white space."""
    text = source[start:stop]
    if text.isspace():
        return start, stop
    return start + len(text) - len(text.lstrip()), start + len(text.rstrip())


def _add(found: list[Stretch], where: tuple[int, int], tokens: tuple[int, ...]) -> None:
    """Add a span, and merge it with the last ones if they overlap."""
    start, stop = where
    while found and start < found[-1][1]:
        first, last, before = found.pop()
        start, stop, tokens = min(first, start), max(last, stop), (*before, *tokens)
    found.append((start, stop, tokens))


def _filled(source: str, found: Sequence[Stretch], names: dict[int, str], cut: str) -> list[Piece]:
    """Return the pieces of a text, with the gaps between them."""
    pieces: list[Piece] = []
    ends = [0, *(stop for _, stop, _ in found)]
    begins = [*(start for start, _, _ in found), len(source)]
    lost_at = {"end": len(found), "beginning": 0}.get(cut)
    for index, (before, after) in enumerate(zip(ends, begins, strict=True)):
        gap = source[before:after]
        if gap:
            lost = CUT if index == lost_at else UNREAD
            pieces.append(Piece(gap, note="" if gap.isspace() else lost))
        if index < len(found):
            start, stop, tokens = found[index]
            pieces.append(_piece(source[start:stop], tokens, names))
    return pieces


def _join_units(units: Iterable[Word], count: int, names: dict[int, str]) -> list[list[Piece]]:
    """Return the pieces of texts without offsets; special tokens separate the texts."""
    texts: list[list[Piece]] = [[] for _ in range(count)]
    current, ended = 0, False
    for unit in units:
        row = texts[current]
        if unit.special:
            ended = any(not piece.special for piece in row)
        elif ended and current + 1 < count:
            current, ended = current + 1, False
            row = texts[current]
        if row:
            row.append(Piece(" "))
        row.append(
            Piece(unit.text, unit.tokens, special=True)
            if unit.special
            else _piece(unit.text, unit.tokens, names)
        )
    return texts


def _piece(text: str, tokens: tuple[int, ...], names: dict[int, str]) -> Piece:
    unknown = [names[token] for token in tokens if token in names]
    note = f"not in the vocabulary: the model reads {' '.join(unknown)}" if unknown else ""
    return Piece(text, tokens, unknown=bool(unknown), note=note)
