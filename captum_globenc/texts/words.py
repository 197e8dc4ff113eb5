"""Words from tokens: which tokens make up a word, what it reads, and what it scores.

A word is what the tokenizer itself cuts a text into before it looks up pieces: its word ids. A
BERT tokenizer takes punctuation for words of their own; words given one by one
(``is_split_into_words=True``) stay the words they were given as. In scripts without spaces between
words (Chinese, Japanese, Thai, ...) each piece is a word.

Shapes: B texts, N tokens with padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

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
    from transformers import PreTrainedTokenizerBase

__all__ = ["REDUCTIONS", "Word", "find_words", "merge_scores"]

Source = str | Sequence[str]
"""A text, or the words of one that the caller cut: what a tokenizer takes."""


def find_words(
    batch: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Source] | None = None,
    pairs: Sequence[Source] | None = None,
) -> list[list[Word]]:
    """Find the words of each text: every token but padding belongs to exactly one of them.

    The tokenizer's word ids say which tokens belong together. Where it has none (a tokenizer written
    in Python, a batch that was padded later) or never looks for white space (a sentencepiece model
    over whole sentences), the marks in its tokens do: "##", "@@", "</w>", and the "Ġ" and "▁" that
    stand for a space. A token that is nothing but white space belongs to the word that follows it.

    Args:
        batch: What the tokenizer returned: ``input_ids`` (B, N) and, where there is padding,
            ``attention_mask`` (B, N).
        tokenizer: The tokenizer that made ``batch``.
        texts: The B texts that the tokenizer was given, so that words read as they are spelt there and
            nothing is [UNK]: strings, or lists of words with ``is_split_into_words=True``.
        pairs: The B second segments, likewise.

    Returns:
        The words of each of the B texts, special tokens among them, in order.

    Raises:
        ValueError: There are not as many texts, or pairs, as rows in the batch.

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
    begins = cache(lambda: word_start_rule(tokenizer))  # reads the whole vocabulary: once, if at all
    found = []
    for number, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        sources = [given[number] for given in (texts, pairs) if given is not None]
        encoding = encodings[number]
        if encoding is not None and len(encoding.ids) != len(row):  # padded since then
            encoding = None
        text = _Row(tokenizer, begins, row, encoding, sources)
        found.append(text.words([index for index, real in enumerate(mask) if real]))
    return found


class _Place(NamedTuple):
    """What the tokens of one word have in common: where it is. Special tokens have none."""

    segment: int
    word: int


class _Row:
    """The tokens of one row of a batch, and where in the texts they stand.

    Args:
        tokenizer: The tokenizer that made the batch.
        begins: Returns its `beginnings`.
        row: N ids.
        encoding: What the tokenizers library says of them, if it does.
        sources: The text and the pair, as far as they are known.
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
        self._offsets = () if encoding is None else encoding.offsets  # which are made anew when asked for
        self._sources = sources
        self._given = any(not isinstance(source, str) for source in sources)
        self._places = self._by_word_ids() if encoding is not None else self._by_words_given()

    def words(self, kept: Sequence[int]) -> list[Word]:
        """Gather the tokens at these places that share a word; each special token is one of its own."""
        runs = [
            list(run)
            for _, run in groupby(
                kept, key=lambda index: (index, None) if self._places[index] is None else self._places[index]
            )
        ]
        words: list[Word] = []
        space: list[int] = []
        for run in runs:
            special = self._places[run[0]] is None
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
        """Return what the tokens of a word read."""
        place = self._places[run[0]]
        source = self._sources[place.segment] if place and place.segment < len(self._sources) else None
        if place is not None and source is not None:
            if not isinstance(source, str):
                if place.word >= len(source):
                    raise ValueError(f"the batch holds more words than the {len(source)} of a text")
                return str(source[place.word])
            if self._encoding is not None:
                offsets = [self._offsets[index] for index in run]
                return source[min(offsets)[0] : max(end for _, end in offsets)].strip() or BLANK
        text = self._read(run) or BLANK
        return text.replace(" ", "") if place is not None and self._given else text

    def _by_word_ids(self) -> list[_Place | None]:
        places = [
            None if segment is None or word is None else _Place(segment, word)
            for segment, word in zip(self._encoding.sequence_ids, self._encoding.word_ids, strict=True)
        ]
        # Offsets count from the beginning of each word that was given, otherwise from the text's. All of
        # (0, 1) tell nothing: one character may make several words, as ⑴ does.
        spans: dict[_Place, tuple[int, int]] = {}
        for place, span in zip(places, self._encoding.offsets, strict=True):
            if place is not None:
                spans.setdefault(place, span)
        restarts = (
            len(spans) > len({place.segment for place in spans})
            and not any(start for start, _ in spans.values())
            and any(end > 1 for _, end in spans.values())
        )
        if restarts and any(isinstance(source, str) for source in self._sources):
            raise ValueError(
                "the batch was made of words (is_split_into_words): pass lists of words as texts"
            )
        self._given = self._given or restarts
        if self._given:
            return places
        return self._cut(places, by_marks=not splits_at_spaces(self._tokenizer))

    def _by_words_given(self) -> list[_Place | None]:
        """Find the words of tokens that nothing but themselves is known of, and maybe what was given."""
        special, unknown = set(self._tokenizer.all_special_ids), self._tokenizer.unk_token_id
        inside = [
            position for position, index in enumerate(self._ids) if index not in special or index == unknown
        ]
        places: list[_Place | None] = [None] * len(self._ids)
        if self._given:
            cut = [
                (_Place(segment, number), self._tokenizer.convert_tokens_to_ids(token))
                for segment, source in enumerate(self._sources)
                for number, word in enumerate([source] if isinstance(source, str) else source)
                for token in self._tokenizer.tokenize(word)
            ]
            self._given = [self._ids[position] for position in inside] == [index for _, index in cut]
        if self._given:
            for position, (place, _) in zip(inside, cut, strict=True):
                places[position] = place
            return places
        self._sources = ()
        for position in inside:
            places[position] = _Place(0, 0)
        return self._cut(places, by_marks=True)

    def _cut(self, places: Sequence[_Place | None], *, by_marks: bool) -> list[_Place | None]:
        """Cut words in scripts without spaces, and whole texts by the marks of their tokens."""
        begins = self._begins() if by_marks else None
        fresh = [
            index == 0
            or places[index - 1] != place
            or (begins is not None and begins(self._tokens[index - 1], self._tokens[index]))
            for index, place in enumerate(places)
        ]
        runs: list[list[int]] = []
        for index in range(len(places)):
            # A character may be cut into up to four tokens, of a byte each.
            if fresh[index] or len(runs[-1]) == 4 or not self._read(runs[-1]).endswith(CUT_CHARACTER):
                runs.append([])
            runs[-1].append(index)
        for before, after in pairwise(runs):
            fresh[after[0]] |= splits_unspaced(self._read(before), self._read(after))
        numbers = accumulate(map(int, fresh))
        return [
            place and _Place(place.segment, number) for place, number in zip(places, numbers, strict=True)
        ]

    def _read(self, run: Sequence[int]) -> str:
        return read([self._tokens[index] for index in run], self._tokenizer).strip(BLANK)
