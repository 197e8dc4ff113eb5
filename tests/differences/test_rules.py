"""Every rule: multipliers times differences sum to the difference of the output."""

import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare
from captum_globenc.differences.decompositions import DECOMPOSITIONS
from captum_globenc.differences.op_sets import functions
from captum_globenc.differences.rules import ROWS
from captum_globenc.differences.scalars import SCALARS
from completeness import assert_complete, pairs, random

torch.manual_seed(0)
CONSTANT = torch.randn(4, 6, dtype=torch.float64)
WEIGHT = torch.randn(6, 6, dtype=torch.float64)
MASK = torch.rand(4, 6) > 0.4


POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "reciprocal", "pow"}
SHARES = {"asin", "acos", "atanh"}
"""Functions of numbers between -1 and 1."""
SYNONYMS = {
    *("clip", "absolute", "arctan", "arcsinh", "arcsin", "arccos", "arctanh", "log_sigmoid", "expit"),
    *("divide", "true_divide", "truediv", "multiply", "mm", "linalg_norm", "linalg_vector_norm"),
    *("_softmax", "_log_softmax"),
    *(f"{name}{dims}" for name in ("max_pool", "adaptive_max_pool") for dims in ("1d", "2d", "3d")),
    *(f"max_pool{dims}_with_indices" for dims in ("1d", "2d", "3d")),
}
"""Other names of functions that are tested, or the same in another dimension."""
FURTHER = {
    "clamp": {"min": -0.5, "max": 0.7},
    "clip": {"min": -0.5, "max": 0.7},
    "clamp_min": {"min": 0.1},
    "clamp_max": {"max": 0.1},
    "threshold": {"threshold": 0.1, "value": 0.1},
    "rrelu": {"lower": 0.2, "upper": 0.2},
    "pow": {"exponent": 1.7},
}
SCALAR_NAMES = [name for names, _ in SCALARS for name in names.split() if name not in SYNONYMS]


def scalar(name):
    return next(it for it in (getattr(space, name, None) for space in (F, torch, torch.special)) if it)


@pytest.mark.parametrize("name", SCALAR_NAMES)
@pytest.mark.parametrize("case", range(9))
def test_functions_of_one_number(name, case):
    cases = list(pairs((4, 6), positive=name in POSITIVE))
    _, x, x0 = cases[case % len(cases)]
    if name in ("exp", "expm1", "sinh", "cosh"):
        x, x0 = x.clamp(-9, 9), x0.clamp(-9, 9)
    if name in SHARES:
        x, x0 = 0.99 * x.tanh(), 0.99 * x0.tanh()
    # Where the points are moved apart, curvature is left: h^2 phi''' / 24 each.
    assert_complete(lambda x: scalar(name)(x, **FURTHER.get(name, {})), [x], [x0], 1e-11)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, -1, 0.5, -0.5, 2.5, -2])
def test_powers(exponent):
    for _, x, x0 in pairs((4, 6), positive=exponent != int(exponent) or exponent < 0):
        assert_complete(lambda x: x**exponent, [x], [x0])
        assert_complete(lambda x: torch.pow(x, exponent=exponent), [x], [x0])


