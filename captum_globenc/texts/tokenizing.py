"""Texts as a model takes them: tokenized, padded, and cut at its limit or into windows."""

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
    """Texts as a model takes them: R rows, a text each, or each a window of one.

    Attributes:
        whole: The B texts, padded on the right.
        windows: By text, the positions in `whole` of the tokens of its rows: one row of all of them unless it
            is cut into windows.
        batch: The R rows by the names of the model's arguments, padded on the right, a text's together.
        truncated: By text, whether its end is missing.
    """

    whole: BatchEncoding
    windows: list[list[list[int]]]
    batch: Mapping[str, Tensor]
    truncated: list[bool]

    @cached_property
    def rows(self) -> list[list[int]]:
        """By text, the numbers of its rows."""
        first, found = 0, []
        for windows in self.windows:
            found.append(list(range(first, first + len(windows))))
            first += len(windows)
        return found

    @cached_property
    def places(self) -> list[list[int]]:
        """By row, the positions of its tokens in its text."""
        return [places for windows in self.windows for places in windows]

    def text_of(self, row: int) -> int:
        """Return the number of the text that a row is of."""
        return next(text for text, rows in enumerate(self.rows) if row in rows)

    def length(self, text: int) -> int:
        """Return how many tokens a text has, all its windows together."""
        return int(self.whole["attention_mask"][text].sum())


def token_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens the model takes, or None where nothing bounds it.

    A tokenizer saved without a limit claims 1e30 tokens, so what the model says counts too; where its
    position embeddings keep a row for padding, as RoBERTa's do, they start to count after it.
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
    """Return the ids of texts, with their pairs, truncated to a limit if there is one."""
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
    """Tokenize, with padding on the right, and cut what is longer than the model takes.

    Args:
        texts: B texts.
        pairs: The second segment of each text, or None.
        model: What will read them.
        tokenizer: Its tokenizer.
        windows: How many tokens neighbouring windows share, into which longer texts are cut, by the longer of
            their segments. Left out, such texts lose their end.
        special: Whether the tokenizer adds its special tokens; a rendered chat has them already.

    Returns:
        The texts, on the model's device.

    Raises:
        ValueError: A text is not valid Unicode, has no tokens, or some that the model has no embedding for;
            some texts have a pair and others none; or windows cannot share so many tokens.
    """
    for text in (*texts, *(pair or "" for pair in pairs)):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("a text is not valid UTF-8") from None
    given = [pair for pair in pairs if pair is not None]
    if len(given) not in (0, len(texts)):
        raise ValueError(
            f"{len(given)} of {len(texts)} texts have a pair: explain them apart from the others"
        )
    limit = token_limit(model, tokenizer)
    long = [limit is not None and len(ids) > limit for ids in token_ids(texts, given or None, tokenizer)]
    batch = tokenizer(
        list(texts),
        given or None,
        add_special_tokens=special,
        padding=len(texts) > 1,  # which a tokenizer may have no token for
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
        cut.append(cut_windows(find_segments(batch, row, paired=bool(given)), limit, windows))
    return Encoded(batch, cut, _rows(batch, cut, tokenizer), [False] * len(texts))


def _rows(
    batch: BatchEncoding, windows: Sequence[Sequence[Sequence[int]]], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Tensor]:
    """Return what the tokenizer made of texts for the windows of each, padded on the right."""
    blanks = {
        "input_ids": tokenizer.pad_token_id or 0,
        "token_type_ids": tokenizer.pad_token_type_id or 0,
        "special_tokens_mask": 1,
    }
    places = [(text, torch.tensor(it)) for text, parts in enumerate(windows) for it in parts]
    return {
        name: nn.utils.rnn.pad_sequence(
            [values[text][kept.to(values.device)] for text, kept in places],
            batch_first=True,
            padding_value=blanks.get(name, 0),
        )
        for name, values in batch.items()
    }
