"""Merge tokens into words: find the tokens of each word, its text, its score, and the offsets of tokens.

Words follow the tokenizer's word ids, so punctuation marks are words of their own in BERT tokenizers. Words
passed with ``is_split_into_words=True`` are kept. In scripts without spaces between words (Chinese, Japanese,
Thai, ...) each piece is a word.

Shapes: B texts, N tokens with padding, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from captum_globenc.results.record import Span
from captum_globenc.results.words import REDUCTIONS, Word, merge_scores
from captum_globenc.texts.pieces import (
    BLANK,
    CUT_CHARACTER,
    names,
    read,
    splits_at_spaces,
    splits_unspaced,
    word_start_rule,
)

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedTokenizerBase

__all__ = ["REDUCTIONS", "Word", "find_offsets", "find_unknown", "find_words", "merge_scores", "token_scores"]

Source = str | Sequence[str]
"""A text, or the list of its words for ``is_split_into_words=True``."""


def find_words(
    batch: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Source] | None = None,
    pairs: Sequence[Source] | None = None,
) -> list[list[Word]]:
    """Find the words of each text; every token except padding belongs to exactly one word.

    Tokens are grouped by the tokenizer's word ids. If there are none (a slow tokenizer, a batch that was
    padded later), or if the tokenizer does not split at spaces (a SentencePiece model over sentences), they
    are grouped by the marks "##", "@@", "</w>", "Ġ" and "▁". A token of white space belongs to the next word.

    Args:
        batch: The tokenizer's output: ``input_ids`` (B, N) and, if there is padding, ``attention_mask``
            (B, N).
        tokenizer: The tokenizer of ``batch``.
        texts: The B tokenized texts, for the spelling of words, also of [UNK]: strings, or lists of words
            with ``is_split_into_words=True``.
        pairs: The B second segments, strings or lists of words.

    Returns:
        The words of each text in order, including special tokens.

    Raises:
        ValueError: The numbers of texts or pairs and rows in the batch differ.

    Example:
        >>> from captum_globenc.texts.default import load_default
        >>> _, tokenizer = load_default()
        >>> texts = ["Unfathomably good"]
        >>> (words,) = find_words(tokenizer(texts, return_tensors="pt"), tokenizer, texts)
        >>> [(word.text, word.tokens) for word in words]
        [('[CLS]', (0,)), ('Unfathomably', (1, 2, 3, 4)), ('good', (5,)), ('[SEP]', (6,))]
    """
    rows = [[int(index) for index in row] for row in batch["input_ids"]]
    masks = batch.get("attention_mask", [[1] * len(row) for row in rows])
    for name, given in (("texts", texts), ("pairs", pairs)):
        if given is not None and (isinstance(given, str) or len(given) != len(rows)):
            count = "one string" if isinstance(given, str) else f"{len(given)}"
            raise ValueError(f"{name}: {count} for a batch of {len(rows)} rows; one for each is needed")
    encodings = getattr(batch, "encodings", None) or [None] * len(rows)
    begins = cache(lambda: word_start_rule(tokenizer))  # reads the vocabulary, so only once and if needed
    found = []
    for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        sources = [given[number] for given in (texts, pairs) if given is not None]
        encoding = encodings[number]
        if encoding is not None and len(encoding.ids) != len(row):  # padded later
            encoding = None
        text = _Row(tokenizer, begins, row, encoding, sources)
        found.append(text.words([index for index, real in enumerate(mask) if real]))
    return found


class _WordKey(NamedTuple):
    """The segment and the index of a word, which its tokens share; special tokens have none."""

    segment: int
    word: int


class _Row:
    """The tokens of one row of a batch, grouped into words.

    Args:
        tokenizer: The tokenizer of the batch.
        begins: Returns the tokenizer's `word_start_rule`.
        row: N ids.
        encoding: The row's `tokenizers.Encoding`, or None.
        sources: The text and the pair, if they are known.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        begins: Callable[[], Callable[[str, str], bool]],
        row: Sequence[int],
        encoding: Any,
        sources: Sequence[Source],
    ) -> None:
        self._tokenizer = tokenizer
        self._begins = begins
        self._ids = list(row)
        self._tokens = names(row, tokenizer)
        self._encoding = encoding
        self._offsets = () if encoding is None else encoding.offsets  # each access computes them
        self._sources = sources
        self._pre_split = any(not isinstance(source, str) for source in sources)
        self._keys = self._by_word_ids() if encoding is not None else self._without_word_ids()

    def words(self, kept: Sequence[int]) -> list[Word]:
        """Group the tokens at these positions into words; each special token is a word."""
        runs = [
            list(run)
            for _, run in groupby(
                kept, key=lambda index: (index, None) if self._keys[index] is None else self._keys[index]
            )
        ]
        words: list[Word] = []
        space: list[int] = []
        for run in runs:
            special = self._keys[run[0]] is None
            text = self._text(run)
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

    def _text(self, run: Sequence[int]) -> str:
        """Return the text of a word."""
        key = self._keys[run[0]]
        source = self._sources[key.segment] if key and key.segment < len(self._sources) else None
        if key is not None and source is not None:
            if not isinstance(source, str):
                if key.word >= len(source):
                    raise ValueError(f"the batch has more words than the {len(source)} words of a text")
                return str(source[key.word])
            if self._encoding is not None:
                offsets = [self._offsets[index] for index in run]
                return source[min(offsets)[0] : max(end for _, end in offsets)].strip() or BLANK
        text = self._read(run) or BLANK
        return text.replace(" ", "") if key is not None and self._pre_split else text

    def _by_word_ids(self) -> list[_WordKey | None]:
        keys = [
            None if segment is None or word is None else _WordKey(segment, word)
            for segment, word in zip(self._encoding.sequence_ids, self._encoding.word_ids, strict=True)
        ]
        # For pre-split words, offsets restart at each word. Offsets that are all (0, 1) prove nothing: one
        # character may be several words, as ⑴ is.
        spans: dict[_WordKey, tuple[int, int]] = {}
        for key, span in zip(keys, self._encoding.offsets, strict=True):
            if key is not None:
                spans.setdefault(key, span)
        restarts = (
            len(spans) > len({key.segment for key in spans})
            and not any(start for start, _ in spans.values())
            and any(end > 1 for _, end in spans.values())
        )
        if restarts and any(isinstance(source, str) for source in self._sources):
            raise ValueError(
                "the batch was made of words (is_split_into_words): pass lists of words as texts"
            )
        self._pre_split = self._pre_split or restarts
        if self._pre_split:
            return keys
        return self._split(keys, by_marks=not splits_at_spaces(self._tokenizer))

    def _without_word_ids(self) -> list[_WordKey | None]:
        """Find words without an encoding, from pre-split words if there are any, otherwise from marks."""
        special, unknown = set(self._tokenizer.all_special_ids), self._tokenizer.unk_token_id
        inside = [
            position for position, index in enumerate(self._ids) if index not in special or index == unknown
        ]
        keys: list[_WordKey | None] = [None] * len(self._ids)
        if self._pre_split:
            expected = [
                (_WordKey(segment, number), self._tokenizer.convert_tokens_to_ids(token))
                for segment, source in enumerate(self._sources)
                for number, word in enumerate([source] if isinstance(source, str) else source)
                for token in self._tokenizer.tokenize(word)
            ]
            self._pre_split = [self._ids[position] for position in inside] == [index for _, index in expected]
        if self._pre_split:
            for position, (key, _) in zip(inside, expected, strict=True):
                keys[position] = key
            return keys
        self._sources = ()
        for position in inside:
            keys[position] = _WordKey(0, 0)
        return self._split(keys, by_marks=True)

    def _split(self, keys: Sequence[_WordKey | None], *, by_marks: bool) -> list[_WordKey | None]:
        """Split words in scripts without spaces, and whole texts at the marks of their tokens."""
        begins = self._begins() if by_marks else None
        starts = [
            index == 0
            or keys[index - 1] != key
            or (begins is not None and begins(self._tokens[index - 1], self._tokens[index]))
            for index, key in enumerate(keys)
        ]
        runs: list[list[int]] = []
        for index in range(len(keys)):
            # A character may be up to four tokens of one byte each.
            if starts[index] or len(runs[-1]) == 4 or not self._read(runs[-1]).endswith(CUT_CHARACTER):
                runs.append([])
            runs[-1].append(index)
        for before, after in pairwise(runs):
            starts[after[0]] |= splits_unspaced(self._read(before), self._read(after))
        numbers = accumulate(map(int, starts))
        return [key and _WordKey(key.segment, number) for key, number in zip(keys, numbers, strict=True)]

    def _read(self, run: Sequence[int]) -> str:
        return read([self._tokens[index] for index in run], self._tokenizer).strip(BLANK)


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


