"""Texts as a model takes them: tokenized, padded, and cut at its limit."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["encode", "token_limit"]


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


def encode(
    texts: Sequence[str],
    pairs: Sequence[str | None],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[BatchEncoding, list[bool]]:
    """Tokenize, with padding on the right, and cut what is longer than the model takes.

    Args:
        texts: B texts.
        pairs: The second segment of each text, or None.
        model: What will read them.
        tokenizer: Its tokenizer.

    Returns:
        The batch, on the model's device, and which texts were too long.

    Raises:
        ValueError: A text is not valid Unicode, or has tokens that the model has no embedding for, or
            some texts have a pair and others none.
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
    batch = tokenizer(
        list(texts),
        given or None,
        padding=len(texts) > 1,  # which a tokenizer may have no token for
        padding_side="right",
        truncation=limit is not None,
        max_length=limit,
        return_attention_mask=True,
        return_special_tokens_mask=True,
        return_tensors="pt",
    )
    embeddings = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if embeddings is not None and int(batch["input_ids"].max()) >= embeddings:
        raise ValueError(
            f"the tokenizer gives id {int(batch['input_ids'].max())}, and the model has {embeddings} "
            "embeddings: they do not belong together, or the embeddings were not resized"
        )
    whole = tokenizer(list(texts), given or None, verbose=False)["input_ids"]
    truncated = [limit is not None and len(ids) > limit for ids in whole]
    return batch.to(model.device), truncated
