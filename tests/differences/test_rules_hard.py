"""Hard cases of rules: argument names, mixed dtypes, distant numbers; and errors."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare, freeze

X, X0 = (torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
COUNTS = torch.tensor([[3], [7], [1], [6]])


def compared(function, x=X, x0=X0):
    """Check that contributions sum to the difference, and that the output is the function's own."""
    both = compare(function, [x], [x0])
    (made,) = both.contributions(both.output.sum())
    torch.testing.assert_close(made.sum(), (both.output.detach() - both.base).sum(), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(both.output.detach(), function(x), rtol=1e-13, atol=1e-13)


EXACT = {
    "a whole number of each": lambda x: (x * 2).sum(1, keepdim=True) / COUNTS,
    "numbers of lower precision": lambda x: x / torch.full((6,), 1 / 3),
    "inverse powers": lambda x: (x - 9) ** -2 + torch.pow(x + 9, -3) + (x - 7).pow(-4.0),
    "roots": lambda x: (x * x).sum(1).pow(0.5) + (x * 0).sum(1) ** 0.5,
    "by name": lambda x: torch.matmul(other=x.T.exp(), input=x) + torch.mul(other=x, input=x) @ x.T,
    "norms by name": lambda x: (
        torch.linalg.vector_norm(x, ord=2, dim=-1)
        + torch.norm(input=x, dim=1)
        + torch.linalg.norm(x)
        + torch.linalg.norm(x, "fro", (0, 1))
        + torch.linalg.vector_norm(x, 2.0, dim=(0, 1), keepdim=True)[0]
    ),
    "cosines of one with several": lambda x: F.cosine_similarity(x, x.exp()[:, None], dim=2),
    "cosines along another": lambda x: F.cosine_similarity(x, x.exp()[:, None], dim=1),
    "quotients of either side": lambda x: torch.div(2, x.exp()) + torch.true_divide(other=x.exp(), input=x),
    "rows": lambda x: torch.stack([row.exp() for row in x]) + sum(part.tanh() for part in x.T)[:, None],
    "nothing": lambda x: x[:0].exp() @ F.layer_norm(x, (6,)).T @ x,
}


@pytest.mark.parametrize("name", EXACT)
def test_differences_are_exact(name):
    compared(EXACT[name])


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4), (2, 2, 3, 2)])
def test_a_softmax_of_no_dimension_is_of_the_one_that_torch_takes(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in (F.softmax, F.log_softmax, F.softmin, nn.Softmax()):
            compared(lambda x, of=function: of(x.reshape(shape)).square())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_of_numbers_far_apart(dtype):
    x, x0 = (
        torch.tensor([1e-30, 1.0, 3e-9, 2.0], dtype=dtype),
        torch.tensor([1.0, 1e-30, 2.0, 2.1], dtype=dtype),
    )
    both = compare(lambda x: x.log() + x**1.5, [x], [x0])
    (made,) = both.contributions(both.output.sum())
    torch.testing.assert_close(made, (both.output - both.base).detach(), rtol=1e-5, atol=0)


def _batch_norm(x):
    return F.batch_norm(x, torch.zeros(6).double(), torch.ones(6).double(), training=True)


REFUSED = {
    "order is 1": lambda x: torch.linalg.vector_norm(x, ord=1, dim=-1),
    "order is 2": lambda x: torch.linalg.norm(x, 2),
    "order is nuc": lambda x: torch.linalg.norm(x, ord="nuc"),
    "more than two of its factors": lambda x: torch.einsum("bi,bi,bi->b", x, x.exp(), x),
    "statistics of the batch": _batch_norm,
    "complex numbers": lambda x: (torch.fft.fft(x) * torch.fft.fft(x).conj()).real,
    "of complex": lambda x: torch.fft.fft(x).abs(),
}


@pytest.mark.parametrize("message", REFUSED)
def test_unsupported_arguments_of_a_rule_are_rejected(message):
    with pytest.raises(ValueError, match=message):
        compare(REFUSED[message], [X], [X0])


def test_statistics_of_a_batch_are_rejected_in_a_frozen_network():
    with pytest.raises(ValueError, match="statistics of the batch"):
        freeze(_batch_norm, [X])


@pytest.mark.parametrize(
    "decide",
    [
        lambda x: x[x.to(torch.long)[0] % 4],
        lambda x: x[torch.where(x.relu())[0]],
        lambda x: x * x.to(torch.int8),
    ],
)
def test_numbers_that_become_whole_decide(decide):
    with pytest.raises(ValueError, match="decides what the model computes"):
        compare(decide, [X * 3], [X0 * 3])
    both = compare(decide, [X.abs() * 3], [X.abs() * 3])
    assert torch.equal(both.output, both.base)
