"""Find fonts with the characters of a text, so that figures show no empty boxes."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence

from matplotlib import rcParams
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

__all__ = ["drawable"]

MISSING = "\N{REPLACEMENT CHARACTER}"
"""Replaces characters that no installed font has; matplotlib's default font has this one."""


def drawable(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return texts and the font families that have their characters.

    The families of ``rcParams`` come first, then installed families with characters that these lack. A
    character that no font has is replaced by "�", and one warning names all of them.

    Args:
        texts: The texts.

    Returns:
        The texts to draw, and the families for matplotlib's ``fontfamily``.

    Example:
        >>> drawable(["fox"])[0]
        ['fox']
    """
    families = list(rcParams["font.family"])
    characters = {char for text in texts for char in text}
    missing = characters.difference(*(_drawn_by(name, characters) for name in families))
    # Variation selectors have no glyph; they select a variant of the previous character.
    selectors = {char for char in missing if unicodedata.name(char, "").startswith("VARIATION SELECTOR")}
    missing -= selectors
    if missing:
        usual = rcParams["font.sans-serif"]
        installed = sorted(_regular_families(), key=lambda name: (name not in usual, name))
        offers = {name: _drawn_by(name, missing) for name in installed}
        while missing and any(offers.values()):
            best = max(offers, key=lambda name: len(offers[name]))
            families.append(best)
            missing -= offers[best]
            offers = {name: offer & missing for name, offer in offers.items()}
    if missing:
        warnings.warn(
            f"no installed font has {' '.join(sorted(missing))}: drawn as {MISSING}. Install one that has it "
            "(the Noto fonts have most), and delete matplotlib's list of fonts in matplotlib.get_cachedir()",
            stacklevel=3,
        )
    table = {ord(char): MISSING for char in missing} | {ord(char): None for char in selectors}
    return [text.translate(table) for text in texts], families


def _regular_families() -> set[str]:
    """Return the installed families with an upright font of regular weight."""
    return {
        font.name
        for font in fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, "normal", "regular")
        and "resort" not in font.name.lower()  # last-resort fonts have a box for every character
    }


def _drawn_by(family: str, characters: Iterable[str]) -> set[str]:
    """Return the characters that matplotlib can draw with a family."""
    try:
        font = get_font(findfont(FontProperties(family=[family])))
    except (OSError, RuntimeError, ValueError):  # a color font, or an unreadable one
        return set()
    return {char for char in characters if font.scalable and font.get_char_index(ord(char))}
