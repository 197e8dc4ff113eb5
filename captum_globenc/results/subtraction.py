"""Subtract explanations: check the targets, align the tokens, and name the result.

N tokens, W words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from textwrap import shorten
from typing import Any, TypeVar

from captum_globenc.results.record import Kind, Record, Span
from captum_globenc.results.words import Word, score_spans

__all__ = ["subtract"]

AnyRecord = TypeVar("AnyRecord", bound=Record)

REST = "[special tokens]"
"""The name of all tokens without a place in the text, after alignment by words."""

ROUNDING = 1e-3
"""Relative tolerance for outputs of the same model and text, which differ slightly between batches."""


def subtract(one: AnyRecord, other: Record) -> AnyRecord:
    """Return `one` minus `other`, with the scores of all methods that both have.

    Explanations of the same tokens are subtracted token by token. Two tokenizations of the
    same text are aligned by words: neighboring words that overlap in the other tokenization become one, and
    all special tokens become one.

    Raises:
        ValueError: The explained outputs differ for different models or texts, the tokens cannot be aligned,
            or there is no common method.
    """
    both = [name for name in one.scores if one.kinds[name] == other.kinds.get(name)]
    if not both:
        raise ValueError(f"no method is in both: {', '.join(one.scores)} and {', '.join(other.scores)}")
    _check_targets(one, other, both)
    less = _operands(one, other)
    left, right = (one, other) if one.tokens == other.tokens else _aligned(one, other)
    kinds: dict[str, Kind] = {
        name: "difference" if one.kinds[name] in ("shares", "sizes") else one.kinds[name] for name in both
    }
    layers = {
        name: [_minus(*rows) for rows in zip(left.layers[name], right.layers[name], strict=True)]
        for name in both
        if len(left.layers.get(name, ())) == len(right.layers.get(name, ())) > 0
    }
    model = one.model
    if one.model != other.model:
        names = [it.model.get("name") or "" for it in (one, other)]
        classes = [*dict.fromkeys(it.model["class"] for it in (one, other) if it.model.get("class"))]
        model = {"name": " minus ".join(filter(None, names)), "class": " minus ".join(classes)}
    made: Mapping[str, Any] = {
        "scores": {name: _minus(left.scores[name], right.scores[name]) for name in both},
        "kinds": kinds,
        "layers": layers,
        "explained": one.explained - other.explained,
        "probabilities": one.probabilities if _same_prediction(one, other) else {},
        "outputs": {
            name: (target, value - other.outputs[name][1])
            for name, (target, value) in one.outputs.items()
            if name in other.outputs
        },
        "position": left.position if left.position == right.position else None,
        "truncated": one.truncated or other.truncated,
        "model": model,
        "less": less,
        "answer_scores": {},
    }
    return replace(left, **made)


def _check_targets(one: Record, other: Record, methods: Sequence[str]) -> None:
    """Check that signed scores explain the same output in the same unit, or one model and text."""
    signed = [name for name in methods if one.kinds[name] in ("signed", "contributions")]
    for name in signed:
        if one.units[name] != other.units[name]:
            raise ValueError(
                f"scores of {name} are in {one.units[name]} here and in {other.units[name]} there: one of "
                "the models is a regression"
            )
    alike = (one.subject, one.less) == (other.subject, other.less)
    if not signed or one.outputs or alike or _same_prediction(one, other):
        return
    subjects = [it.less or it.subject for it in (one, other)]
    common = next(
        (
            name
            for name, there in ((one.target, other), (other.target, one))
            if name in there.probabilities and one.against == other.against
        ),
        None,
    )
    how = f"explain both with target={common!r}" if common else "explain both with the same target="
    shares = [name for name in methods if name not in signed]
    alone = f", or subtract {', '.join(shares)} alone, with .by({shares[0]!r})" if shares else ""
    raise ValueError(
        f"these explain different outputs, {subjects[0]!r} and {subjects[1]!r}, of different models or "
        f"texts: {how}{alone}"
    )


def _same_prediction(one: Record, other: Record) -> bool:
    """Return whether both explain the same prediction, so that their targets are outputs of one run."""
    return (
        one.model == other.model
        and one.sources == other.sources
        and one.span == other.span
        and one.prediction == other.prediction
        and math.isclose(one.value, other.value, rel_tol=ROUNDING, abs_tol=ROUNDING)
    )


def _operands(one: Record, other: Record) -> str:
    """Return "A minus B", where A and B name the differences of the two explanations."""
    sides = []
    for it, its in ((one, other), (other, one)):
        names = [f"({it.less})"] if it.less else []
        if (it.subject != its.subject or its.less) and not it.less and not it.outputs:
            names.append(it.subject.strip())  # answers may start with a space
        if it.model != its.model:
            names.append(it.model.get("name") or it.model.get("class") or "another model")
        if it.sources != its.sources:
            own = [text for text in it.sources if text not in its.sources] or it.sources
            names.append(repr(shorten(" / ".join(own), 40)))
        if it.span != its.span:
            names.append(it.part)
        changed = [key for key, value in it.settings.items() if its.settings.get(key, value) != value]
        names += [f"{key}={it.settings[key]}" for key in changed]
        sides.append(", ".join(names))
    left, right = sides
    return f"{left} minus {right}" if left or right else "this minus another explanation"


def _aligned(one: AnyRecord, other: Record) -> tuple[AnyRecord, Record]:
    """Return both records with the same W words as tokens, and all special tokens as one last token."""
    texts = [repr(shorten(it.text, 40)) for it in (one, other)]
    if one.picture or other.picture:
        raise ValueError(
            f"{texts[0]} and {texts[1]} have different parts: explain with parts of the same size"
        )
    if one.sources != other.sources:
        raise ValueError(
            f"{texts[0]} and {texts[1]} have different tokens: only explanations of one text can be aligned"
        )
    if not (one.offsets and other.offsets):
        raise ValueError(
            f"the tokens of {texts[0]} differ and cannot be aligned by words: explain with fast tokenizers, "
            "which give character offsets"
        )
    words: list[Span] = []
    for span in sorted([*_word_spans(one), *_word_spans(other)], key=lambda it: (it.segment, it.start)):
        if words and words[-1].segment == span.segment and span.start < words[-1].stop:
            words[-1] = words[-1]._replace(stop=max(words[-1].stop, span.stop))
        else:
            words.append(span)
    return _by_words(one, words), _by_words(other, words)


def _word_spans(record: Record) -> list[Span]:
    """Return the character span of each word."""
    spans = []
    for word in record.groups:
        places = [place for token in word.tokens if (place := record.offsets[token]) is not None]
        if places:
            start, stop = min(place.start for place in places), max(place.stop for place in places)
            text = record.sources[places[0].segment][start:stop]
            if text.strip():  # some tokenizers include the space before a word
                start, stop = stop - len(text.lstrip()), start + len(text.rstrip())
            spans.append(Span(start, stop, places[0].segment))
    return spans


def _by_words(record: AnyRecord, words: Sequence[Span]) -> AnyRecord:
    """Return a record whose tokens are words and a rest of all other tokens; sums do not change."""

    def merged(row: Sequence[float]) -> list[float]:
        return [score for _, score in score_spans(record.sources, record.offsets, row, words)]

    tokens = [record.sources[word.segment][word.start : word.stop] for word in words]
    made: Mapping[str, Any] = {
        "scores": {name: merged(row) for name, row in record.scores.items()},
        "layers": {name: [merged(row) for row in rows] for name, rows in record.layers.items()},
        "tokens": [*tokens, REST],
        "groups": [Word(text, (index,), index == len(words)) for index, text in enumerate([*tokens, REST])],
        "offsets": [*words, None],
        "ids": [],
        "unknown": [],
        "position": None if isinstance(record.position, int) else record.position,
    }
    return replace(record, **made)


def _minus(row: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(row, other, strict=True)]
