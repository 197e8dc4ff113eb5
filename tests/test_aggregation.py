"""Rollout against the product of matrices, and its scale."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc.aggregation import rollout


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6))
def test_rows_are_rows_of_the_product(layers, tokens, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    mixtures = [
        torch.rand(batch, tokens, tokens, generator=generator, dtype=torch.float64) for _ in range(layers)
    ]
    product = mixtures[0]
    for mixture in mixtures[1:]:
        product = mixture @ product
    start = torch.eye(tokens, dtype=torch.float64).expand(batch, -1, -1)
    rows, log_scale = rollout(mixtures, start)
    assert torch.allclose(rows * log_scale.exp()[..., None], product, rtol=1e-12, atol=0)


def test_scale_that_no_float_holds_is_kept_as_a_logarithm():
    mixtures = [torch.full((1, 2, 2), 1e30)] * 100
    rows, log_scale = rollout(mixtures, torch.tensor([[[1.0, 0.0]]]))
    assert torch.equal(rows, torch.ones(1, 1, 2))
    assert math.isclose(log_scale.item(), 100 * math.log(1e30) + 99 * math.log(2), rel_tol=1e-7)


def test_a_row_of_zeros_stays_zero():
    rows, log_scale = rollout([torch.zeros(1, 2, 2)], torch.tensor([[[1.0, 0.0]]]))
    assert torch.equal(rows, torch.zeros(1, 1, 2))
    assert log_scale.item() == 0
