"""Comparisons in activations: the contributions of the functions that they write out."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare
from completeness import assert_complete, pairs, random

CONSTANT = random(4, 6, seed=2)

WRITTEN_OUT = {
    "product": (lambda x: x * (x > 0), F.relu),
    "product from the left": (lambda x: (x > 0) * x, F.relu),
    "where": (lambda x: torch.where(x > 0, x, x.expm1()), F.elu),
    "a number": (lambda x: torch.where(x.ge(0), x, 0.0), F.relu),
    "a cast": (
        lambda x: (x >= 0).to(x.dtype) * x + (x < 0).type_as(x) * x * 0.1,
        lambda x: F.leaky_relu(x, 0.1),
    ),
    "whole numbers": (lambda x: (x > 0).long() * x, F.relu),
    "filled": (lambda x: x.masked_fill(torch.le(x, 0), 0.0), F.relu),
    "negated": (lambda x: torch.where(~(x < 0), x, 0.1 * x), lambda x: F.leaky_relu(x, 0.1)),
    "both": (
        lambda x: torch.where((x > -1) & (x < 1), x, torch.where(x > 0, 1.0 + 0 * x, -1.0)),
        F.hardtanh,
    ),
    "either": (lambda x: torch.where((x < -0.5) | (x > 0.5), x, 0.0), F.hardshrink),
    "constants": (lambda x: x * ((x > 0) & (CONSTANT > 0)), lambda x: F.relu(x) * (CONSTANT > 0)),
    "shapes": (lambda x: x * (x[:, None] > 0)[:, 0].unsqueeze(0).expand(2, 4, 6)[1], F.relu),
    "stacked": (lambda x: x * torch.cat([x[:2] > 0, x[2:] > 0]), F.relu),
    "two values": (
        lambda x: torch.where(x[:, :3] > x[:, 3:], x[:, :3], x[:, 3:]),
        lambda x: torch.maximum(x[:, :3], x[:, 3:]),
    ),
    "a sign": (lambda x: x * x.sign(), torch.abs),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_function_written_out_by_comparisons(name):
    written, function = WRITTEN_OUT[name]
    for label, x, x0 in pairs((4, 6)):
        assert_complete(written, [x], [x0])
        found, expected = (
            (both := compare(it, [x], [x0])).contributions(both.output.sum())[0] for it in (written, function)
        )
        torch.testing.assert_close(
            found, expected, rtol=1e-6 if label == "all but equal" else 1e-9, atol=1e-9
        )


def test_a_gate_gets_the_difference_that_it_makes():
    """The gate g opens and the value v changes: the gate gets its jump times the mean value."""
    gate, value = torch.tensor([2.0, -1.0, 2.0]), torch.tensor([4.0, 4.0, 4.0])
    gate0, value0 = torch.tensor([-1.0, 2.0, 1.0]), torch.tensor([2.0, 2.0, 2.0])
    for gated in (lambda g, v: v * (g > 0), lambda g, v: torch.where(g > 0, v, torch.zeros(3))):
        both = compare(gated, [gate, value], [gate0, value0])
        of_gate, of_value = both.contributions(both.output.sum())
        assert of_gate.tolist() == [3.0, -3.0, 0.0]
        assert of_value.tolist() == [1.0, 1.0, 2.0]


def test_a_comparison_of_numbers_credits_both():
    both = compare(
        lambda x, y: (x > y).to(x.dtype),
        [torch.tensor([3.0]), torch.tensor([1.0])],
        [torch.zeros(1), torch.tensor([2.0])],
    )
    of_x, of_y = both.contributions(both.output.sum())
    assert (of_x.tolist(), of_y.tolist()) == ([0.75], [0.25])


def test_followed_decisions_are_those_of_the_input():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    both = compare(lambda x: x * (x > 0), [x], [x0], decisions="follow")
    torch.testing.assert_close(both.contributions(both.output.sum())[0], (x - x0) * (x > 0))


def test_large_alternatives_that_are_not_chosen_leave_no_rounding_errors():
    x, x0 = -random(4, 6).abs(), random(4, 6, seed=1).abs() / 1000
    assert_complete(lambda x: torch.where(x < 0, x, (-30 * x).exp()), [x], [x0], 1e-14)
    both = compare(lambda x: torch.where(x < 0, x, (-30 * x).exp()), [x], [x0])
    assert both.contributions(both.output.sum())[0].abs().max() < 10


def test_infinite_alternatives_are_rejected_with_a_way_out():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    with pytest.raises(ValueError, match='decisions="follow"'):
        compare(lambda x: x.masked_fill(x < 0, -torch.inf).softmax(-1), [x], [x0])


def test_truth_values_that_are_used_otherwise_are_a_decision():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    for function in (
        lambda x: x * (x > 0).sum(),
        lambda x: x[(x > 0).any(1)],
        lambda x: x * (x > 0).cumsum(0),
    ):
        with pytest.raises(ValueError, match="gt decides what the model computes"):
            compare(function, [x], [x0])
        both = compare(function, [x], [x + 1e-9])
        assert both.contributions(both.output.sum())[0].shape == x.shape


def test_a_model_with_a_threshold():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)).double()

    def forward(x):
        hidden = model[0](x)
        return model[1](torch.where(hidden > 0.2, hidden, torch.zeros_like(hidden)))

    x, x0 = random(4, 6), random(4, 6, seed=1)
    method = TransformerDeepLift(forward, model)
    scores, delta = method.attribute(x, x0, 1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-12
    change = (forward(x) - forward(x0))[:, 1].detach()
    torch.testing.assert_close(scores.sum(1), change, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("write", ["logical_not_", "__iand__", "zero_"])
def test_truth_values_that_are_written_to_are_a_decision(write):
    def function(x):
        mask = x > 0
        getattr(mask, write)(*([CONSTANT > 0] if write == "__iand__" else []))
        return torch.where(mask, x, 2 * x)

    x = random(4, 6)
    both = compare(function, [x], [x + 1e-9])
    torch.testing.assert_close(both.output.detach(), function(x), rtol=0, atol=0)
    with pytest.raises(ValueError, match="gt decides what the model computes"):
        compare(function, [x], [random(4, 6, seed=1)])
