"""Which token's mixture is explained: as somebody types it, and as an index into each text's own tokens.

Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from captum_globenc.encoders import find_encoder

__all__ = ["parse_position", "pooled_token", "resolve_position"]


def parse_position(text: str) -> int | Literal["mean"] | None:
    """Read a position that somebody typed.

    Args:
        text: A whole number, "mean", or nothing, for what the model's head pools.

    Raises:
        ValueError: It is none of these.

    Example:
        >>> parse_position(" -1 "), parse_position("mean"), parse_position("")
        (-1, 'mean', None)
    """
    text = text.strip()
    if text in ("", "mean"):
        return "mean" if text else None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"position must be a whole number or mean, not {text!r}") from None


def resolve_position(position: int, lengths: Tensor, texts: Sequence[str]) -> Tensor:
    """Turn one position into an index (B,) into every text's own tokens.

    Args:
        position: The index, negative ones counting from a text's own end.
        lengths: How many tokens each text has, (B,).
        texts: B texts, for the message.

    Raises:
        ValueError: A text has no such token.

    Example:
        >>> resolve_position(-1, torch.tensor([3, 5]), ["good", "a good film"])
        tensor([2, 4])
    """
    for text, length in zip(texts, lengths.tolist(), strict=True):
        if not -length <= position < length:
            raise ValueError(
                f"position {position} is out of range: {shorten(text, 40)!r} has {length} tokens, "
                f"0 to {length - 1}"
            )
    return lengths + position if position < 0 else torch.full_like(lengths, position)


def pooled_token(model: PreTrainedModel) -> int | Literal["mean"] | None:
    """Return the token that the model's head reads, "mean" where it reads the average of all, or neither.

    Raises:
        UnsupportedModelError: The model has no encoder that is known.
    """
    pooled = find_encoder(model).pooled
    if pooled == "mean":
        return "mean"
    return pooled if isinstance(pooled, int) and pooled >= 0 else None
