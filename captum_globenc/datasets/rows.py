"""Rows of a data set: their new columns, their errors, and batches of rows of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from captum_globenc.errors import UnsupportedModelError
from captum_globenc.results.words import Word

__all__ = ["Done", "Values", "in_batches", "mistake", "new_columns", "one_by_one", "word_indices"]

T = TypeVar("T")
R = TypeVar("R")

Values = dict[str, Any]
"""The new values of a row by column, or its `error` alone."""

Done = Callable[[float], None]
"""Function of the number of rows finished since its last call, which may be fractional."""

FATAL = (
    torch.OutOfMemoryError,
    getattr(torch, "AcceleratorError", torch.OutOfMemoryError),
    UnsupportedModelError,
)
"""Errors of the device or the model, which do not depend on the row."""


def new_columns(generates: bool) -> tuple[str, ...]:
    """Return the names of the columns before the scores; `generates` is whether the model generates text."""
    outputs = ("answer_ids", "answer_tokens", "log_probabilities") if generates else ("logits",)
    tokens = ("input_ids", "tokens", "offsets", "segments", "word_ids", "words")
    return (*tokens, "prediction", "explained", *outputs, "windows", "truncated")


def mistake(text: Any, what: str) -> str:
    """Return the reason why a value is not a valid text; "" if it is."""
    if text is None:
        return f"the {what} is missing"
    if not isinstance(text, str):
        return f"the {what} is a {type(text).__name__}, not a string"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the {what} is not valid UTF-8"
    return ""


def word_indices(words: Sequence[Word], count: int) -> list[int | None]:
    """Return the index of each token's word, for `count` tokens; None for tokens of no word."""
    found: list[int | None] = [None] * count
    for number, word in enumerate(words):
        for token in word.tokens:
            found[token] = number
    return found


def in_batches(lengths: Mapping[T, int], tokens: int) -> Iterator[list[T]]:
    """Yield batches, the longest items first, so that running out of memory shows at once.

    Args:
        lengths: the number of tokens of each item.
        tokens: maximum number of tokens of a batch, padding included; a longer item is a batch of its own.

    Example:
        >>> list(in_batches({"a": 2, "b": 5, "c": 3}, 6))
        [['b'], ['c', 'a']]
    """
    batch: list[T] = []
    for item in sorted(lengths, key=lambda it: -lengths[it]):
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


def one_by_one(
    items: Sequence[T], run: Callable[[Sequence[T]], Sequence[R]], fail: Callable[[T, str], None]
) -> dict[T, R]:
    """Run a batch; if it fails, run each item alone, and call `fail` with failing items and the reasons."""
    if not items:
        return {}
    try:
        return dict(zip(items, run(items), strict=True))
    except FATAL:
        raise
    except (ValueError, RuntimeError, IndexError) as error:
        if len(items) > 1:
            return {it: made for item in items for it, made in one_by_one([item], run, fail).items()}
        fail(items[0], " ".join(str(error).split()) or type(error).__name__)
        return {}
