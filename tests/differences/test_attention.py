"""Fused attention equals its decomposition, and contributions of torch's multi-head attention sum."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from captum_globenc.differences import attention, compare
from captum_globenc.differences.call import LINEAR
from captum_globenc.differences.rules import EXACT

B, H, N, M, D = 2, 3, 5, 7, 4


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(q, k, v, mask=None, is_causal=False, scale=None):
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores + torch.full(scores.shape[-2:], -math.inf, dtype=q.dtype).triu(1)
    if mask is not None:
        scores = scores + (
            mask if mask.is_floating_point() else torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
        )
    return scores.softmax(-1).nan_to_num() @ v


BOOLEAN = torch.rand(B, 1, 1, M, generator=torch.Generator().manual_seed(0)) > 0.3
BOOLEAN[..., 0] = True
MASKS = {
    "none": {},
    "boolean": {"attn_mask": BOOLEAN},
    "additive": {"attn_mask": random(B, H, N, M, seed=5)},
    "broadcast": {"attn_mask": random(N, M, seed=5)},
    "infinite": {"attn_mask": torch.zeros(B, 1, N, M, dtype=torch.float64).masked_fill(~BOOLEAN, -math.inf)},
    "lowest": {
        "attn_mask": torch.zeros(B, 1, N, M, dtype=torch.float64).masked_fill(
            ~BOOLEAN, torch.finfo(torch.float64).min
        )
    },
    "window": {"attn_mask": (torch.arange(N)[:, None] - torch.arange(M)).abs() <= 1},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.9},
}


@pytest.mark.parametrize("scale", [1.0, 12.0])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("tile", [1, 40, 1 << 18])
def test_fused_attention_shares_out_as_its_parts_do(kind, tile, scale, monkeypatch):
    monkeypatch.setattr(attention, "TILE", tile)
    monkeypatch.setattr(attention, "ROWS", 2 if tile < 100 else 128)
    inputs = [random(B, H, size, D, seed=i, scale=scale) for i, size in enumerate((N, M, M))]
    bases = [random(B, H, size, D, seed=i + 7, scale=scale) for i, size in enumerate((N, M, M))]
    options = MASKS[kind]
    weights = random(B, H, N, D, seed=20)
    fused = compare(lambda q, k, v: scaled_dot_product_attention(q, k, v, **options), inputs, bases)
    parts = compare(
        lambda q, k, v: written_out(
            q, k, v, options.get("attn_mask"), **{n: o for n, o in options.items() if n != "attn_mask"}
        ),
        inputs,
        bases,
    )
    torch.testing.assert_close(fused.output, parts.output, rtol=1e-10, atol=1e-12)
    found = fused.contributions((fused.output * weights).sum())
    for one, other in zip(found, parts.contributions((parts.output * weights).sum()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11 * scale**2)
    total = sum(part.sum() for part in found)
    torch.testing.assert_close(
        total, ((fused.output - fused.base) * weights).sum().detach(), rtol=1e-11, atol=1e-11
    )


@pytest.mark.parametrize("rows", [1, 128])
def test_a_fully_masked_row_has_no_contributions(rows, monkeypatch):
    monkeypatch.setattr(attention, "ROWS", rows)
    mask = torch.ones(N, M, dtype=torch.bool)
    mask[1] = False
    both = compare(
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask),
        [random(1, 1, size, D, seed=i) for i, size in enumerate((N, M, M))],
        [random(1, 1, size, D, seed=i + 7) for i, size in enumerate((N, M, M))],
    )
    made = both.contributions(both.output[:, :, [0, 2, 3, 4]].sum())
    assert all(torch.isfinite(part).all() for part in made)
    assert not made[0][:, :, 1].any()


@pytest.mark.parametrize(
    "kind", ["heads in groups", "mask of the input", "keys of the input alone", "dropout"]
)
def test_unfused_attention_is_decomposed(kind):
    q, k, v = (random(B, 4, N, D, seed=i) for i in range(3))
    few = random(B, 2, N, D, seed=4)

    def function(x, y):
        if kind == "heads in groups":
            return scaled_dot_product_attention(x, y[:, :2], few + y[:, 2:], enable_gqa=True)
        if kind == "mask of the input":
            return scaled_dot_product_attention(x, y, x, attn_mask=(x @ y.mT))
        if kind == "dropout":
            return scaled_dot_product_attention(x, y, x, dropout_p=0.3)
        return scaled_dot_product_attention(q, x, v) + y

    torch.manual_seed(3)
    both = compare(function, [k, v], [k.flip(0), 2 * v])
    total = sum(part.sum() for part in both.contributions(both.output.sum()))
    torch.testing.assert_close(total, (both.output - both.base).sum().detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("masks", ["none", "padding", "both"])
def test_multi_head_attention_of_torch(need_weights, masks):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, dropout=0.1, batch_first=True).double().eval()
    hidden = torch.tensor([[False] * N, [False] * 3 + [True] * (N - 3)])
    options = {} if masks == "none" else {"key_padding_mask": hidden}
    if masks == "both":
        options["attn_mask"] = torch.zeros(N, N).masked_fill(torch.ones(N, N).triu(1) > 0, -math.inf).double()
    x, x0 = random(B, N, 12), random(B, N, 12, seed=1)

    def function(x):
        return module(x, x, x, need_weights=need_weights, **options)[0]

    both = compare(function, [x], [x0])
    torch.testing.assert_close(both.output, function(x), rtol=1e-11, atol=1e-12)
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach(), rtol=1e-11, atol=1e-11)


def test_a_whole_encoder_of_torch():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True, activation="gelu", norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().eval()
    x, x0 = random(B, N, 12), random(B, N, 12, seed=1)
    both = compare(encoder, [x], [x0])
    torch.testing.assert_close(both.output, encoder(x), rtol=1e-11, atol=1e-12)
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach(), rtol=1e-11, atol=1e-11)


def test_no_row_is_both_linear_and_decomposed():
    assert [
        function for function, row in EXACT.items() if row.rule == LINEAR and row.decomposition is not None
    ] == []
