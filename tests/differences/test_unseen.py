"""Computations outside of torch functions are rejected if the sum of contributions would not reveal them."""

import pytest
import torch
from torch import nn

from captum_globenc.differences import compare, freeze

X, X0 = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
MODULE = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4)).double()


class Unseen(torch.autograd.Function):
    """Computes outside of torch functions, as a kernel of one's own does."""

    @staticmethod
    def forward(ctx, x):
        with torch._C.DisableTorchFunction():
            return x * 1

    @staticmethod
    def backward(ctx, grad):
        return -grad


@torch.jit.script
def scripted(x: torch.Tensor) -> torch.Tensor:
    return x * 2


UNSEEN = {
    "autograd function": lambda x: Unseen.apply(x.exp()).tanh(),
    "autograd function at the end": lambda x: Unseen.apply(x.exp()),
    "scripted": lambda x: scripted(x.exp()) + x,
    "scripted at the end": lambda x: scripted(x.exp()),
    "scripted on the way": lambda x: (scripted(x.exp()) * 3).tanh(),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize(
    "run", [lambda it: compare(it, [X], [X0]), lambda it: freeze(it, [X])], ids=["compare", "freeze"]
)
def test_a_function_with_unseen_parts_is_rejected(name, run):
    with pytest.raises(
        ValueError, match="function Unseen changes values" if "autograd" in name else "cannot be intercepted"
    ):
        run(UNSEEN[name])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: MODULE(x).softmax(-1),
        lambda x: MODULE(x).log_softmax(-1)[:, 0],
        lambda x: X,
        lambda ids: MODULE[0].weight[ids],
    ],
)
def test_constants_cannot_be_explained(function):
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
