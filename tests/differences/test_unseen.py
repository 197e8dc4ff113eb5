"""What torch's functions do not show is refused, where no sum of contributions would tell."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_globenc.differences import compare, freeze

X, X0 = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
MODULE = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).double()


class Reversed(torch.autograd.Function):
    """The identity, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return -grad


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return x * 2


UNSEEN = {
    "autograd function": lambda x: Reversed.apply(x.exp()).tanh(),
    "autograd function at the end": lambda x: Reversed.apply(x.exp()),
    "scripted": lambda x: scripted(x.exp()) + x,
    "scripted at the end": lambda x: scripted(x.exp()),
    "scripted on the way": lambda x: (scripted(x.exp()) * 3).tanh(),
    "checkpoint": lambda x: checkpoint(MODULE, x.exp(), use_reentrant=True),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_frozen_function_with_unseen_parts_is_refused(name):
    with pytest.raises(ValueError, match="cannot be seen"):
        freeze(UNSEEN[name], [X])


@pytest.mark.parametrize("name", ["scripted", "scripted at the end", "scripted on the way"])
def test_so_is_one_that_is_compared(name):
    with pytest.raises(ValueError, match="cannot be seen"):
        compare(UNSEEN[name], [X], [X0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: MODULE(x).softmax(-1),
        lambda x: MODULE(x).log_softmax(-1)[:, 0],
        lambda x: X,
        lambda ids: MODULE[0].weight[ids],
    ],
)
def test_what_is_held_as_it_is_cannot_be_explained(function):
    inputs = X if function.__code__.co_varnames[0] == "x" else torch.tensor([[1, 2]])
    with pytest.raises(ValueError, match="explain logits"):
        freeze(function, [inputs])


def test_adapters_whose_weights_are_computed_are_no_values_of_the_input():
    adapter = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    run = freeze(lambda x: MODULE(x @ (adapter @ adapter).tanh()), [X])
    (made,) = run.multipliers(run.output.sum(), [run.sources[0].leaf])
    assert made.any()
    assert adapter.grad is None


@pytest.mark.parametrize("way", [torch.inference_mode(), torch.no_grad()])
def test_a_function_that_turns_gradients_off_is_seen(way):
    def function(x):
        with way:
            return MODULE(x * torch.ones(4, dtype=x.dtype)) * torch.full((4,), 2.0, dtype=x.dtype)

    both = compare(function, [X], [X0])
    total = both.contributions(both.output.sum())[0].sum()
    torch.testing.assert_close(total, (both.output - both.base).sum().detach())


SLOPES = {
    "quotient": (lambda x: x * (1 / (1 + x.exp())), lambda x: x * (1 + x.exp()).detach().reciprocal()),
    "power": (lambda x: 2**x, lambda x: x * ((2**x - 1) / x).detach()),
    "inverse root": (
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1).pow(-0.5),
        lambda x: x * (x.square().mean(-1, keepdim=True) + 1).detach().rsqrt(),
    ),
    "root": (
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1) ** 0.5,
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1).detach().sqrt(),
    ),
}


@pytest.mark.parametrize("name", SLOPES)
def test_frozen_operators_are_those_of_the_functions_they_stand_for(name):
    function, held = SLOPES[name]
    run = freeze(function, [X])
    (made,) = run.multipliers(run.output.sum(), [run.sources[0].leaf])
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(held(x).sum(), x)
    torch.testing.assert_close(made, expected)
