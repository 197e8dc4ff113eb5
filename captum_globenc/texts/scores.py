"""Pair scores with the tokens or words of their texts.

Shapes: B texts, N tokens with padding, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from captum_globenc.texts.words import Source, find_words, merge_scores

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["token_scores"]


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
