"""Equal elements of a maximum get equal shares, and contributions sum."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare


def contributions(function, x, x0):
    """Return contributions to the sum of a function, which sum to the difference for each element."""
    run = compare(function, [x], [x0])
    weights = torch.arange(1.0, run.output.numel() + 1).double().view(run.output.shape)
    (made,) = run.contributions((run.output * weights).sum())
    torch.testing.assert_close(made.sum(), ((run.output - run.base) * weights).sum().detach())
    return made


MAXIMA = {
    "amax": lambda x: x.amax(1),
    "amax keepdim": lambda x: x.amax(1, True),
    "max": lambda x: x.max(1)[0],
    "max by keyword": lambda x: torch.max(x, dim=-1).values,
    "max of all": lambda x: torch.stack([row.max() for row in x]),
    "amin": lambda x: -(-x).amin(1),
    "min": lambda x: -(-x).min(1)[0],
    "topk": lambda x: x.topk(1).values,
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], x.shape[1]).flatten(),
    "max_pool2d": lambda x: F.max_pool2d(x[:, None, None], (1, x.shape[1])).flatten(),
    "adaptive": lambda x: F.adaptive_max_pool1d(x[:, None], 1).flatten(),
    "with indices": lambda x: F.max_pool1d(x[:, None], x.shape[1], return_indices=True)[0].flatten(),
    "maximum": lambda x: torch.stack(x.unbind(1)).amax(0),
}


@pytest.mark.parametrize("name", MAXIMA)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_equal_players_get_equal_shares(name, count):
    x = torch.cat([torch.full((2, count), 3.0), torch.tensor([[1.0], [2.0]])], 1).double()
    expected = torch.cat([torch.full((2, count), 3.0 / count), torch.zeros(2, 1)], 1) * torch.tensor(
        [[1.0], [2.0]]
    )
    x0 = torch.zeros_like(x)
    x0[:, -1] = -1
    torch.testing.assert_close(contributions(MAXIMA[name], x, x0), expected.double())


@pytest.mark.parametrize("name", [name for name in MAXIMA if name != "topk"])
def test_ties_in_one_run_add_up_as_two_players_of_maximum_do(name):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, x0 = (torch.randint(0, 3, (2, 2), generator=generator).double() for _ in range(2))
        made = contributions(MAXIMA[name], x, x0)
        pair = contributions(lambda x: torch.maximum(x[:, 0], x[:, 1]), x, x0)
        torch.testing.assert_close(made, pair)


@pytest.mark.parametrize("name", [name for name in MAXIMA if name != "topk"])
def test_ties_of_many_add_up_and_are_symmetric(name):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        x, x0 = (torch.randint(0, 3, (2, 6), generator=generator).double() for _ in range(2))
        made = contributions(MAXIMA[name], x, x0)
        order = torch.randperm(6, generator=generator)
        torch.testing.assert_close(contributions(MAXIMA[name], x[:, order], x0[:, order]), made[:, order])


@pytest.mark.parametrize("dim", [(0, 1), (1, 2), (-1, 0), (), None, 2])
def test_maxima_along_several_dimensions(dim):
    x, x0 = torch.randint(0, 4, (2, 3, 4, 2), generator=torch.Generator().manual_seed(1)).double()
    function = torch.max if dim is None else lambda x: x.amax(dim)
    contributions(function, x, x0)


POOLS = {
    "2d": (lambda x: F.max_pool2d(x, 2), 2),
    "overlapping": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), 2),
    "dilated": (lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 1), (2, 1)), 2),
    "ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), 2),
    "module": (torch.nn.MaxPool2d(2, padding=1), 2),
    "1d": (lambda x: F.max_pool1d(x, 3, 1, 1), 1),
    "3d": (lambda x: F.max_pool3d(x, 2, 1), 3),
    "adaptive": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), 2),
    "adaptive 3d": (lambda x: F.adaptive_max_pool3d(x, 2), 3),
}


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("name", POOLS)
def test_pools_add_up_in_every_window(name, batch):
    pool, dims = POOLS[name]
    generator = torch.Generator().manual_seed(2)
    shape = (*batch, 2, *(7, 5, 6)[:dims])
    for numbers in (
        torch.randint(-2, 2, (2, *shape), generator=generator).double(),
        torch.randn(2, *shape).double(),
    ):
        run = compare(pool, list(numbers[:1]), list(numbers[1:]))
        for place in range(0, run.output.numel(), 3):
            (made,) = run.contributions(run.output.flatten()[place])
            change = (run.output - run.base).flatten()[place].detach()
            torch.testing.assert_close(made.sum(), change)


def test_values_of_topk_are_linear_in_what_was_selected():
    x = torch.tensor([[3.0, 1.0, 2.0, 2.0]]).double()
    x0 = torch.tensor([[2.0, 0.0, 1.0, 1.0]]).double()
    made = contributions(lambda x: x.topk(2, 1).values[:, 1], x, x0)
    torch.testing.assert_close(made, torch.tensor([[0.0, 0.0, 0.5, 0.5]]).double())
    for function in (
        lambda x: x.topk(2, 0, largest=False)[0],
        lambda x: torch.topk(input=x, k=2, dim=0).values,
    ):
        contributions(function, x.T, x0.T)


def test_topk_that_selects_others_at_the_baseline_is_rejected():
    with pytest.raises(ValueError, match="topk .*selects other elements at the baseline"):
        compare(lambda x: x.topk(2).values, [torch.tensor([1.0, 2.0, 3.0])], [torch.tensor([3.0, 2.0, 1.0])])
