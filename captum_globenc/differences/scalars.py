"""Rules of elementwise functions of one number: the secant through both runs.

    m = (phi(u) - phi(u0)) / (u - u0)

This is the rescale rule of Shrikumar et al. 2017. If u and u0 are close, the quotient loses digits:

- most functions have a closed form without a difference of close numbers;
- functions with a kink use the secant on each side, weighted by the share of the interval on that side;
- `smooth` moves the two points apart around their mean, to a distance d of 1e-2 (float32) or 1e-4 (float64).
  The error of the multiplier is then at most d^2 phi''' / 24. It suits functions without kinks whose third
  derivative is of order 1, or of the order of their first derivative.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, Rule

CLOSE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""The distance at which rounding and curvature cause equal errors, by dtype."""
PART = 1 << 18
"""Number of elements that are computed at once on a CPU, to fit the cache."""


def smooth(call: Call) -> Backward:
    """Return the rule of smooth functions without kinks; see the module's docstring."""
    pair = call.pair
    apart = CLOSE.get(pair.value.dtype, CLOSE[torch.float32])

    def secant(u: Tensor, u0: Tensor, out: Tensor | None = None) -> Tensor:
        distance = torch.sub(u, u0).abs_().clamp_min_(apart)
        middle = torch.lerp(u, u0, 0.5)
        above = _again(call, torch.add(middle, distance, alpha=0.5))
        below = _again(call, middle.sub_(distance, alpha=0.5))
        return torch.sub(above, below, out=middle if out is None else out).div_(distance)

    if pair.value.device.type != "cpu" or pair.value.numel() <= PART:
        multiplier = secant(pair.value, pair.base)
    else:
        multiplier = torch.empty_like(pair.value, memory_format=torch.contiguous_format)
        sides = (pair.value, pair.base, multiplier)
        for u, u0, made in zip(*(torch.split(side.reshape(-1), PART) for side in sides), strict=True):
            secant(u, u0, made)
    return lambda grad: [(pair, grad * multiplier)]


def piecewise(call: Call) -> Backward:
    """Return the rule of piecewise linear functions: their secant, and torch's derivative if u = u0."""
    pair, output = call.pair, call.outputs[0]
    difference = pair.difference
    multiplier = output.difference / difference
    same = difference == 0
    if bool(same.any()):
        with torch.enable_grad():
            value = pair.value.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(_again(call, value.clone()).sum(), value)
        multiplier = torch.where(same, slope, multiplier)
    # NaN in both runs stays NaN, or becomes the same number; neither makes a difference.
    multiplier = torch.where(multiplier.isnan(), 0, multiplier)
    return lambda grad: [(pair, grad * multiplier)]


def _again(call: Call, value: Tensor) -> Tensor:
    """Call a function for another value, which it may overwrite; its other arguments are kept."""
    args = tuple(value if isinstance(arg, Pair) else arg for arg in call.args)
    kwargs = {name: value if isinstance(arg, Pair) else arg for name, arg in call.kwargs.items()}
    kwargs.pop("inplace", None)
    result: Tensor = call.function(*args, **kwargs)  # possibly in place
    return result


