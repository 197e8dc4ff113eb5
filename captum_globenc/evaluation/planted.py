"""Planted shortcuts: texts in which words that were put there decide the label, and others do nothing.

Bastings et al. (2022), "Will You Find These Shortcuts?", section 3: a model that is trained on such texts
relies on the shortcut, which can be verified; so what a method has to find is known.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.marks import Span

WORDS = ("copper", "harbor")
"""The words that decide: rare, one token each for BERT, and in none of the shipped sentences; as are the
others."""

CONTEXT = "quartz"
DECOYS = ("walnut", "lantern")

Shortcut = tuple[list[str], int | None]
"""Words in the order in which they are put into a text, and the label that they make, None for none."""


def plant(examples: Sequence[Example], kind: str, *, share: float = 0.5, seed: int = 0) -> list[Example]:
    """Put words that decide the label into a share of texts, and a decoy without effect into every one.

    The label becomes 0 or 1, each as likely, whatever the text says:

    - "token": by which of two rare words is there;
    - "context": by the same, but only where a third word stands somewhere, too; half of the texts get one
      of the two words without the third, which makes nothing, and keep their label;
    - "pair": by the order of the two words.

    Words are put between the words of the text at random. The decoy is one of two other rare words, drawn
    without regard to anything. A run of white space becomes one space.

    Args:
        examples: texts of two classes, without second segments.
        kind: which shortcut, a key of :data:`SHORTCUTS`.
        share: of the texts that get its words.
        seed: of what is drawn; the same seed draws the same.

    Returns:
        The texts in their order; where the label was made, the words that made it are `marked`. `decoys`
        holds the decoy.

    Raises:
        ValueError: the kind is not known, `share` is not from 0 to 1, or a text holds one of the words.

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
        raise ValueError(f"share is {share}; it has to be from 0 to 1")
    draw = random.Random(f"{kind} {seed}")
    return [_with_words(it, *_drawn(kind, share, draw), draw) for it in examples]


def without(example: Example, spans: Sequence[Span]) -> Example:
    """Cut words out of a text that were planted in it; its label stays.

    Args:
        example: the text.
        spans: where they stand: its `marked`, its `decoys`, or both.

    Returns:
        The text without them, nothing marked.

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
        raise ValueError(f"text {example.number} holds {', '.join(sorted(held))}, which is to be planted")
    planted = [(word, "" if label is None else "marked") for word in words]
    planted.insert(draw.randint(0, len(planted)), (draw.choice(DECOYS), "decoys"))
    places = sorted(draw.randint(0, len(pieces)) for _ in planted)
    # From the back: the places ahead stay what they are, and the planted words keep their order.
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