LINEAR_CASES = OrderedDict(
    {
        "operators": lambda x: 2 - (x + CONSTANT) * 3 + (-x) / 4 + CONSTANT * x,
        "from the left": lambda x: CONSTANT - x,
        "keywords": lambda x: torch.add(input=x, other=CONSTANT, alpha=2),
        "broadcast": lambda x: x[:, None] + x[None] + x.sum(0),
        "shapes": lambda x: (
            x.reshape(2, 12)
            .permute(1, 0)
            .reshape(4, 6)
            .transpose(0, 1)
            .contiguous()
            .mT.unsqueeze(0)
            .squeeze(0)
        ),
        "parts": lambda x: torch.cat([x[:, :2], x[..., 3:], x[[1, 2, 0, 3]][:, [1]]], dim=-1),
        "split": lambda x: torch.stack([*x.split(2, 0)[::-1], *x.chunk(2)]).sum(0),
        "unbind": lambda x: torch.stack(x.unbind(1)[::2], 1),
        "gather": lambda x: x.gather(1, torch.tensor([[0, 3], [1, 1], [5, 2], [0, 0]])),
        "masked": lambda x: x.masked_fill(MASK, -3.0).where(~MASK, CONSTANT),
        "where": lambda x: torch.where(MASK, x, 2 * x),
        "sums": lambda x: x.mean(1, keepdim=True) + x.cumsum(1) - x.sum(dim=0),
        "padded": lambda x: F.pad(x, (1, 2)).roll(1, 0).flip(1),
        "pooled": lambda x: F.adaptive_avg_pool1d(x, 3) + F.avg_pool1d(x, 2),
        "linear": lambda x: F.linear(x, WEIGHT, bias=CONSTANT[0]) @ WEIGHT,
        "addmm": lambda x: (
            torch.addmm(CONSTANT, x, WEIGHT) + torch.baddbmm(CONSTANT[None], x[None], WEIGHT[None])[0]
        ),
        "einsum": lambda x: torch.einsum("bi,ij->bj", x, WEIGHT),
        "convolution": lambda x: F.conv1d(x[None], CONSTANT[:, :4, None].expand(4, 4, 3), padding=1),
        "batch norm": lambda x: F.batch_norm(x, CONSTANT[0], CONSTANT[0].abs() + 1, CONSTANT[1]),
        "weight norm": lambda x: torch._weight_norm(WEIGHT, CONSTANT[0][:, None], 0) @ x.T,
        "index add": lambda x: torch.zeros(2, 6, dtype=x.dtype).index_add(0, torch.tensor([0, 1, 1, 0]), x),
        "scatter": lambda x: torch.zeros_like(x).scatter_add(1, torch.zeros(4, 6, dtype=torch.long), x),
        "fourier": lambda x: torch.fft.fftn(torch.fft.fft(x, dim=-1), dim=(0, 1)).real,
        "interpolated": lambda x: F.interpolate(x[None], scale_factor=2, mode="linear"),
        "types": lambda x: x.to(torch.float64).type_as(CONSTANT).double(),
        "detached": lambda x: x.detach() + x.data,
        "spectrum": lambda x: torch.stft(x, 4, 2, window=WEIGHT[0, :4], return_complex=True).imag,
        "filled at": lambda x: x.index_fill(1, torch.tensor([0, 4]), 2.0),
        "scattered": lambda x: x.select_scatter(x[0] + 1, 0, 1).slice_scatter(x[:2], 0, 2),
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "in place": lambda x: (x * 1).add_(CONSTANT).mul_(2).sub_(1).masked_fill_(MASK, 0.0),
        "operators in place": lambda x: _in_place(x),
        "written into": lambda x: _written(x),
        "copied into a view": lambda x: _copied(x),
    }
)


def _in_place(x):
    x = x.clone()
    x += CONSTANT
    x -= 2 * x
    x *= CONSTANT
    x /= 3
    return x


def _written(x):
    made = torch.zeros(5, 6, dtype=x.dtype)
    made[1:] = x
    made[0, 2:4] = x[1, :2]
    return made


def _copied(x):
    made = torch.ones(4, 8, dtype=x.dtype)
    made[:, 1:7].copy_(x)
    made[:, 0].add_(x[:, 5])
    return made


@pytest.mark.parametrize("name", LINEAR_CASES)
def test_linear_functions(name):
    for _, x, x0 in pairs((4, 6)):
        assert_complete(LINEAR_CASES[name], [x], [x0])


QUADRATIC_CASES = {
    "square": lambda x, y: x * x + y.square(),
    "product": lambda x, y: x * y + torch.mul(x[:, :1], other=y) * y.sum(0) + x * 1.5,
    "quotient": lambda x, y: x / (y.square() + 1) + 2 / (1 + x * x) + torch.div(y, x.exp()),
    "matmul": lambda x, y: x @ y.T @ x + torch.bmm(x[None], y.T[None])[0] @ y,
    "vectors": lambda x, y: x @ y[0] + y[1] @ x.T + torch.dot(x[0], y[0]),
    "broadcast": lambda x, y: x.reshape(2, 1, 2, 6) @ y.reshape(1, 4, 6, 1),
    "from the right": lambda x, y: CONSTANT.T @ x + torch.matmul(x.T, y),
    "einsum": lambda x, y: torch.einsum("bi,bj->ij", x, y) + torch.einsum("bi,ci->bc", [x, y]).sum(),
    "added": lambda x, y: torch.addmm(x[:, :4], x, y.T) + torch.addcmul(x, y, x)[:, :4],
    "quotient added": lambda x, y: torch.addcdiv(x, y, x.exp(), value=0.5),
    "lerp": lambda x, y: torch.lerp(x, y, y.sigmoid()),
    "in place": lambda x, y: (x * 1).mul_(y).div_(y.exp()).addcmul_(x, y),
    "outer": lambda x, y: torch.outer(x[0], y[1]) + torch.tensordot(x, y, dims=([0], [0])),
    "products of a row": lambda x, y: x.prod(-1) + torch.prod(y, 0, keepdim=True).sum() + (x[0] / 9).prod(),
    "vecdot": lambda x, y: torch.linalg.vecdot(x, y) + torch.linalg.vecdot(x, CONSTANT),
    "bilinear": lambda x, y: F.bilinear(x, y, WEIGHT[None].expand(3, 6, 6)),
    "same": lambda x, y: torch.einsum("bi,bi->b", x, x),
}


