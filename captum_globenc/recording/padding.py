"""Which tokens are padding, without knowing what the user calls the mask. B batch, N tokens."""

from typing import Any

from torch import Tensor

from captum_globenc.decomposition.attention import Attention, GivenAttention


def real_tokens(attention: Attention, mask: Any) -> Tensor | None:
    """Return `(B, N)`, False at padding: what the user's mask names, or what no query sees.

    Where the model returned probabilities, the mask is what counts: padding may see everything, as
    in DeBERTa, and a probability may be too small for a real token to be told from padding.
    """
    if isinstance(attention, GivenAttention) and isinstance(mask, Tensor) and mask.ndim == 2:
        return mask.bool()
    return attention.visible()
