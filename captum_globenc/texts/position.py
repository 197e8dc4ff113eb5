"""The token that GlobEnc explains: parse it, and turn it into an index into the tokens of each text.

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
    """Parse a position.

    Args:
        text: An integer, "mean", or "" for the token that the model's head pools.

    Raises:
        ValueError: `text` is none of these.

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
    """Turn one position into an index into the tokens of each text, `(B,)`.

    Args:
        position: The index; negative indices count from the end of each text.
        lengths: `(B,)`, the number of tokens of each text.
        texts: B texts, for error messages.

    Raises:
        ValueError: The position is out of range for a text.

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
    """Return the index of the token that the model's head pools, "mean" for mean pooling, otherwise None.

    Raises:
        UnsupportedModelError: The model has no supported encoder.
    """
    pooled = find_encoder(model).pooled
    if pooled == "mean":
        return "mean"
    return pooled if isinstance(pooled, int) and pooled >= 0 else None