@pytest.mark.parametrize("name", QUADRATIC_CASES)
def test_products(name):
    for (_, x, x0), (_, y, y0) in zip(pairs((4, 6)), list(pairs((4, 6)))[::-1], strict=True):
        if "quotient" in name or name == "in place":
            x, x0, y, y0 = (side.clamp(-3, 3) for side in (x, x0, y, y0))
        assert_complete(QUADRATIC_CASES[name], [x, y], [x0, y0])


INVERTIBLE = WEIGHT / 6 + torch.eye(6, dtype=torch.float64)


def _invertible(x):
    return x.T @ x / (1 + x.square().sum()) + INVERTIBLE


SYSTEM_CASES = {
    "right side": lambda x, y: torch.linalg.solve(INVERTIBLE, x.T),
    "matrix": lambda x, y: torch.linalg.solve(_invertible(x), CONSTANT.T),
    "both": lambda x, y: torch.linalg.solve(_invertible(x), y.T),
    "of vectors": lambda x, y: torch.linalg.solve(_invertible(x), y[0]),
    "from the right": lambda x, y: torch.linalg.solve(_invertible(x), y, left=False),
    "batches": lambda x, y: torch.linalg.solve(torch.stack([_invertible(x), _invertible(y)]), x.T),
    "inverse": lambda x, y: torch.linalg.inv(_invertible(x)) @ _invertible(y).inverse(),
    "upper": lambda x, y: torch.linalg.solve_triangular(_invertible(x), y.T, upper=True),
    "lower": lambda x, y: torch.linalg.solve_triangular(_invertible(x), y, upper=False, left=False),
    "ones on the diagonal": lambda x, y: torch.linalg.solve_triangular(
        _invertible(x), y.T, upper=False, unitriangular=True
    ),
    "lower, of a constant": lambda x, y: torch.linalg.solve_triangular(
        _invertible(x), INVERTIBLE, upper=False, left=True
    ),
}


@pytest.mark.parametrize("name", SYSTEM_CASES)
def test_systems_of_equations(name):
    for (_, x, x0), (_, y, y0) in zip(pairs((4, 6)), list(pairs((4, 6)))[::-1], strict=True):
        assert_complete(SYSTEM_CASES[name], [x, y], [x0, y0], 1e-10)


@pytest.mark.parametrize("name", ["both", "upper", "ones on the diagonal"])
def test_contributions_to_a_solution_are_averages_over_both_orders(name):
    """The average of changing the argument first and last, as for a product."""
    matrices, sides = (
        (_invertible(random(4, 6)), _invertible(random(4, 6, seed=1))),
        (random(6, 3), random(6, 3, seed=1)),
    )
    further = {} if name == "both" else {"upper": name == "upper", "unitriangular": name != "upper"}
    solve = torch.linalg.solve if name == "both" else torch.linalg.solve_triangular

    def run(matrix, side):
        return solve(matrix, side, **further).sum()

    both = compare(run, [matrices[0], sides[0]], [matrices[1], sides[1]])
    of_matrix, _ = both.contributions(both.output)
    first = run(matrices[0], sides[1]) - run(matrices[1], sides[1])
    last = run(matrices[0], sides[0]) - run(matrices[1], sides[0])
    torch.testing.assert_close(of_matrix.sum(), (first + last) / 2, rtol=1e-10, atol=1e-12)
    if further:
        unread = of_matrix.tril(-1) if further["upper"] else of_matrix.triu()
        assert not unread.any()


MASKED = torch.zeros(4, 6, dtype=torch.float64).masked_fill(MASK, -math.inf)
MASKED[2] = -math.inf
LOWEST = torch.zeros(4, 6, dtype=torch.float64).masked_fill(MASK, torch.finfo(torch.float64).min)
PARTLY = torch.where(MASK & (torch.arange(6) > 0), -math.inf, 0.0).double()

