"""Multipliers of functions of one number are their secants, at any distance and on either side of a kink.

The truth is computed with 60 digits.
"""

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare

mp.dps = 60
DISTANCES = [10.0**k for k in range(-12, 2)]
LAMBDA, ALPHA = mpf("1.0507009873554804934193349852946"), mpf("1.6732632423543772848170429916717")


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def elu(alpha, scale=1, inner=1):
    return lambda x: scale * (x if x > 0 else alpha * mpmath.expm1(inner * x))


def softplus(beta):
    return lambda x: mpmath.log1p(mpmath.exp(beta * x)) / beta


def normal(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def by_tanh(x):
    return x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpf(0.044715) * x**3)))


# The function, the same with many digits, and the points around which it is tried.
EXACT = {
    "elu": (F.elu, elu(1), [0, -1, 2]),
    "elu .2": (lambda x: F.elu(x, 0.2), elu(mpf(0.2)), [0, -3]),
    "elu 3": (nn.ELU(3.0), elu(3), [0, -0.5]),
    "elu in place": (lambda x: F.elu(x.clone(), 0.5, True), elu(mpf(0.5)), [0]),
    "elu of torch": (lambda x: torch._C._nn.elu(x, 2.0, 0.5, 3.0), elu(2, mpf(0.5), 3), [0, -1]),
    "selu": (F.selu, elu(ALPHA, LAMBDA), [0, -1, 2]),
    "celu": (F.celu, elu(1), [0]),
    "celu .3": (lambda x: F.celu(x, 0.3), elu(mpf(0.3), 1, 1 / mpf(0.3)), [0, -0.2, 1]),
    "celu 4": (nn.CELU(4.0), elu(4, 1, mpf(0.25)), [0, -2]),
    "softplus": (F.softplus, softplus(1), [0, -5, 10]),
    "softplus 50": (lambda x: F.softplus(x, 50.0, 60.0), softplus(50), [0, 0.01, -0.1]),
    "softplus 1000": (nn.Softplus(1000.0, 60.0), softplus(1000), [0, 1e-3, -0.02]),
    "softplus .1": (lambda x: F.softplus(x, beta=0.1), softplus(mpf(0.1)), [0, 30]),
    "logsigmoid": (F.logsigmoid, lambda x: -mpmath.log1p(mpmath.exp(-x)), [0, 5, -100]),
    "hardswish": (F.hardswish, lambda x: x * min(max(x + 3, 0), 6) / 6, [-3, 3, 0, -1.5]),
    "hardsigmoid": (F.hardsigmoid, lambda x: min(max(x + 3, mpf(0)), 6) / mpf(6), [-3, 3, 0]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), lambda x: x if x > 0 else mpf(0.2) * x, [0, -1, 2]),
    "relu": (F.relu, lambda x: max(x, 0), [0, 1, -1]),
    "softsign": (F.softsign, lambda x: x / (1 + abs(x)), [0, 1, -20]),
    "tanhshrink": (F.tanhshrink, lambda x: x - mpmath.tanh(x), [0, 0.01, 0.1, -2]),
    "tanh": (torch.tanh, mpmath.tanh, [0, 2]),
    "atan": (torch.atan, mpmath.atan, [0, 1, -3, 100]),
    "exp": (torch.exp, mpmath.exp, [0, -5]),
}
CROSSING = {"hardswish", "tanh"}
"""Of which the slope goes to 0 as a difference of numbers of the order of 1."""
CURVED = {
    "gelu": (F.gelu, lambda x: x * normal(x), [0, -0.75, 3]),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), by_tanh, [0, -0.75, 3]),
    "silu": (F.silu, lambda x: x * sigmoid(x), [0, -1.28, 5]),
    "mish": (F.mish, lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))), [0, -1.2, 5]),
    "erf": (torch.erf, mpmath.erf, [0, 1]),
    "asinh": (torch.asinh, mpmath.asinh, [0, 1]),
    "sinh": (torch.sinh, mpmath.sinh, [0, 1]),
    "cosh": (torch.cosh, mpmath.cosh, [0, 1]),
}


def points(around, dtype):
    """Return pairs of numbers at all distances from a point, on one side of it and on both."""
    made = []
    for center in around:
        for distance in DISTANCES:
            made += [(center + distance, center), (center, center - distance)]
            made += [(center + distance, center - distance), (center - distance / 3, center + distance)]
            made += [(center + 2 * distance, center + distance), (center - distance, center - 3 * distance)]
    pairs = torch.tensor(made, dtype=torch.float64).to(dtype)
    return pairs[pairs[:, 0] != pairs[:, 1]].unbind(1)


def errors(function, digits, around, dtype):
    """Return multipliers less secants, and the secants."""
    x, x0 = points(around, dtype)
    run = compare(lambda x: function(x).sum(), [x], [x0])
    (made,) = run.multipliers(run.output, [run.sources[0].leaf])
    secants = []
    for one, other in zip(x.tolist(), x0.tolist(), strict=True):
        difference = digits(mpf(one)) - digits(mpf(other))
        secants.append(float(difference / (mpf(one) - mpf(other))))
    secants = torch.tensor(secants, dtype=torch.float64)
    return made.double() - secants, secants


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_closed_forms_are_exact(name, dtype):
    error, secants = errors(*EXACT[name], dtype)
    eps = torch.finfo(dtype).eps
    smallest = 4 * eps if name in CROSSING else 1e-35  # float32 has no normal numbers below that
    assert (error.abs() <= 100 * eps * secants.abs() + smallest).all()


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
@pytest.mark.parametrize("name", CURVED)
def test_curved_functions_are_as_exact_as_rounding_allows(name, dtype, off):
    error, secants = errors(*CURVED[name], dtype)
    assert (error.abs() <= off * secants.abs().clamp(min=1)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXACT)
