"""Tokenize texts: pad them, and truncate them at the model's limit or split them into windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.texts.windows import cut_windows, find_segments

__all__ = ["Encoded", "check_ids", "encode", "pad", "token_ids", "token_limit", "tokenize"]


@dataclass(frozen=True)
class Encoded:
    """B tokenized texts as R rows: one row per text, or one per window of a text.

    Attributes:
        whole: The B texts, padded on the right.
        windows: For each text, the positions in `whole` of the tokens of each of its rows.
        batch: The R rows by argument name of the model, padded on the right; rows of a text are adjacent.
        truncated: For each text, whether it is truncated.
    """

    whole: BatchEncoding
    windows: list[list[list[int]]]
    batch: Mapping[str, Tensor]
    truncated: list[bool]

    @cached_property
    def rows(self) -> list[list[int]]:
        """The indices of the rows of each text."""
        first, found = 0, []
        for windows in self.windows:
            found.append(list(range(first, first + len(windows))))
            first += len(windows)
        return found

    @cached_property
    def positions(self) -> list[list[int]]:
        """For each row, the positions of its tokens in the text."""
        return [positions for windows in self.windows for positions in windows]

    def text_of(self, row: int) -> int:
        """Return the index of a row's text."""
        return next(text for text, rows in enumerate(self.rows) if row in rows)

    def length(self, text: int) -> int:
        """Return the number of tokens of a text, in all its windows."""
        return int(self.whole["attention_mask"][text].sum())


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the largest number of tokens that a model takes; None if it is unlimited.

    The limit is the smallest of the tokenizer (1e30 if it was saved without one), the config, and the rows
    of position embeddings, which in models such as RoBERTa start after the row of padding.
    """
    configured = (
        getattr(model.config, "max_position_embeddings", None) or 0
    )  # -1 in XLNet, which has no limit
    rows = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
    ]
    limit = min([int(tokenizer.model_max_length), *rows, *([configured] if configured > 0 else [])])
    return limit if limit < 10**9 else None


def token_ids(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool = True
) -> list[list[int]]:
    """Return the ids of texts, without truncation; `special` is whether special tokens are added."""
    found: list[list[int]] = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    return found


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
    *,
    truncate: bool = True,
    special: bool = True,
) -> tuple[BatchEncoding, list[bool]]:
    """Tokenize texts without padding, each once unless it is truncated.

    Args:
        texts: B texts.
        pairs: The second segment of each text, or None.
        tokenizer: The tokenizer.
        limit: The largest number of tokens; None if it is unlimited.
        truncate: Whether to truncate texts above the limit.
        special: Whether the tokenizer adds special tokens.

    Returns:
        The tokenizer's output, as lists, and whether each text is above the limit.
    """

    def run(rows: Sequence[int], most: int | None) -> BatchEncoding:
        made: BatchEncoding = tokenizer(
            [texts[row] for row in rows],
            None if pairs is None else [pairs[row] for row in rows],
            add_special_tokens=special,
            truncation=most is not None,
            max_length=most,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        return made

    found = run(range(len(texts)), None)
    above = [limit is not None and len(ids) > limit for ids in found["input_ids"]]
    rows = [row for row, long in enumerate(above) if long and truncate]
    if rows:
        shorter = run(rows, limit)
        for number, row in enumerate(rows):
            for name, values in found.items():
                values[row] = shorter[name][number]
            if found.encodings and shorter.encodings:
                found.encodings[row] = shorter.encodings[number]
    return found, above


def check_ids(ids: Sequence[int], model: PreTrainedModel) -> None:
    """Check that a model has an embedding of each id.

    Raises:
        ValueError: It does not.
    """
    count, highest = getattr(model.get_input_embeddings(), "num_embeddings", None), max(ids, default=0)
    if count is not None and highest >= count:
        raise ValueError(
            f"token id {highest} is out of range for the {count} embeddings of the model: the tokenizer "
            "belongs to another model, or the embeddings were not resized"
        )


def pad(rows: Sequence[Mapping[str, Sequence[int]]], tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """Pad tokenized rows on the right.

    Args:
        rows: R rows of the tokenizer's output by name.
        tokenizer: The tokenizer.

    Returns:
        Tensors `(R, N)` by name.

    Raises:
        ValueError: Rows have different lengths, and the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None and len({len(row["input_ids"]) for row in rows}) > 1:
        raise ValueError("the tokenizer has no padding token: explain the texts one by one")
    blank = {
        "input_ids": tokenizer.pad_token_id or 0,
        "token_type_ids": tokenizer.pad_token_type_id or 0,
        "special_tokens_mask": 1,
    }
    return {
        name: nn.utils.rnn.pad_sequence(
            [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=blank.get(name, 0)
        )
        for name in rows[0]
    }


def encode(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: int | None = None,
    *,
    special: bool = True,
) -> Encoded:
    """Tokenize texts, pad them on the right, and truncate or split those above the model's limit.

    Args:
        texts: B texts.
        pairs: The second segment of each text, or None.
        model: The model that reads the texts.
        tokenizer: The model's tokenizer.
        windows: The number of tokens that neighboring windows share. The longer segment of texts above the
            limit is split into windows. By default such texts are truncated.
        special: Whether the tokenizer adds special tokens; a rendered chat has them already.

    Returns:
        The texts, on the model's device.

    Raises:
        ValueError: A text is not valid Unicode, has no tokens, or has ids without an embedding; only some
            texts have a pair; or the windows are too short to share so many tokens.
    """
    for text in (*texts, *(pair or "" for pair in pairs)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a text is not valid UTF-8") from None
    second = [pair for pair in pairs if pair is not None]
    if len(second) not in (0, len(texts)):
        raise ValueError(
            f"{len(second)} of {len(texts)} texts have a pair: explain them apart from the others"
        )
    limit = token_limit(model, tokenizer)
    found, above = tokenize(
        texts, second or None, tokenizer, limit, truncate=windows is None, special=special
    )
    for text, ids in zip(texts, found["input_ids"], strict=True):
        if not ids:
            raise ValueError(f"{shorten(text, 40)!r} has no tokens: there is nothing to explain")
    pieces = []
    for row, (ids, long) in enumerate(zip(found["input_ids"], above, strict=True)):
        check_ids(ids, model)
        pieces.append([list(range(len(ids)))])
        if long and windows is not None:
            pieces[row] = cut_windows(find_segments(found, row, paired=bool(second)), limit or 0, windows)
    rows = [{name: values[row] for name, values in found.items()} for row in range(len(texts))]
    whole = BatchEncoding(pad(rows, tokenizer), found.encodings).to(model.device)
    for encoding in found.encodings or ():
        encoding.pad(whole["input_ids"].shape[1])
    if windows is None or not any(above):
        return Encoded(whole, pieces, whole, above)
    cut = [
        {name: [values[position] for position in positions] for name, values in row.items()}
        for row, windows_of_row in zip(rows, pieces, strict=True)
        for positions in windows_of_row
    ]
    batch = BatchEncoding(pad(cut, tokenizer)).to(model.device)
    return Encoded(whole, pieces, batch, [False] * len(texts))
