"""Check that multipliers of a function times differences sum to the difference of its output."""

import torch
from torch import Tensor

from captum_globenc.differences import compare


def random(*shape, seed=0, positive=False):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.abs() + 0.05 if positive else values


def pairs(shape, positive=False):
    """Inputs and baselines that are random, equal in parts, all but equal, far apart, or not contiguous."""
    x, x0 = random(*shape, positive=positive), random(*shape, seed=1, positive=positive)
    yield "random", x, x0
    half = x0.clone()
    half.flatten()[: half.numel() // 2] = x.flatten()[: half.numel() // 2]
    yield "equal halves", x, half
    close = x.clone()
    close.flatten()[0] += 1e-9
    yield "all but equal", x, close
    yield "equal", x, x.clone()
    yield "close", x, x + 3e-5 * x0
    if not positive:
        yield "large", 30 * x, 30 * x0
        yield "far", 20 * x, 0.1 * x0
        yield "zeros", x, torch.zeros_like(x)
    if len(shape) == 2:
        yield "strided", x.T.contiguous().T, x0


def assert_complete(function, inputs, baselines, tolerance=1e-12):
    both = compare(function, inputs, baselines)
    output = both.output if isinstance(both.output, Tensor) else sum(part.sum() for part in both.output)
    base = both.base if isinstance(both.base, Tensor) else sum(part.sum() for part in both.base)
    weights = random(1, *output.shape, seed=9)[0]
    contributions = both.contributions((output * weights).sum())
    total = sum(part.sum() for part in contributions).detach()
    expected = ((output.detach() - base) * weights).sum()
    scale = sum(part.abs().sum() for part in contributions) + (output.detach() * weights).abs().sum()
    assert torch.isfinite(total)
    assert abs(total - expected) <= tolerance * max(1.0, float(scale))
    with torch.no_grad():
        plain = function(*inputs)
    for one, other in zip(
        [both.output] if isinstance(both.output, Tensor) else both.output,
        [plain] if isinstance(plain, Tensor) else plain,
        strict=True,
    ):
        torch.testing.assert_close(one.detach(), other, rtol=1e-13, atol=1e-13)
