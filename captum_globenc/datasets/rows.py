"""Tokenized rows of a data set: tokens, words, windows, and the error of each row.

Letters: N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.texts.tokenizing import token_limit
from captum_globenc.texts.windows import cut_windows, find_segments
from captum_globenc.texts.words import find_words

__all__ = ["Reader", "Text", "mistake", "new_columns"]


def new_columns(generates: bool) -> tuple[str, ...]:
    """Return the names of the columns of a row before its scores.

    Args:
        generates: whether the model generates text.
    """
    outputs = ("answer_ids", "answer_tokens", "log_probabilities") if generates else ("logits",)
    tokens = ("input_ids", "tokens", "offsets", "segments", "word_ids", "words")
    return (*tokens, "prediction", "explained", *outputs, "windows", "truncated")


@dataclass
class Text:
    """A tokenized text, or the reason why it cannot be explained.

    Attributes:
        ids: N token ids.
        types: N token type ids; None if the tokenizer has none.
        special: N numbers, 1 at special tokens such as [CLS], 0 at tokens of the text.
        tokens: N tokens as strings of the vocabulary.
        offsets: N pairs `[start, end]` of characters in the text or in the pair; None for slow tokenizers.
        segments: N numbers, 0 for tokens of the text, 1 for the pair, None for special tokens; None for slow
            tokenizers.
        word_ids: N indices into `words`, None for special tokens.
        words: the words, without special tokens.
        pieces: token positions of each forward pass: the whole text, or each of its windows.
        truncated: whether the text was truncated.
        error: the reason why the text cannot be explained; "" if it can.
    """

    ids: list[int] = field(default_factory=list)
    types: list[int] | None = None
    special: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    offsets: list[list[int]] | None = None
    segments: list[int | None] | None = None
    word_ids: list[int | None] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    pieces: list[list[int]] = field(default_factory=list)
    truncated: bool = False
    error: str = ""


class Reader:
    """Tokenize texts for a model, and find the errors of each.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        cut: whether texts over the model's limit are truncated; if False, they get an error.
        windows: number of tokens that neighboring windows share; if not None, texts over the limit are split
            into windows.
        position: a token index that must exist in every text; negative indices count from its end.

    Raises:
        ValueError: `windows` is not smaller than a window.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        cut: bool = True,
        windows: int | None = None,
        position: int | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._limit = token_limit(model, tokenizer)
        self._embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
        self._cut, self._windows, self._position = cut, windows, position
        if windows is not None and self._limit is not None:
            size = self._limit - int(tokenizer.num_special_tokens_to_add())
            if windows >= size:
                raise ValueError(
                    f"windows share {windows} tokens, and hold no more than {size} of a text: share fewer"
                )

    def __call__(self, texts: Sequence[Any], pairs: Sequence[Any] | None = None) -> list[Text]:
        """Tokenize texts.

        Args:
            texts: one value per row, of any type.
            pairs: the second segments, one per row; None or "" means no second segment.

        Returns:
            One `Text` per row. A bad value sets `Text.error` and raises nothing.
        """
        seconds = [None] * len(texts) if pairs is None else [None if pair == "" else pair for pair in pairs]
        found = [
            Text(error=mistake(text, "text") or ("" if pair is None else mistake(pair, "second segment")))
            for text, pair in zip(texts, seconds, strict=True)
        ]
        for paired in (False, True):
            rows = [
                row
                for row, pair in enumerate(seconds)
                if (pair is not None) == paired and not found[row].error
            ]
            first = [str(texts[row]) for row in rows]
            second = [str(seconds[row]) for row in rows] if paired else None
            for row, made in zip(rows, self._read(first, second), strict=True):
                found[row] = made
        return found

    def _read(self, texts: list[str], pairs: list[str] | None) -> list[Text]:
        if not texts:
            return []
        batch = self._tokenized(texts, pairs)
        lengths = [len(ids) for ids in batch["input_ids"]]
        long = [row for row, length in enumerate(lengths) if self._limit is not None and length > self._limit]
        made = self._texts(batch, texts, pairs)
        if long and self._windows is None:
            chosen = [texts[row] for row in long]
            others = None if pairs is None else [pairs[row] for row in long]
            if self._cut:
                shorter = self._texts(self._tokenized(chosen, others, self._limit), chosen, others)
            else:
                shorter = [
                    Text(error=f"the text has {lengths[row]} tokens, and the model takes {self._limit}")
                    for row in long
                ]
            for row, text in zip(long, shorter, strict=True):
                made[row] = text
                text.truncated = not text.error
        for row, text in enumerate(made):
            try:
                self._check(text)
                if row in long and self._windows is not None:
                    segments = find_segments(batch, row, paired=pairs is not None)
                    text.pieces = cut_windows(segments, self._limit or 0, self._windows)
                elif not text.error:
                    text.pieces = [list(range(len(text.ids)))]
            except ValueError as error:
                made[row] = Text(error=str(error))
        return made

    def _tokenized(self, texts: list[str], pairs: list[str] | None, limit: int | None = None) -> Any:
        return self._tokenizer(
            texts,
            pairs,
            truncation=limit is not None,
            max_length=limit,
            return_special_tokens_mask=True,
            verbose=False,
        )

    def _texts(self, batch: Mapping[str, Any], texts: list[str], pairs: list[str] | None) -> list[Text]:
        encodings = getattr(batch, "encodings", None)
        types = batch.get("token_type_ids")
        made = []
        for row, words in enumerate(find_words(batch, self._tokenizer, texts, pairs)):
            ids = list(batch["input_ids"][row])
            words = [word for word in words if not word.special]
            word_ids: list[int | None] = [None] * len(ids)
            for number, word in enumerate(words):
                for token in word.tokens:
                    word_ids[token] = number
            made.append(
                Text(
                    ids=ids,
                    types=None if types is None else list(types[row]),
                    special=list(batch["special_tokens_mask"][row]),
                    tokens=[str(token) for token in self._tokenizer.convert_ids_to_tokens(ids)],
                    offsets=None if encodings is None else [list(it) for it in encodings[row].offsets],
                    segments=None if encodings is None else list(encodings[row].sequence_ids),
                    word_ids=word_ids,
                    words=[word.text for word in words],
                )
            )
        return made

    def _check(self, text: Text) -> None:
        """Reject ids without an embedding in the model, and a position outside the text."""
        if text.error:
            return
        highest, count = max(text.ids, default=0), len(text.ids)
        if self._embeddings is not None and highest >= self._embeddings:
            raise ValueError(
                f"the tokenizer gives id {highest}, and the model has {self._embeddings} embeddings: they do "
                "not belong together, or the embeddings were not resized"
            )
        if not count:
            raise ValueError("the text has no tokens")
        if self._position is not None and not -count <= self._position < count:
            raise ValueError(f"position {self._position} is out of range: the text has {count} tokens")


def mistake(text: Any, what: str) -> str:
    """Return the reason why a value is not a valid text; "" if it is."""
    if text is None:
        return f"the {what} is missing"
    if not isinstance(text, str):
        return f"the {what} is of type {type(text).__name__}, and no text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the {what} is not valid UTF-8"
    return ""
