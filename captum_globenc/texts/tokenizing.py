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

__all__ = ["Encoded", "encode", "token_ids", "token_limit"]


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
    configured = getattr(model.config, "max_position_embeddings", None)
    rows = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
    ]
    limit = min([int(tokenizer.model_max_length), *rows, *([configured] if configured else [])])
    return limit if limit < 10**9 else None


def token_ids(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None = None,
) -> list[list[int]]:
    """Return the ids of texts and pairs, truncated to a limit if there is one."""
    found: list[list[int]] = tokenizer(
        list(texts), pairs, truncation=limit is not None, max_length=limit, verbose=False
    )["input_ids"]
    return found


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
    long = [limit is not None and len(ids) > limit for ids in token_ids(texts, second or None, tokenizer)]
    batch = tokenizer(
        list(texts),
        second or None,
        add_special_tokens=special,
        padding=len(texts) > 1,  # a tokenizer may have no padding token
        padding_side="right",
        truncation=limit is not None and windows is None,
        max_length=limit if windows is None else None,
        return_attention_mask=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
        verbose=False,
    )
    for text, tokens in zip(texts, batch["attention_mask"].sum(-1), strict=True):
        if not tokens:
            raise ValueError(f"{shorten(text, 40)!r} has no tokens: there is nothing to explain")
    embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if embeddings is not None and int(batch["input_ids"].max()) >= embeddings:
        raise ValueError(
            f"the tokenizer gives id {int(batch['input_ids'].max())}, and the model has {embeddings} "
            "embeddings: they do not belong together, or the embeddings were not resized"
        )
    batch = batch.to(model.device)
    if windows is None or limit is None or not any(long):
        whole = [[list(range(int(count)))] for count in batch["attention_mask"].sum(-1)]
        return Encoded(batch, whole, batch, long)
    cut = []
    for row in range(len(texts)):
        cut.append(cut_windows(find_segments(batch, row, paired=bool(second)), limit, windows))
    return Encoded(batch, cut, _rows(batch, cut, tokenizer), [False] * len(texts))


def _rows(
    batch: BatchEncoding, windows: Sequence[Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Return the tokenizer's output for each window, padded on the right."""
    padding = {
        "input_ids": tokenizer.pad_token_id or 0,
        "token_type_ids": tokenizer.pad_token_type_id or 0,
        "special_tokens_mask": 1,
    }
    positions = [(text, torch.tensor(it)) for text, parts in enumerate(windows) for it in parts]
    return {
        name: nn.utils.rnn.pad_sequence(
            [values[text][kept.to(values.device)] for text, kept in positions],
            batch_first=True,
            padding_value=padding.get(name, 0),
        )
        for name, values in batch.items()
    }
