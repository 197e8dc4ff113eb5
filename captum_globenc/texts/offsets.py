"""Tokens of texts: where they stand, and which of them stand for what the vocabulary has not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from transformers import BatchEncoding

from captum_globenc.results.record import Span
from captum_globenc.results.words import Word

__all__ = ["find_offsets", "find_unknown"]


def find_offsets(batch: BatchEncoding, index: int) -> list[Span | None]:
    """Return where the tokens of a text stand, padding left out.

    Args:
        batch: What the tokenizer returned, padded on the right.
        index: The number of the text.

    Returns:
        A span of each token, None of a special one; nothing where the tokenizer does not tell.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> find_offsets(tokenizer(["Not bad"]), 0)[1:3]
        [Span(start=0, stop=3, segment=0), Span(start=4, stop=7, segment=0)]
    """
    if not batch.encodings:
        return []
    encoding = batch.encodings[index]
    told = zip(encoding.offsets, encoding.sequence_ids, encoding.attention_mask, strict=True)
    return [
        None if segment is None or start == stop else Span(start, stop, segment)
        for (start, stop), segment, real in told
        if real
    ]


def find_unknown(ids: Sequence[int], words: Iterable[Word], unknown: int | None) -> list[int]:
    """Return which tokens of a text stand for what the vocabulary has not, such as [UNK].

    Args:
        ids: The N ids of the text.
        words: Its words, which tell special tokens apart.
        unknown: The id that stands for it, if there is one.

    Example:
        >>> words = [Word("[CLS]", (0,), True), Word("\U0001f600", (1,), False)]
        >>> find_unknown([101, 100], words, 100)
        [1]
    """
    read = [token for word in words if not word.special for token in word.tokens]
    return [token for token in read if ids[token] == unknown]
