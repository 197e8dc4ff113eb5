"""Words from tokens: which tokens make up a word, what it reads, and what it scores.

A word is what the tokenizer itself cuts a text into before it looks up pieces: its word ids. A
BERT tokenizer takes punctuation for words of their own; words given one by one
(``is_split_into_words=True``) stay the words they were given as.

Shapes: B texts, N tokens with padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["REDUCTIONS", "Word", "find_words", "merge_scores", "readable_tokens"]

BLANK = "\N{OPEN BOX}"
"""Shown for a token that is nothing but white space."""

REDUCTIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda scores: math.fsum(scores) / len(scores),
    "max": lambda scores: max(scores, key=abs),
}
"""How the scores of a word's tokens become one; "max" is the largest magnitude, with its sign."""


class Word(NamedTuple):
    """A word of a text, or a special token.

    Attributes:
        text: What it reads, as far as its tokens tell: an uncased tokenizer's words have no capitals.
        tokens: The positions of its tokens in the padded row of N, in order.
        special: Whether the tokenizer put it there: [CLS], [SEP], but no padding, which is no word.
    """

    text: str
    tokens: tuple[int, ...]
    special: bool


def find_words(batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[list[Word]]:
    """Find the words of each text: every token but padding belongs to exactly one of them.

    The tokenizer's word ids say which tokens belong together. Where it has none (a tokenizer written
    in Python, a batch that was padded later) or never looks for white space (a sentencepiece model
    over whole sentences), the marks in its tokens do: "##", "</w>", and the "Ġ" and "▁" that stand for
    a space. A token that is nothing but white space belongs to the word that follows it.

    Args:
        batch: What the tokenizer returned: ``input_ids`` (B, N) and, where there is padding,
            ``attention_mask`` (B, N).
        tokenizer: The tokenizer that made ``batch``.

    Returns:
        The words of each of the B texts, special tokens among them, in order.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> (words,) = find_words(tokenizer(["Unfathomably good"], return_tensors="pt"), tokenizer)
        >>> [(word.text, word.tokens) for word in words]
        [('[CLS]', (0,)), ('unfathomably', (1, 2, 3, 4)), ('good', (5,)), ('[SEP]', (6,))]
    """
    rows = [[int(index) for index in row] for row in batch["input_ids"]]
    masks = batch.get("attention_mask", [[1] * len(row) for row in rows])
    return [
        _words_of(_places(batch, number, row, tokenizer), row, [bool(real) for real in mask], tokenizer)
        for number, (row, mask) in enumerate(zip(rows, masks, strict=True))
    ]


def merge_scores(scores: Sequence[float], words: Iterable[Word], reduce: str = "sum") -> list[float]:
    """Score words by their tokens; sums add up to what the tokens add up to.

    Args:
        scores: N scores of tokens.
        words: The words of the same text.
        reduce: One of `REDUCTIONS`: "sum", "mean" or "max".

    Returns:
        One score a word.

    Raises:
        ValueError: ``reduce`` is not known.

    Example:
        >>> words = [Word("unhappy", (0, 1), False), Word(".", (2,), False)]
        >>> merge_scores([0.5, -0.75, 0.25], words), merge_scores([0.5, -0.75, 0.25], words, "max")
        ([-0.25, 0.25], [-0.75, 0.25])
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"no way {reduce!r} to score a word; known: {', '.join(REDUCTIONS)}")
    return [float(REDUCTIONS[reduce]([scores[token] for token in word.tokens])) for word in words]


def readable_tokens(tokens: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Write tokens as a reader would: no "##", "Ġ" or "▁", letters instead of byte codes.

    Args:
        tokens: Tokens as the tokenizer's vocabulary writes them.
        tokenizer: Their tokenizer.

    Returns:
        One text a token. White space alone is shown as "␣", a part of a character as "�".

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> readable_tokens(["[CLS]", "fun", "##nie", "##st"], tokenizer)
        ['[CLS]', 'fun', 'nie', 'st']
    """
    return [_read([token], tokenizer) for token in tokens]


# What a token is known by: the text that it belongs to and its word there; None for special tokens.
_Place = tuple[int, int] | None


def _places(
    batch: Mapping[str, Any], number: int, row: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> list[_Place]:
    """Return the place of each token of a row, N of them."""
    encodings = getattr(batch, "encodings", None)
    if encodings and len(encodings[number].ids) == len(row):
        encoding = encodings[number]
        places = [
            None if text is None or word is None else (text, word)
            for text, word in zip(encoding.sequence_ids, encoding.word_ids, strict=True)
        ]
        if _looks_for_spaces(tokenizer):
            return places
    else:
        special = set(tokenizer.all_special_ids)
        unknown = tokenizer.unk_token_id
        places = [None if index in special and index != unknown else (0, 0) for index in row]
    begins = _beginnings(tokenizer)
    tokens = _names(row, tokenizer)
    found: list[_Place] = []
    count = 0
    for index, place in enumerate(places):
        previous = tokens[index - 1] if index and places[index - 1] == place else None
        count += previous is None or begins(previous, tokens[index])
        found.append(None if place is None else (place[0], count))
    return found


def _looks_for_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer cuts texts at spaces, so that its word ids tell words apart."""
    before = tokenizer.backend_tokenizer.pre_tokenizer
    return before is not None and len(before.pre_tokenize_str("a b")) > 1


def _beginnings(tokenizer: PreTrainedTokenizerBase) -> Callable[[str, str], bool]:
    """Return what tells, of a token and the one before it, whether a word begins; by the vocabulary."""
    vocabulary = tokenizer.get_vocab()
    # In this order: a multilingual WordPiece vocabulary has the letter Ġ, too.
    if any(token.startswith("##") and token[2:].isalnum() for token in vocabulary):
        return lambda _, token: not token.startswith("##")
    if any(token.endswith("</w>") for token in vocabulary):
        ends = ("</w>", tokenizer.unk_token or "</w>")
        return lambda previous, _: previous.endswith(ends)
    if any(token.startswith(("\u2581", "\u0120")) for token in vocabulary):
        return lambda _, token: token.startswith(("\u2581", "\u0120"))
    return lambda _previous, _token: True


def _words_of(
    places: Sequence[_Place], row: Sequence[int], real: Sequence[bool], tokenizer: PreTrainedTokenizerBase
) -> list[Word]:
    """Gather the tokens of a row that share a place; each special token is a word of its own."""
    tokens = _names(row, tokenizer)
    kept = [index for index, keep in enumerate(real) if keep]
    runs = [
        list(run)
        for _, run in groupby(
            kept, key=lambda index: (index, None) if places[index] is None else places[index]
        )
    ]
    words: list[Word] = []
    space: list[int] = []
    for run in runs:
        special = places[run[0]] is None
        text = _read([tokens[index] for index in run], tokenizer)
        if special and space:
            words.append(Word(BLANK, tuple(space), False))
            space = []
        if text == BLANK and not special:
            space += run
            continue
        words.append(Word(text, (*space, *run), special))
        space = []
    if space:
        words.append(Word(BLANK, tuple(space), False))
    return words


def _names(row: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(list(row))]


def _read(tokens: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decode tokens by the tokenizer's own rules, which treat those inside a text and its first unlike.

    So another one is put ahead of them, and taken away from the result.
    """
    ahead = "a"
    text: str = tokenizer.convert_tokens_to_string([ahead, *tokens])
    if not text.startswith(ahead):
        return tokenizer.convert_tokens_to_string(list(tokens)).strip() or BLANK
    return text.removeprefix(ahead).replace("</w>", " ").strip() or BLANK