SOFTMAX_CASES = {
    "softmax": lambda x: x.softmax(-1),
    "function": lambda x: F.softmax(x, dim=0, dtype=torch.float64) + torch.softmax(input=x, dim=1),
    "masked": lambda x: (x + PARTLY).softmax(-1),
    "all masked": lambda x: (x + MASKED).softmax(-1).nan_to_num(),
    "lowest": lambda x: (x + LOWEST).softmax(-1),
    "logarithm": lambda x: x.log_softmax(-1) + F.log_softmax(x, 0),
    "sum of exponentials": lambda x: x.logsumexp(0) + torch.logsumexp(x, dim=(1,), keepdim=True),
    "softmin": lambda x: F.softmin(x, dim=-1),
    "logaddexp": lambda x: torch.logaddexp(x, 2 * x.flip(0)),
    "other bases": lambda x: (1 + x.tanh().exp2()).log2() + (2 + x.tanh()).log10(),
    "angles": lambda x: x.tanh().tan() + (0.5 + 0.4 * x.tanh()).logit() + torch.logit(x.sigmoid(), 0.2),
    "times a logarithm": lambda x: torch.xlogy(MASK, 1 + x.square()) + torch.special.xlogy(x, 2 + x.tanh()),
}


@pytest.mark.parametrize("name", SOFTMAX_CASES)
def test_softmax(name):
    for label, x, x0 in pairs((4, 6)):
        if name == "all masked":
            both = compare(SOFTMAX_CASES[name], [x], [x0])
            (made,) = both.contributions(both.output[[0, 1, 3]].sum())
            assert torch.isfinite(made).all()
            assert not made[2].any(), label
        else:
            assert_complete(SOFTMAX_CASES[name], [x], [x0], 1e-11 if name == "logaddexp" else 1e-12)


def test_scores_of_hundreds_overflow_nowhere():
    x, x0 = 400 * random(3, 5), 400 * random(3, 5, seed=1)
    for function in (lambda x: x.softmax(-1), lambda x: x.log_softmax(-1), lambda x: x.logsumexp(-1)):
        assert_complete(function, [x], [x0])
        assert_complete(function, [x.float()], [x0.float()], 1e-6)


def test_a_constant_added_to_all_scores_does_not_change_a_softmax():
    """Multipliers of shares sum to 0 and multipliers of the logarithm of a sum to 1, as its gradients do."""
    x, x0 = random(3, 5), random(3, 5, seed=1) + 7
    for function, total in (
        (lambda x: x.softmax(-1)[:, 0], 0.0),
        (lambda x: x.log_softmax(-1)[:, 0], 0.0),
        (lambda x: x.logsumexp(-1), 1.0),
    ):
        both = compare(function, [x], [x0])
        (made,) = both.multipliers(both.output.sum(), [both.sources[0].leaf])
        torch.testing.assert_close(made.sum(-1), torch.full((3,), total, dtype=x.dtype), rtol=0, atol=1e-14)


NORM_CASES = {
    "layer norm": lambda x: F.layer_norm(x, (6,), CONSTANT[0], CONSTANT[1]),
    "with a flag": lambda x: torch.layer_norm(x, (6,), CONSTANT[0], None, 1e-5, True),
    "its kernel": lambda x: torch.native_layer_norm(x, (6,), CONSTANT[0], None, 1e-5)[0],
    "of two dimensions": lambda x: F.layer_norm(x, normalized_shape=(4, 6), eps=1e-12),
    "rms norm": lambda x: F.rms_norm(x, (6,), CONSTANT[0]) + F.rms_norm(x, (6,), eps=0.1),
    "group norm": lambda x: F.group_norm(x.reshape(2, 6, 2), 3, CONSTANT[0], CONSTANT[1]),
    "instance norm": lambda x: F.instance_norm(
        x.reshape(1, 3, 8), weight=CONSTANT[0, :3], bias=CONSTANT[1, :3]
    ),
    "vector norm": lambda x: x.norm(dim=-1) + torch.linalg.vector_norm(x, dim=1) + x.norm(),
    "kept": lambda x: torch.linalg.norm(x, 2, -1, True) + torch.norm(x, p=2, dim=0, keepdim=True),
    "normalize": lambda x: F.normalize(x, dim=-1) + F.normalize(x, p=2.0, dim=0),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(1), dim=-1) + F.cosine_similarity(x, CONSTANT),
    "distance": lambda x: F.pairwise_distance(x, CONSTANT),
    "variance": lambda x: x.var(-1) + x.var(-1, unbiased=False) + x.std() + torch.var(x, dim=1, correction=0),
    "variance and mean": lambda x: sum(torch.var_mean(x, 1, keepdim=True)) + sum(torch.std_mean(x, dim=0)),
    "distances": lambda x: torch.cdist(x, CONSTANT) + torch.cdist(x, x[:1]),
    "written out": lambda x: (x - x.mean(-1, keepdim=True)) * (x.var(-1, keepdim=True) + 1e-3).rsqrt(),
    "gate": lambda x: F.glu(x, -1),
}