def _closed(multiplier: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Rule:
    """Return the rule of a multiplier in closed form, a function of u, u0, phi(u) and phi(u0)."""

    def rule(call: Call) -> Backward:
        pair, output = call.pair, call.outputs[0]
        made = multiplier(pair.value, pair.base, output.value, output.base)
        return lambda grad: [(pair, grad * made)]

    return rule


def tanhc(t: Tensor) -> Tensor:
    """tanh(t) / t, 1 at 0.

    Example:
        >>> tanhc(torch.tensor([0.0, 1.0]))
        tensor([1.0000, 0.7616])
    """
    t = t + torch.finfo(t.dtype).tiny * 1e4  # only changes t = 0
    return t.tanh().div_(t)


def tanhc_of_half(x: Tensor) -> Tensor:
    """tanh(x / 2) / (x / 2), with three kernels.

    Example:
        >>> tanhc_of_half(torch.tensor([0.0, 2.0]))
        tensor([1.0000, 0.7616])
    """
    t = torch.rsub(x, torch.finfo(x.dtype).tiny * 1e4, alpha=-0.5)
    return t.tanh().div_(t)


def _exponential(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """L(e^u, e^u0), with L the logarithmic mean: (y + y0) / 2 tanh(d) / d with d = (u - u0) / 2."""
    return (y + y0) / 2 * tanhc((u - u0) / 2)


def logarithm(u: Tensor, u0: Tensor) -> Tensor:
    """1 / L(u, u0): atanh(z) / z divided by the mean, z = (u - u0) / (u + u0); the definition for large z."""
    total = u + u0
    z = (u - u0) / total + torch.finfo(u.dtype).tiny * 1e4
    return torch.where(z.abs() < 0.5, 2 * z.atanh() / (z * total), (u.log() - u0.log()) / (u - u0))


def _tangent(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Tanh u - tanh u0 = tanh(u - u0) (1 - tanh u tanh u0)."""
    return (1 - y * y0) * tanhc(u - u0)


def _sigmoid(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Computed as tanh of half the argument: sigmoid(u) = (1 + tanh(u / 2)) / 2."""
    return (1 - (2 * y - 1) * (2 * y0 - 1)) * tanhc((u - u0) / 2) / 4


def _root(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """1 / (sqrt u + sqrt u0); 0 if both are 0."""
    return torch.where(y + y0 > 0, 1 / (y + y0), 0)


def _portion(u: Tensor, u0: Tensor, low: float = -math.inf, high: float = math.inf) -> Tensor:
    """Return the share of the interval from u0 to u that lies in (low, high]; 1 or 0 if u = u0."""
    way = u - u0
    part = (u.clamp(low, high) - u0.clamp(low, high)) / way
    return torch.where(way == 0, ((u > low) & (u <= high)).to(u.dtype), part)


def _by_parameters(multiplier: Callable[..., Tensor], *names: str) -> Rule:
    """Return the rule of a multiplier that depends on parameters of torch's function.

    Args:
        multiplier: a function of u, u0 and the parameters, with torch's defaults.
        names: names of the parameters, in torch's order.
    """

    def rule(call: Call) -> Backward:
        pair = call.pair
        given = {**dict(zip(names, call.args[1:], strict=False)), **call.kwargs}
        # Torch's functions may have further parameters, and pass the boolean `inplace` by position.
        given = {name: it for name, it in given.items() if name in names and not isinstance(it, bool)}
        made = multiplier(pair.value, pair.base, **given)
        return lambda grad: [(pair, grad * made)]

    return rule


def _exponential_below(
    u: Tensor, u0: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Tensor:
    """ELU: scale u above 0, scale alpha expm1(input_scale u) below."""
    above = _portion(u, u0, 0)
    v, v0 = (side.clamp(max=0) * input_scale for side in (u, u0))
    return scale * (above + (1 - above) * alpha * input_scale * _exponential(v, v0, v.exp(), v0.exp()))


def _celu(u: Tensor, u0: Tensor, alpha: float = 1.0) -> Tensor:
    return _exponential_below(u, u0, alpha, 1.0, 1 / alpha)


SELU = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
"""Alpha and scale, as in torch."""


def _softplus(u: Tensor, u0: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log1p(sigmoid(a0) expm1(a - a0)) / (a - a0) with a = beta u; torch returns u above the threshold."""
    a, a0 = u * beta, u0 * beta
    low, way = torch.minimum(a, a0), (a - a0).abs() + torch.finfo(u.dtype).tiny * 1e4
    made = torch.log1p(low.sigmoid() * torch.expm1(way.clamp(max=1))) / way
    linear, linear0 = a > threshold, a0 > threshold
    y, y0 = (torch.where(it > threshold, it, -torch.nn.functional.logsigmoid(-it)) for it in (a, a0))
    apart = way > 1
    if (
        math.log1p(math.exp(-threshold)) > torch.finfo(u.dtype).eps * threshold
    ):  # the jump at the threshold is not negligible
        apart |= linear != linear0
    return torch.where(linear & linear0, 1, torch.where(apart, (y - y0) / (a - a0), made))


def _leaky(u: Tensor, u0: Tensor, negative_slope: float = 0.01) -> Tensor:
    above = _portion(u, u0, 0)
    return above + (1 - above) * negative_slope


def _hardswish(u: Tensor, u0: Tensor) -> Tensor:
    """U (u + 3) / 6 between -3 and 3, 0 below and u above."""
    low, high = -3.0, 3.0
    curved = (u.clamp(low, high) + u0.clamp(low, high) + 3) / 6
    return _portion(u, u0, low, high) * curved + _portion(u, u0, high)


def _softsign(u: Tensor, u0: Tensor) -> Tensor:
    """1 / ((1 + |u|) (1 + |u0|)) on one side of 0; else times 1 plus the harmonic mean of |u| and |u0|."""
    a, a0 = u.abs(), u0.abs()
    apart = torch.where(u.sign() * u0.sign() < 0, 2 * a / (a + a0) * a0, 0)
    return (1 + apart) / (1 + a) / (1 + a0)


SHRUNK = (1 / 3, -2 / 15, 17 / 315, -62 / 2835, 1382 / 155925, -21844 / 6081075)
"""Coefficients of 1 - tanh(d) / d in powers of d^2."""


def _tanhshrink(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """1 - T + T tanh(u) tanh(u0) with T = tanh(d) / d, d = u - u0; 1 - T by its series near 0."""
    d = (u - u0).double()
    t, t0 = u.tanh(), u0.tanh()
    square, series = d * d, torch.zeros_like(d)
    for coefficient in reversed(SHRUNK):
        series = (series + coefficient) * square
    mean = tanhc(d)
    rest = torch.where(d.abs() < 0.1, series, 1 - mean)
    return (rest + mean * (t.double() * t0)).to(u.dtype)


def _arctangent(u: Tensor, u0: Tensor) -> Tensor:
    """Atan u - atan u0 = atan2(u - u0, 1 + u u0)."""
    way, one = u - u0, 1 + u * u0
    return torch.where(way == 0, 1 / one, torch.atan2(way, one) / way)


def power(call: Call) -> Backward:
    """Return the rule of u^n for constant n, a number or a tensor, and of b^u for constant b.

    Integers n up to 8 use the sum of u^k u0^(n-1-k), other n :func:`_any_power`; b^u = exp(u ln b).
    """
    given = (
        *call.args,
        *(call.kwargs[name] for name in ("input", "self", "exponent") if name in call.kwargs),
    )
    base, exponent = given
    pair, output = call.pair, call.outputs[0]
    if pair is exponent:
        return _exponential_of(pair, output, base)
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    u, u0 = pair.value, pair.base
    whole = not isinstance(exponent, Tensor) and exponent == int(exponent) and abs(exponent) <= 8
    if not (whole and exponent >= 0) and not bool((output.value - output.base).isfinite().all()):
        raise ValueError(
            "a power is infinite or not a number at the input or at the baseline, for example 0 to a "
            "negative exponent or a negative number to a fraction: choose another baseline"
        )
    if whole:
        count = abs(int(exponent))
        terms = (u**k * u0 ** (count - 1 - k) for k in range(count))
        multiplier = u + u0 if count == 2 else sum(terms, torch.zeros_like(u))
        if exponent < 0:
            multiplier = -multiplier * output.value * output.base
    elif not isinstance(exponent, Tensor) and exponent == 0.5:
        multiplier = _root(u, u0, output.value, output.base)
    else:
        multiplier = _any_power(u, u0, output.value, output.base, exponent)
    return lambda grad: [(pair, (grad * multiplier).sum_to_size(u.shape))]


def _any_power(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor, exponent: Any) -> Tensor:
    """Return the secant of u^n.

    The secant of |u|^n is n L(y, y0) / L(|u|, |u0|), with L the logarithmic mean; for u^n it differs by a
    sign, depending on whether n is odd. If u and u0 have different signs, or one is 0, u - u0 is not small.
    """
    n = torch.as_tensor(exponent, dtype=u.dtype, device=u.device)
    a, a0, b, b0 = u.abs(), u0.abs(), y.abs(), y0.abs()
    inverse = logarithm(a, a0)
    mean = n * (b + b0) / 2 * tanhc(n * inverse * (a - a0) / 2) * inverse
    odd, side = n % 2 == 1, torch.where(u < 0, -1, 1)
    same = torch.where(odd, 1, side) * mean
    across = torch.where(odd, (b + b0) / (a + a0), side * mean * ((a - a0) / (a + a0)))
    from_zero = torch.where(u == u0, (n == 1).to(u.dtype), (y - y0) / (u - u0))
    made = torch.where(u.sign() * u0.sign() < 0, across, same)
    return torch.where((u == 0) | (u0 == 0), from_zero, made)


def _exponential_of(pair: Pair, output: Pair, base: Any) -> Backward:
    """Return the rule of b^u for b > 0."""
    u, u0 = pair.value, pair.base
    b = torch.as_tensor(base, dtype=output.value.dtype, device=u.device)
    if bool((b <= 0).any()):
        raise ValueError("its base is not positive")
    multiplier = b.log() * _exponential(u * b.log(), u0 * b.log(), output.value, output.base)
    return lambda grad: [(pair, (grad * multiplier).sum_to_size(u.shape))]


def _sine(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Sin u - sin u0 = 2 cos((u + u0) / 2) sin((u - u0) / 2)."""
    return ((u + u0) / 2).cos() * torch.sinc((u - u0) / (2 * math.pi))


def _cosine(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Cos u - cos u0 = -2 sin((u + u0) / 2) sin((u - u0) / 2)."""
    return -((u + u0) / 2).sin() * torch.sinc((u - u0) / (2 * math.pi))


def _inverse_of(multiplier: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Rule:
    """Return the rule of an inverse function: the reciprocal of the function's secant."""
    return _closed(lambda u, u0, y, y0: 1 / multiplier(y, y0, u, u0))


SCALARS: tuple[tuple[str, Any], ...] = (
    (
        "gelu silu mish erf erfc sinh cosh asinh arcsinh sinc ndtr log_ndtr",
        smooth,
    ),
    ("softplus", _by_parameters(_softplus, "beta", "threshold")),
    ("logsigmoid log_sigmoid", _closed(lambda u, u0, y, y0: _softplus(-u, -u0, 1, math.inf))),
    ("elu", _by_parameters(_exponential_below, "alpha", "scale", "input_scale")),
    ("celu", _by_parameters(_celu, "alpha")),
    ("selu", _closed(lambda u, u0, y, y0: _exponential_below(u, u0, *SELU))),
    ("hardswish", _closed(lambda u, u0, y, y0: _hardswish(u, u0))),
    ("hardsigmoid", _closed(lambda u, u0, y, y0: _portion(u, u0, -3, 3) / 6)),
    ("leaky_relu", _by_parameters(_leaky, "negative_slope")),
    ("softsign", _closed(lambda u, u0, y, y0: _softsign(u, u0))),
    ("tanhshrink", _closed(_tanhshrink)),
    ("atan arctan", _closed(lambda u, u0, y, y0: _arctangent(u, u0))),
    (
        "relu relu6 hardtanh abs absolute clamp clip clamp_min clamp_max threshold "
        "softshrink hardshrink nan_to_num rrelu sign sgn floor ceil round trunc frac",
        piecewise,
    ),
    ("exp", _closed(_exponential)),
    ("expm1", _closed(lambda u, u0, y, y0: _exponential(u, u0, y + 1, y0 + 1))),
    ("log", _closed(lambda u, u0, y, y0: logarithm(u, u0))),
    ("log1p", _closed(lambda u, u0, y, y0: logarithm(1 + u, 1 + u0))),
    ("tanh", _closed(_tangent)),
    ("sigmoid expit", _closed(_sigmoid)),
    ("sqrt", _closed(_root)),
    ("rsqrt", _closed(lambda u, u0, y, y0: -y * y0 / (u.sqrt() + u0.sqrt()))),
    ("reciprocal", _closed(lambda u, u0, y, y0: -y * y0)),
    ("square", _closed(lambda u, u0, y, y0: u + u0)),
    ("sin", _closed(_sine)),
    ("cos", _closed(_cosine)),
    ("asin arcsin", _inverse_of(_sine)),
    ("acos arccos", _inverse_of(_cosine)),
    ("atanh arctanh", _inverse_of(_tangent)),
    ("pow", power),
)
"""Names and rules of functions of one number."""