def test_at_the_same_point_the_multiplier_is_the_derivative(name, dtype):
    function, _, around = EXACT[name]
    x = torch.tensor([point + 0.013 for point in around], dtype=dtype, requires_grad=True)
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    run = compare(lambda x: function(x).sum(), [x.detach()], [x.detach()])
    (made,) = run.multipliers(run.output, [run.sources[0].leaf])
    torch.testing.assert_close(made, expected, rtol=1e-4 if dtype is torch.float32 else 1e-8, atol=1e-6)


@pytest.mark.parametrize("threshold", [1.0, 5.0, 20.0])
def test_softplus_with_its_jump_at_the_threshold_adds_up(threshold):
    x = threshold / 2 + torch.tensor([1e-9, 0.3, -0.2, 2.0]).double()
    x0 = threshold / 2 - torch.tensor([1e-9, 1e-6, 0.3, -1.0]).double()
    run = compare(lambda x: F.softplus(x, 2.0, threshold), [x], [x0])
    (made,) = run.contributions(run.output.sum())
    torch.testing.assert_close(made, (run.output - run.base).detach(), rtol=1e-12, atol=1e-14)


# Exponents, and whether the base may be negative.
EXPONENTS = [10, 9, 13, 24, -9, 2.5, 0.3, 1.5, 0.5, 3, 8, -3, -2.5, 1, 0]
BASES = [-2.0, -1.0, -1.0 + 1e-7, -0.3, 0.0, 1e-4, 0.3, 1.0, 1.0 + 1e-7, 1.7, 3.0]


def defined(base, exponent):
    return (base > 0) | ((exponent == round(exponent)) & (base < 0)) | ((base == 0) & (exponent >= 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", ["number", "one", "each", "broadcast"])
@pytest.mark.parametrize("n", EXPONENTS)
def test_powers(n, form, dtype):
    bases = torch.tensor(BASES, dtype=dtype)
    bases = bases[defined(bases, n)]
    x, x0 = (side.flatten() for side in torch.meshgrid(bases, bases, indexing="ij"))
    x, x0 = x[x != x0], x0[x != x0]
    exponent = {
        "number": n,
        "one": torch.tensor(float(n), dtype=dtype),
        "each": torch.full((len(x),), float(n), dtype=dtype),
        "broadcast": torch.full((2, 1), float(n), dtype=dtype),
    }[form]
    run = compare(lambda x: (x**exponent).sum(), [x], [x0])
    (made,) = run.multipliers(run.output, [run.sources[0].leaf])
    power = n if n == round(n) else mpf(n)
    secants = [
        float((mpf(a) ** power - mpf(b) ** power) / (mpf(a) - mpf(b)))
        for a, b in zip(x.tolist(), x0.tolist(), strict=True)
    ]
    expected = torch.tensor(secants, dtype=torch.float64) * (2 if form == "broadcast" else 1)
    eps = torch.finfo(dtype).eps
    largest = torch.maximum(x.double().abs() ** n, x0.double().abs() ** n) / (x - x0).double().abs().clamp(
        min=0.1
    )
    allowed = 300 * eps * torch.maximum(expected.abs(), largest.nan_to_num(0, 0)) + 1e-35
    assert ((made.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("n", [10, 9, 2.5, 1.0, 1.5])
def test_a_power_of_0_in_both_runs_has_its_derivative(n):
    x = torch.zeros(1)
    run = compare(lambda x: (x**n).sum(), [x], [x])
    (made,) = run.multipliers(run.output, [run.sources[0].leaf])
    assert made.item() == (1.0 if n == 1 else 0.0)


@pytest.mark.parametrize(
    ("n", "x", "x0"), [(-9, 1.0, 0.0), (-0.3, 1.0, 0.0), (-2, 1.0, 0.0), (2.5, -1.0, 1.0)]
)
def test_powers_that_are_not_finite_are_rejected_by_what_they_are(n, x, x0):
    with pytest.raises(ValueError, match=r"pow.*infinite or not a number"):
        compare(lambda x: x**n, [torch.tensor([x])], [torch.tensor([x0])])


@pytest.mark.parametrize("base", [2.0, 0.5, torch.tensor([1.0, 3.0, 0.1])])
@pytest.mark.parametrize("form", [torch.pow, lambda b, x: b**x])
def test_powers_of_numbers(form, base):
    if isinstance(base, torch.Tensor) and form is not torch.pow:
        base = base.double()
    x, x0 = torch.tensor([1.0, -2.0, 0.3]).double(), torch.tensor([0.0, 1.0, 0.3 + 1e-9]).double()
    run = compare(lambda x: form(base, x), [x], [x0])
    (made,) = run.contributions(run.output.sum())
    torch.testing.assert_close(made, (run.output - run.base).detach(), rtol=1e-6, atol=1e-15)
