"""Scores next to the tokens or words of their texts.

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
    """Pair the real tokens of each text, or its words, with their scores, padding left out.

    Args:
        batch: What the tokenizer returned with ``return_tensors="pt"``: ``input_ids`` (B, N) and,
            where there is padding, ``attention_mask`` (B, N).
        tokenizer: The tokenizer that made ``batch``.
        attributions: (B, N), or (B, N, D) to be summed over D.
        words: How tokens are merged into words, and their scores with them: "sum", "mean" or "max"
            (see `captum_globenc.texts.merge_scores`); left out, they are not.
        special: Whether to keep special tokens such as [CLS], and so the whole of the scores.
        texts: The B texts, so that words read as in them (see `captum_globenc.texts.find_words`).
        pairs: The B second segments, likewise.

    Returns:
        The tokens or words, and the scores, one list a text.

    Raises:
        ValueError: ``attributions``, ``texts`` or ``pairs`` do not fit the batch, there is NaN or infinity,
            or ``words`` is not known.
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
        raise ValueError("attributions hold NaN or infinity")
    tokens, scores = [], []
    for number, found in enumerate(find_words(batch, tokenizer, texts, pairs)):
        kept = [word for word in found if special or not word.special]
        row = attributions[number].tolist()
        if words is None:
            places = [token for word in kept for token in word.tokens]
            tokens.append(list(tokenizer.convert_ids_to_tokens(ids[number][places].tolist())))
            scores.append([row[place] for place in places])
        else:
            tokens.append([word.text for word in kept])
            scores.append(merge_scores(row, kept, words))
    return tokens, scores
