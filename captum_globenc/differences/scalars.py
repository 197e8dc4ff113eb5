"""Functions of one number, applied to each: the secant through both runs.

    m = (phi(u) - phi(u0)) / (u - u0)

Shrikumar et al. 2017, the rescale rule. Where u and u0 are close, the quotient is noise, and the two
points are moved apart around their mean until they are not: off by (u - u0)^2 phi''' / 24 at most.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, Rule

__all__ = ["SCALARS", "logarithm", "piecewise", "power", "smooth", "tanhc"]

CLOSE = {torch.float64: 1e-4, torch.float32: 1e-2}
"""Where rounding and curvature do equal harm, by dtype."""
PART = 1 << 18
"""How many numbers are worked on at a time where a cache holds them."""


def smooth(call: Call) -> Backward:
    """M = (phi(u) - phi(u0)) / (u - u0); for curved functions, all derivatives of the order of 1."""
    pair = call.pair
    multiplier = torch.empty_like(pair.value, memory_format=torch.contiguous_format)
    apart = CLOSE.get(multiplier.dtype, CLOSE[torch.float32])
    size = PART if multiplier.device.type == "cpu" else max(multiplier.numel(), 1)
    sides = (pair.value, pair.base, multiplier)
    for u, u0, made in zip(*(torch.split(side.reshape(-1), size) for side in sides), strict=True):
        distance = torch.sub(u, u0).abs_().clamp_min_(apart)
        middle = torch.lerp(u, u0, 0.5)
        above = _again(call, torch.add(middle, distance, alpha=0.5))
        below = _again(call, middle.sub_(distance, alpha=0.5))
        torch.sub(above, below, out=made).div_(distance)
    return lambda grad: [(pair, grad * multiplier)]


def piecewise(call: Call) -> Backward:
    """M = (phi(u) - phi(u0)) / (u - u0); for functions made of straight lines, which have no noise.

    Where u = u0, their derivative: that of torch.
    """
    pair, output = call.pair, call.outputs[0]
    difference = pair.difference
    multiplier = output.difference / difference
    same = difference == 0
    if bool(same.any()):
        with torch.enable_grad():
            value = pair.value.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(_again(call, value.clone()).sum(), value)
        multiplier = torch.where(same, slope, multiplier)
    # What is not a number in both runs is none in what comes of it, or was made one that is the same.
    multiplier = torch.where(multiplier.isnan(), 0, multiplier)
    return lambda grad: [(pair, grad * multiplier)]


def _again(call: Call, value: Tensor) -> Tensor:
    """Call a function of one number for others, which it may write into; further arguments are numbers."""
    args = tuple(value if isinstance(arg, Pair) else arg for arg in call.args)
    kwargs = {name: value if isinstance(arg, Pair) else arg for name, arg in call.kwargs.items()}
    kwargs.pop("inplace", None)
    result: Tensor = call.function(*args, **kwargs)  # in place, where it is that
    return result


def _closed(multiplier: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Rule:
    """Make a rule of a multiplier in closed form, a function of u, u0, phi(u) and phi(u0)."""

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
    t = t + torch.finfo(t.dtype).tiny * 1e4  # nothing to any t but 0
    return t.tanh().div_(t)


def tanhc_of_half(x: Tensor) -> Tensor:
    """tanh(x / 2) / (x / 2), in three kernels.

    Example:
        >>> tanhc_of_half(torch.tensor([0.0, 2.0]))
        tensor([1.0000, 0.7616])
    """
    t = torch.add(x.new_tensor(torch.finfo(x.dtype).tiny * 1e4), x, alpha=0.5)
    return t.tanh().div_(t)


def _exponential(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """L(e^u, e^u0), L(a, b) the logarithmic mean: (y + y0) / 2 tanh(d) / d with d = (u - u0) / 2."""
    return (y + y0) / 2 * tanhc((u - u0) / 2)


def logarithm(u: Tensor, u0: Tensor) -> Tensor:
    """1 / L(u, u0): atanh(z) / z over the mean, z = (u - u0) / (u + u0); as it stands where z is large."""
    total = u + u0
    z = (u - u0) / total + torch.finfo(u.dtype).tiny * 1e4
    return torch.where(z.abs() < 0.5, 2 * z.atanh() / (z * total), (u.log() - u0.log()) / (u - u0))


def _tangent(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Tanh u - tanh u0 = tanh(u - u0) (1 - tanh u tanh u0)."""
    return (1 - y * y0) * tanhc(u - u0)


def _sigmoid(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """As tanh of half the argument: sigmoid(u) = (1 + tanh(u / 2)) / 2."""
    return (1 - (2 * y - 1) * (2 * y0 - 1)) * tanhc((u - u0) / 2) / 4


def _root(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """1 / (sqrt u + sqrt u0); 0 where both are 0."""
    return torch.where(y + y0 > 0, 1 / (y + y0), 0)


def power(call: Call) -> Backward:
    """u^n: the sum of u^k u0^(n-1-k) for whole n, that of 1 / u^n for -n, else exp(n ln u), where u > 0."""
    exponent = call.args[1] if len(call.args) > 1 else call.kwargs["exponent"]
    if isinstance(exponent, Tensor) and exponent.numel() == 1:
        exponent = exponent.item()
    pair, output = call.pair, call.outputs[0]
    if not isinstance(exponent, int | float):
        raise ValueError("its exponent is not one number")
    u, u0 = pair.value, pair.base
    if exponent == int(exponent) and abs(exponent) <= 8:
        whole = abs(int(exponent))
        multiplier = torch.zeros_like(u)
        for k in range(whole):
            multiplier = multiplier + u**k * u0 ** (whole - 1 - k)
        if exponent < 0:
            multiplier = -multiplier * output.value * output.base
    elif exponent == 0.5:
        multiplier = _root(u, u0, output.value, output.base)
    else:
        # Both factors are positive where u and u0 are, whatever n.
        mean = (output.value + output.base) / 2 * tanhc(exponent * (u.log() - u0.log()) / 2)
        multiplier = exponent * mean * logarithm(u, u0)
    return lambda grad: [(pair, grad * multiplier)]


def _sine(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Sin u - sin u0 = 2 cos((u + u0) / 2) sin((u - u0) / 2)."""
    return ((u + u0) / 2).cos() * torch.sinc((u - u0) / (2 * math.pi))


def _cosine(u: Tensor, u0: Tensor, y: Tensor, y0: Tensor) -> Tensor:
    """Cos u - cos u0 = -2 sin((u + u0) / 2) sin((u - u0) / 2)."""
    return -((u + u0) / 2).sin() * torch.sinc((u - u0) / (2 * math.pi))


SCALARS: tuple[tuple[str, Any], ...] = (
    (
        "gelu silu mish softplus elu selu celu logsigmoid log_sigmoid erf erfc hardswish softsign "
        "tanhshrink sinh cosh atan arctan asinh arcsinh",
        smooth,
    ),
    (
        "relu relu6 leaky_relu hardtanh hardsigmoid abs absolute clamp clip clamp_min clamp_max threshold "
        "softshrink hardshrink nan_to_num rrelu",
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
    ("pow", power),
)
"""Names of functions of one number, and their rules."""
