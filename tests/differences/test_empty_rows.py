"""Attention masks without dimensions, and fully masked rows, as in torch's fused attention."""

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as attention

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare, freeze
from captum_globenc.differences.frozen import FROZEN
from captum_globenc.differences.peers import ATTN_LRP

GENERATOR = torch.Generator().manual_seed(0)
X, X0 = torch.randn(2, 2, 4, 8, generator=GENERATOR).double()
QUERY = torch.randn(2, 4, 8, generator=GENERATOR).double()
LOWEST = torch.finfo(torch.float64).min


def additive(visible, hidden):
    return torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, hidden)


SEEN = torch.tensor([[True, True, False, True], [False] * 4, [False, True, False, False], [True] * 4])
MASKS = {
    "bool": SEEN,
    "-inf": additive(SEEN, -math.inf),
    "lowest": additive(SEEN, LOWEST),
    "-1e30": additive(SEEN, -1e30),
    "-1e9": additive(SEEN, -1e9),
    "-1e9 of float32": additive(SEEN, -1e9).float(),
    "lowest of float32": additive(SEEN, torch.finfo(torch.float32).min).float(),
    "lowest and -inf": additive(SEEN, LOWEST).masked_fill(
        torch.tensor([True, False, False, False]), -math.inf
    ),
    "all rows": torch.zeros(4, 4).bool(),
    "all rows lowest": torch.full((4, 4), LOWEST, dtype=torch.float64),
    "one column": torch.tensor([[True], [False], [True], [True]]),
    "of heads": torch.stack([SEEN, ~SEEN])[:, None],
}


def by_itself(x, mask):
    return attention(x, x * 0.5, x.flip(-1), attn_mask=mask)


def by_learned_query(x, mask):
    query = QUERY.to(x.dtype) if x.dim() == 3 else QUERY[:, None]
    return attention(query, x, x * 2, attn_mask=mask)


@pytest.mark.parametrize("function", [by_itself, by_learned_query])
@pytest.mark.parametrize("name", MASKS)
def test_fully_masked_rows_are_as_torchs(name, function):
    x, x0 = (X[:, None], X0[:, None]) if MASKS[name].dim() > 2 else (X, X0)
    if MASKS[name].dtype is torch.float32:
        x, x0 = x.float(), x0.float()
    run = compare(lambda x: function(x, MASKS[name]), [x], [x0])
    torch.testing.assert_close(run.output.detach(), function(x, MASKS[name]))
    torch.testing.assert_close(run.base, function(x0, MASKS[name]))
    change = (run.output - run.base).detach()
    for row in range(4):
        (made,) = run.contributions(run.output[..., row, 0].sum())
        torch.testing.assert_close(made.sum(), change[..., row, 0].sum(), rtol=1e-4, atol=1e-6)
        if name in ("bool", "-inf") and row == 1:
            assert not made.any()


@pytest.mark.parametrize("rules", [FROZEN, ATTN_LRP])
@pytest.mark.parametrize("function", [by_itself, by_learned_query])
@pytest.mark.parametrize("name", MASKS)
def test_frozen_fully_masked_rows_are_as_torchs(name, function, rules):
    x = X[:, None] if MASKS[name].dim() > 2 else X
    x = x.float() if MASKS[name].dtype is torch.float32 else x
    run = freeze(lambda x: function(x, MASKS[name]), [x], rules)
    torch.testing.assert_close(run.output.detach(), function(x, MASKS[name]))


@pytest.mark.parametrize("function", [by_itself, by_learned_query])
@pytest.mark.parametrize("mask", [True, False, 0.5, -math.inf, LOWEST])
def test_masks_without_dimensions(mask, function):
    mask = torch.tensor(mask, dtype=torch.bool if isinstance(mask, bool) else torch.float64)
    with sdpa_kernel(SDPBackend.MATH):  # others do not take such masks
        run = compare(lambda x: function(x, mask), [X], [X0])
        torch.testing.assert_close(run.output.detach(), function(X, mask))
        frozen = freeze(lambda x: function(x, mask), [X])
        torch.testing.assert_close(frozen.output.detach(), function(X, mask))
        (made,) = run.contributions(run.output[..., 0].sum())
        torch.testing.assert_close(made.sum(), (run.output - run.base)[..., 0].sum().detach())
        frozen.multipliers(frozen.output.sum(), [frozen.sources[0].leaf])


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("pooled", ["first", "mean of all", "mean of those seen"])
def test_encoders_that_have_a_fast_path_for_padding(pooled, trained):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).double().eval().requires_grad_(trained)
    hidden = torch.tensor([[False] * 4, [False, False, True, True]])

    def forward(x):
        states = encoder(x, src_key_padding_mask=hidden)
        if pooled == "first":
            return states[:, 0]
        return states.mean(1) if pooled == "mean of all" else (states * ~hidden[..., None]).sum(1)

    scores = TransformerDeepLift(forward, encoder).attribute(X, torch.zeros_like(X), 1)
    # Without gradients torch takes the fast path, which gives padding zeros; with them it does not.
    whole, base = (forward(x.clone().requires_grad_())[:, 1] for x in (X, torch.zeros_like(X)))
    torch.testing.assert_close(scores.sum((1, 2)), (whole - base).detach())
    assert torch.backends.mha.get_fastpath_enabled()
    if pooled != "mean of all":
        assert not scores[1, 2:].any()
