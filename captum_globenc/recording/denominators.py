"""Attention on a CPU that tells the denominators of its softmax, as scaled_dot_product_attention does not."""

from typing import Any

import torch
from torch import Tensor

FLASH = 1
"""The number of the kernel that tells them, among those that scaled_dot_product_attention chooses from."""


def attend_telling(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """Call the kernel that scaled_dot_product_attention would choose, if it tells its denominators.

    Args:
        query: `(B, H, N, d)`.
        key: as for scaled_dot_product_attention, and
        value: likewise, and
        attn_mask: likewise, and
        dropout_p: likewise, and
        is_causal: likewise, and
        scale: likewise, and
        enable_gqa: likewise.

    Returns:
        The same output, `(B, H, N, d)`, and the logarithm of each softmax's denominator, `(B, H, N)`; None
        where another kernel would be chosen, or this one is not to be had.
    """
    choose: Any = getattr(torch, "_fused_sdp_choice", None)
    kernel: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
    if choose is None or kernel is None or dropout_p:
        return None
    if query.device.type != "cpu" or query.ndim != 4 or key.shape[1] != query.shape[1]:
        return None
    if choose(query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa) != FLASH:
        return None
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = query.new_zeros(attn_mask.shape)
        attn_mask = hidden.masked_fill_(~attn_mask, -torch.inf)
    output, logsumexp = kernel(query, key, value, 0.0, is_causal, attn_mask=attn_mask, scale=scale)
    return output, logsumexp