def token_scores(
    batch: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    attributions: Tensor,
    *,
    words: str | None = None,
    special: bool = True,
    texts: Sequence[Source] | None = None,
    pairs: Sequence[Source] | None = None,
) -> tuple[list[list[str]], list[list[float]]]:
    """Pair the tokens or words of each text with their scores, without padding.

    Args:
        batch: The tokenizer's output with ``return_tensors="pt"``: ``input_ids`` (B, N) and, if there is
            padding, ``attention_mask`` (B, N).
        tokenizer: The tokenizer of ``batch``.
        attributions: Scores (B, N), or (B, N, D), which are summed over D.
        words: How scores of tokens are merged into scores of words: "sum", "mean" or "max" (see
            `captum_globenc.texts.merge_scores`). By default tokens are not merged.
        special: Whether to keep special tokens such as [CLS]; without them the scores lose their sum.
        texts: The B texts, for the spelling of words (see `captum_globenc.texts.find_words`).
        pairs: The B second segments, for the spelling of words.

    Returns:
        The tokens or words, and the scores, one list per text.

    Raises:
        ValueError: ``attributions``, ``texts`` or ``pairs`` do not fit the batch, scores are NaN or infinite,
            or ``words`` is unknown.
    """
    ids = batch["input_ids"]
    if attributions.dim() == 3:
        attributions = attributions.sum(-1)
    if attributions.shape != ids.shape:
        raise ValueError(
            f"attributions of shape {tuple(attributions.shape)} do not fit "
            f"input_ids of shape {tuple(ids.shape)}"
        )
    if not attributions.isfinite().all():
        raise ValueError("attributions contain NaN or infinity")
    tokens, scores = [], []
    for number, found in enumerate(find_words(batch, tokenizer, texts, pairs)):
        kept = [word for word in found if special or not word.special]
        row = attributions[number].tolist()
        if words is None:
            positions = [token for word in kept for token in word.tokens]
            tokens.append(list(tokenizer.convert_ids_to_tokens(ids[number][positions].tolist())))
            scores.append([row[position] for position in positions])
        else:
            tokens.append([word.text for word in kept])
            scores.append(merge_scores(row, kept, words))
    return tokens, scores