@pytest.mark.parametrize("name", NORM_CASES)
def test_norms(name):
    for label, x, x0 in pairs((4, 6)):
        if name != "vector norm" and label == "zeros":
            continue
        assert_complete(NORM_CASES[name], [x], [x0])


def test_parameters_may_be_exchanged_after_the_run():
    norm = torch.nn.LayerNorm(6).double()
    x, x0, weight = random(4, 6), random(4, 6, seed=1), random(6, seed=2)
    norm.weight.data = weight
    both = compare(lambda x: norm(x).square().sum(), [x], [x0])
    norm.weight.data = torch.zeros(6)
    (found,) = both.contributions(both.output)
    assert torch.allclose(found.sum(), both.output - both.base, rtol=1e-12, atol=0)


def test_statistics_of_a_norm():
    x, x0 = random(4, 6), random(4, 6, seed=1)
    for number in (1, 2):
        both = compare(
            lambda x, at=number: torch.native_layer_norm(x, (6,), None, None, 1e-5)[at].sum(), [x], [x0]
        )
        (found,) = both.contributions(both.output)
        assert torch.allclose(both.output, torch.native_layer_norm(x, (6,), None, None, 1e-5)[number].sum())
        assert torch.allclose(found.sum(), both.output - both.base, rtol=1e-12, atol=0)


SELECTION_CASES = {
    "maximum": lambda x, y: torch.maximum(x, y) + torch.minimum(x, other=y) * 2 + torch.max(x, 0.1 * y),
    "of a dimension": lambda x, y: x.max(-1).values + torch.max(y, dim=1)[0] + x.amax(1) - y.amin(dim=-1),
    "kept": lambda x, y: x.max(0, keepdim=True)[0] + y.min(0, True).values,
    "between": lambda x, y: x.clamp(min=y) + torch.clamp(x, max=y) + CONSTANT.clamp(max=y) + y.clamp_min(x),
    "below": lambda x, y: x.clamp_max(y) + torch.clip(CONSTANT, x, x + 1),
    "slopes": lambda x, y: F.prelu(x, CONSTANT[0]) + F.prelu(y, y[0]) + F.prelu(y, CONSTANT[0, :1]),
    "of all": lambda x, y: x.max() + y.min() * 2 + x.amax(),
    "pooled": lambda x, y: F.max_pool1d(x, 2) + F.max_pool1d(y, kernel_size=3, stride=2, padding=1),
    "pooled in two dimensions": lambda x, y: (
        F.max_pool2d(x[None], 2) + F.adaptive_max_pool2d(y[None], (2, 3))
    ),
}


@pytest.mark.parametrize("name", SELECTION_CASES)
def test_maxima(name):
    for (_, x, x0), (_, y, y0) in zip(pairs((4, 6)), list(pairs((4, 6)))[::-1], strict=True):
        assert_complete(SELECTION_CASES[name], [x, y], [x0, y0])


def test_a_maximum_credits_what_changed_it():
    both = compare(
        lambda x: x.max(0).values, [torch.tensor([1.0, 3.0, 0.5])], [torch.tensor([1.0, 0.0, 0.5])]
    )
    assert both.contributions(both.output)[0].tolist() == [0.0, 2.0, 0.0]


ELSEWHERE = {
    "scaled_dot_product_attention",
    "multi_head_attention_forward",
    "topk",
    "grouped_mm",
    "_grouped_mm",
}
"""Tested in test_attention.py, test_ties.py and test_decisions.py."""


def test_every_name_with_a_rule_of_its_own_is_tested():
    called = set()

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            called.add(func)
            return func(*args, **(kwargs or {}))

    x, y = random(4, 6, positive=True), random(4, 6, seed=1, positive=True)
    with Spy():
        for name in SCALAR_NAMES:
            scalar(name)(x, **FURTHER.get(name, {}))
        for cases in (SOFTMAX_CASES, NORM_CASES, LINEAR_CASES):
            for case in cases.values():
                case(x)
        for cases in (QUADRATIC_CASES, SYSTEM_CASES, SELECTION_CASES):
            for case in cases.values():
                case(x, y)
    names = {name for names, _ in (*SCALARS, *DECOMPOSITIONS, *ROWS) for name in names.split()}
    assert {name for name in names - ELSEWHERE - SYNONYMS if not functions(name) & called} == set()


def test_names_stand_for_methods_operators_and_functions():
    for names, _ in (*SCALARS, *DECOMPOSITIONS):
        for name in names.split():
            assert functions(name), name
    assert {torch.add, Tensor.add, Tensor.add_, Tensor.__radd__, Tensor.__iadd__} <= functions("add")
