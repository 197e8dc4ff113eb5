"""Which tokens are padding, without knowing what the user calls the mask. B batch, N tokens."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from captum_globenc.decomposition.attention import Attention, GivenAttention


def real_tokens(attention: Attention, mask: Any, shape: Sequence[int]) -> Tensor | None:
    """Return `(B, N)`, False at padding: what the user's mask names, or what no query sees.

    Where the model computed its probabilities itself, the mask is what counts: padding may see
    everything, as in DeBERTa.

    Args:
        attention: of the first layer.
        mask: what the encoder was given as its `attention_mask`, if anything.
        shape: `(B, N)`.
    """
    if isinstance(attention, GivenAttention) and isinstance(mask, Tensor) and mask.shape == tuple(shape):
        return mask.bool()
    return attention.visible()
