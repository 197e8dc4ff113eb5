"""Planted shortcuts: texts with inserted words that determine the label, and others without effect.

Bastings et al. (2022), "Will You Find These Shortcuts?", section 3: a model trained on such texts verifiably
relies on the shortcut, so the tokens that a method should find are known.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from captum_globenc.evaluation.data import Example, Span

WORDS = ("copper", "harbor")
"""The words that determine the label. These and the other planted words are rare, one token each for BERT,
and occur in none of the shipped sentences."""

CONTEXT = "quartz"
DECOYS = ("walnut", "lantern")

Shortcut = tuple[list[str], int | None]
"""Words in the order in which they are inserted, and the label they determine; None keeps the label."""


def plant(examples: Sequence[Example], kind: str, *, share: float = 0.5, seed: int = 0) -> list[Example]:
    """Insert words that determine the label into a share of the texts, and a decoy into every text.

    The label becomes 0 or 1 with equal probability, independent of the text. It is determined by:

    - "token": which of two rare words is inserted;
    - "context": which of two rare words is inserted, if a third word is inserted too. Half of the texts
      get one of the two words without the third, and keep their label;
    - "pair": the order of the two words.

    The words are inserted at random between the words of the text. The decoy is one of two other rare words,
    drawn independently. Every run of white space becomes one space.

    Args:
        examples: texts of two classes, without second segments.
        kind: the shortcut, a key of :data:`SHORTCUTS`.
        share: the probability, in [0, 1], that a text gets the shortcut's words.
        seed: random seed.

    Returns:
        The texts in their order. `marked` holds the words that determine the label, `decoys` the decoy.

    Raises:
        ValueError: `kind` is unknown, `share` is not in [0, 1], or a text already contains one of the words.

    Example:
        >>> [found] = plant([Example(0, "A dull film.", 0)], "pair", share=1.0)
        >>> found.text, found.label
        ('harbor A dull film. walnut copper', 1)
        >>> [found.text[slice(*span)] for span in (*found.marked, *found.decoys)]
        ['harbor', 'copper', 'walnut']
    """
    if kind not in SHORTCUTS:
        raise ValueError(f"no shortcut is called {kind!r}; known: {', '.join(SHORTCUTS)}")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}: pass a probability, 0 to 1")
    draw = random.Random(f"{kind} {seed}")
    return [_with_words(it, *_drawn(kind, share, draw), draw) for it in examples]


def without(example: Example, spans: Sequence[Span]) -> Example:
    """Remove planted words from a text, and keep its label.

    Args:
        example: the text.
        spans: the spans of the words: `example.marked`, `example.decoys`, or both.

    Returns:
        The text without the words, with empty `marked` and `decoys`.

    Example:
        >>> [found] = plant([Example(0, "A dull film.", 0)], "token", share=1.0)
        >>> without(found, [*found.marked, *found.decoys]).text
        'A dull film.'
    """
    text = example.text
    for start, end in sorted(spans, reverse=True):
        text = text[:start] + text[end:]
    return replace(example, text=" ".join(text.split()), marked=(), decoys=())


def _token(draw: random.Random) -> Shortcut:
    label = draw.randrange(2)
    return [WORDS[label]], label


def _context(draw: random.Random) -> Shortcut:
    label = draw.randrange(2)
    if draw.random() < 0.5:
        return [WORDS[label]], None
    return draw.sample([WORDS[label], CONTEXT], 2), label


def _pair(draw: random.Random) -> Shortcut:
    label = draw.randrange(2)
    return [WORDS[label], WORDS[1 - label]], label


SHORTCUTS: Mapping[str, Callable[[random.Random], Shortcut]] = {
    "token": _token,
    "context": _context,
    "pair": _pair,
}
"""The kinds of shortcut by name."""


def _drawn(kind: str, share: float, draw: random.Random) -> Shortcut:
    return SHORTCUTS[kind](draw) if draw.random() < share else ([], None)


def _with_words(example: Example, words: list[str], label: int | None, draw: random.Random) -> Example:
    pieces = [(word, "") for word in example.text.split()]
    held = {*WORDS, CONTEXT, *DECOYS}.intersection(re.findall(r"\w+", example.text.lower()))
    if held:
        raise ValueError(f"text {example.number} already contains {', '.join(sorted(held))}, a planted word")
    planted = [(word, "" if label is None else "marked") for word in words]
    planted.insert(draw.randint(0, len(planted)), (draw.choice(DECOYS), "decoys"))
    places = sorted(draw.randint(0, len(pieces)) for _ in planted)
    # Insert from the end, so that earlier positions stay valid and the planted words keep their order.
    for place, piece in reversed(list(zip(places, planted, strict=True))):
        pieces.insert(place, piece)
    spans: dict[str, list[Span]] = {"marked": [], "decoys": []}
    at = 0
    for word, role in pieces:
        if role:
            spans[role].append((at, at + len(word)))
        at += len(word) + 1
    return replace(
        example,
        text=" ".join(word for word, _ in pieces),
        label=example.label if label is None else label,
        marked=tuple(spans["marked"]),
        decoys=tuple(spans["decoys"]),
    )
