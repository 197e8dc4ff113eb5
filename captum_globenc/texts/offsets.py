"""Character offsets of tokens, and the positions of unknown tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import BatchEncoding

from captum_globenc.results.record import Span
from captum_globenc.results.words import Word

__all__ = ["find_offsets", "find_unknown"]


def find_offsets(batch: BatchEncoding, index: int) -> list[Span | None]:
    """Return the character offsets of the tokens of a text, without padding.

    Args:
        batch: The tokenizer's output, padded on the right.
        index: The index of the text.

    Returns:
        The span of each token, None for special tokens; empty if the tokenizer has no offsets.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> find_offsets(tokenizer(["Not bad"]), 0)[1:3]
        [Span(start=0, stop=3, segment=0), Span(start=4, stop=7, segment=0)]
    """
    if not batch.encodings:
        return []
    encoding = batch.encodings[index]
    tokens = zip(encoding.offsets, encoding.sequence_ids, encoding.attention_mask, strict=True)
    return [
        None if segment is None or start == stop else Span(start, stop, segment)
        for (start, stop), segment, real in tokens
        if real
    ]


def find_unknown(ids: Sequence[int], words: Iterable[Word], unknown: int | None) -> list[int]:
    """Return the positions of unknown tokens ([UNK]) in a text.

    Args:
        ids: The N ids of the text.
        words: The words of the text, which mark special tokens.
        unknown: The id of the unknown token, if there is one.

    Example:
        >>> words = [Word("[CLS]", (0,), True), Word("\U0001f600", (1,), False)]
        >>> find_unknown([101, 100], words, 100)
        [1]
    """
    regular = [token for word in words if not word.special for token in word.tokens]
    return [token for token in regular if ids[token] == unknown]
