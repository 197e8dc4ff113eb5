"""Loss functions: the numbers of torch, and multipliers that sum to the difference."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare
from captum_globenc.differences.losses import LOSSES
from captum_globenc.errors import UnsupportedOperationError
from completeness import assert_complete, random

CONSTANT = random(4, 6, seed=2)
CLASSES = torch.tensor([2, 0, -100, 5])
SHARES = CONSTANT.softmax(1)
WEIGHT = CONSTANT[0].abs() + 0.1
YES = (CONSTANT > 0).double()
EVERY = CONSTANT.abs() + 0.1

CASES = {
    "classes": (F.cross_entropy, CLASSES, [{}, {"weight": WEIGHT}, {"label_smoothing": 0.2}]),
    "classes, all options": (
        F.cross_entropy,
        CLASSES,
        [{"weight": WEIGHT, "label_smoothing": 0.2}],
    ),
    "shares": (F.cross_entropy, SHARES, [{}, {"weight": WEIGHT}, {"weight": WEIGHT, "label_smoothing": 0.2}]),
    "likelihood": (F.nll_loss, CLASSES, [{}, {"weight": WEIGHT}]),
    "another ignored class": (F.nll_loss, CLASSES.clamp(min=0), [{"ignore_index": 0}]),
    "binary": (F.binary_cross_entropy, YES, [{}, {"weight": EVERY}]),
    "binary logits": (
        F.binary_cross_entropy_with_logits,
        YES,
        [{}, {"weight": EVERY}, {"pos_weight": WEIGHT}],
    ),
    "divergence": (F.kl_div, SHARES, [{}]),
    "divergence of logarithms": (F.kl_div, SHARES.log(), [{"log_target": True}]),
    "square": (F.mse_loss, CONSTANT, [{}, {"weight": EVERY}]),
    "absolute": (F.l1_loss, CONSTANT, [{}]),  # torch 2.13 does not hand its weight on to modes
    "huber": (F.huber_loss, CONSTANT, [{}, {"delta": 0.3}, {"weight": EVERY}]),
    "smooth": (F.smooth_l1_loss, CONSTANT, [{}, {"beta": 0.3}, {"beta": 0.0}]),
}


def inputs(name):
    x, x0 = random(4, 6), random(4, 6, seed=1)
    return (x.sigmoid(), x0.sigmoid()) if name == "binary" else (x, x0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
@pytest.mark.parametrize("name", CASES)
def test_losses(name, reduction):
    loss, target, options = CASES[name]
    if reduction == "batchmean" and loss is not F.kl_div:
        return
    for further in options:
        x, x0 = inputs(name)
        assert_complete(
            lambda x, further=further: loss(x, target, reduction=reduction, **further)[None], [x], [x0]
        )


def test_targets_may_depend_on_the_input():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    for loss in (F.mse_loss, F.cross_entropy, F.kl_div, F.binary_cross_entropy_with_logits):
        assert_complete(lambda x, loss=loss: loss(x.log_softmax(1), (2 * x).softmax(1))[None], [x], [x0])


def test_every_loss_is_tested():
    assert {loss for loss, _, _ in CASES.values()} == set(LOSSES)


@pytest.mark.parametrize("shape", [(6,), (3, 6, 2), (3, 6, 2, 2)])
def test_classes_are_the_first_or_second_dimension(shape):
    x, x0 = random(*shape), random(*shape, seed=1)
    target = torch.randint(0, 6, shape[:0] if len(shape) == 1 else (shape[0], *shape[2:]))
    for options in ({}, {"weight": WEIGHT, "label_smoothing": 0.1}):
        assert_complete(lambda x, options=options: F.cross_entropy(x, target, **options)[None], [x], [x0])


def test_classes_with_no_probability_have_no_loss():
    """Logits of -inf, as for forbidden tokens."""
    forbidden = torch.zeros(6, dtype=torch.bool)
    forbidden[3] = True
    assert_complete(
        lambda x: F.cross_entropy(x.masked_fill(forbidden, -torch.inf), CLASSES)[None],
        [random(4, 6)],
        [random(4, 6, seed=1)],
    )


def test_outdated_reductions_are_rejected():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    with pytest.raises(UnsupportedOperationError, match="use `reduction`"):
        compare(lambda x: F.mse_loss(x, CONSTANT, size_average=True), [x], [x0])
