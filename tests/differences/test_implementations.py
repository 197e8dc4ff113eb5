"""Exact differences depend on how a function is computed: they are not implementation-invariant."""

import pytest
import torch
from captum.attr import IntegratedGradients

from captum_globenc import TransformerDeepLift

X = torch.tensor([[2.0, 3.0, 4.0]], dtype=torch.float64)


class Product(torch.nn.Module):
    """The product of three numbers, the first two or the last two multiplied first."""

    def __init__(self, left):
        super().__init__()
        self.left = left

    def forward(self, x):
        one, two, three = x.unbind(1)
        return (one * two) * three if self.left else one * (two * three)


@pytest.mark.parametrize(("left", "expected"), [(True, [6, 6, 12]), (False, [12, 6, 6])])
def test_a_product_of_three_is_shared_by_the_order_of_multiplication(left, expected):
    # At the baseline 0, each factor of a product of two gets half: half for the factor that is multiplied
    # last, and a quarter for each of the other two. Both sum to 2 * 3 * 4 = 24.
    scores = TransformerDeepLift(Product(left)).attribute(X, torch.zeros_like(X))
    assert scores[0].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("left", [True, False])
def test_integrated_gradients_share_both_alike(left):
    scores = IntegratedGradients(Product(left)).attribute(X, torch.zeros_like(X))
    assert scores[0].tolist() == pytest.approx([8, 8, 8], rel=1e-5)
