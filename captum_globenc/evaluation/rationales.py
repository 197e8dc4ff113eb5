"""Marked spans of a text, in characters and in tokens."""

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding

Span = tuple[int, int]
"""Start and end of a span of characters; the end is exclusive."""


def check_spans(spans: Sequence[Span], text: str) -> None:
    """Check that spans are inside a text.

    Raises:
        ValueError: a span is empty or outside the text.
    """
    for start, end in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"({start}, {end}) marks no stretch of a text of {len(text)} characters")


def read_spans(value: Any) -> tuple[Span, ...]:
    """Parse the spans of a text: a list of pairs of integers, or such a list as JSON.

    Args:
        value: the value in the file; None or "" means no spans.

    Raises:
        ValueError: the value is not a list of spans.

    Example:
        >>> read_spans("[[2, 11]]"), read_spans([[0, 3], [4, 7]]), read_spans(None)
        (((2, 11),), ((0, 3), (4, 7)), ())
    """
    try:
        found = json.loads(value or "[]") if isinstance(value, str | None) else value
        spans = [(start, end) for start, end in found]
        if all(type(end) is int for span in spans for end in span):
            return tuple(spans)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{value!r} is no list of spans such as [[0, 4], [9, 12]]")


def marked_tokens(encoded: BatchEncoding, spans: Sequence[Sequence[Span]]) -> Tensor:
    """Return a mask of the tokens that contain a character of a span.

    Args:
        encoded: the output of a fast tokenizer for B texts, with tensors `(B, N)`.
        spans: the spans of each text. Spans in a truncated part are ignored.

    Returns:
        `(B, N)`, True at the marked tokens.

    Raises:
        ValueError: there are spans, and the tokenizer is not a fast one, which gives character offsets.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> _, tokenizer = load_default()
        >>> marked_tokens(tokenizer(["a dull film"], return_tensors="pt"), [[(2, 6)]]).int()
        tensor([[0, 0, 1, 0, 0]], dtype=torch.int32)
    """
    found = torch.zeros_like(encoded["input_ids"], dtype=torch.bool)
    if any(spans) and not encoded.is_fast:
        raise ValueError(
            "this tokenizer does not tell where its tokens lie in the text: marks need a fast one"
        )
    for row, of_text in enumerate(spans):
        for start, end in of_text:
            for character in range(start, end):
                token = encoded.char_to_token(row, character, sequence_index=0)
                if token is not None:
                    found[row, token] = True
    return found
