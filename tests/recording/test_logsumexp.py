"""Attention with denominators, against scaled_dot_product_attention and the definition."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from captum_globenc.recording.attention import attention_with_logsumexp

BATCH, HEADS, TOKENS, SIZE = 2, 3, 7, 8


def inputs(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(BATCH, HEADS, TOKENS, SIZE, generator=generator, dtype=dtype) for _ in range(3))


def masks():
    real = torch.arange(TOKENS) < torch.tensor([[TOKENS], [4]])
    window = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() <= 1
    bias = torch.randn(1, HEADS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(1)).double()
    padding = real[:, None, None].expand(BATCH, 1, TOKENS, TOKENS)
    return {
        "none": {},
        "causal": {"is_causal": True},
        "padding": {"attn_mask": padding},
        "window": {"attn_mask": padding & window},
        "bias": {"attn_mask": bias},
        "scale": {"scale": 0.3},
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", masks())
def test_the_output_is_the_same_to_the_last_bit_and_denominators_are_those_of_the_definition(name, dtype):
    query, key, value = inputs(dtype)
    options = masks()[name]
    if "attn_mask" in options and options["attn_mask"].is_floating_point():
        options["attn_mask"] = options["attn_mask"].to(dtype)
    output, logsumexp = attention_with_logsumexp(query, key, value, **options)
    assert torch.equal(output, scaled_dot_product_attention(query, key, value, **options))
    scores = query.double() @ key.double().transpose(2, 3) * options.get("scale", SIZE**-0.5)
    mask = options.get("attn_mask")
    if mask is not None:
        scores = scores + mask.double() if mask.is_floating_point() else scores.masked_fill(~mask, -torch.inf)
    if options.get("is_causal"):
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf)
    seen = ~scores.isinf().all(dim=-1)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 1e-2)
    assert torch.allclose(logsumexp.double()[seen], scores.logsumexp(-1)[seen], rtol=0, atol=tolerance)


def test_without_the_flash_kernel_there_are_no_denominators():
    query, key, value = inputs()
    assert attention_with_logsumexp(query, key, value, dropout_p=0.1) is None
    assert attention_with_logsumexp(query, key[:, :1], value[:, :1], enable_gqa=True) is None
    assert attention_with_logsumexp(query[0], key[0], value[0]) is None
