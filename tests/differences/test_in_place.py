"""In-place writes: the contributions equal the same function without in-place writes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc.differences import compare, freeze

X, X0 = (torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))


def result_changed(x):
    y = F.gelu(x * 1)
    y += 1
    y *= x
    return y.exp()


def argument_changed(x):
    x = x * 1
    x += F.layer_norm(x, (4,)).tanh()
    x += F.layer_norm(x, (4,)).sigmoid()
    return x


def activated_in_place(x):
    x = x * 1
    y = F.relu(x, inplace=True)
    return x * y + F.silu(y - 0.3, inplace=True)


def viewed_before(x):
    made = torch.zeros(3, 8, dtype=x.dtype)
    row, column = made[1], made[:, 2]
    made[:, 2:6] = x.exp()
    return row.sum() + column.tanh().sum() + made[0]


def dropped_in_place(x):
    x = x * 1
    F.dropout(x, 0.5, training=False, inplace=True)
    y = x.exp()
    F.dropout(x, 0.5, training=False, inplace=True).mul_(2)
    return x * y


def parts_changed(x):
    """Write into what split returned, into views of that, and into what was split."""
    x = x * 1
    one, other = x.chunk(2, 1)
    kept = other.exp()
    one *= 2
    first, second = one.unbind(1)
    second[1:] += first[1:].tanh()
    other.view(3, 2)[:, 0].mul_(3)
    row, *_ = x.exp().split(1)
    row.relu_()
    x += 1
    return torch.cat([one * x[:, 2:], other.exp(), kept, first[:, None], second[:, None]], 1) + row.sum()


def parts_changed_written_out(x):
    a, b, c, d = x.T
    kept = torch.stack([c, d], 1).exp()
    a, b, c = 2 * a, 2 * b + torch.cat([0 * a[:1], (2 * a[1:]).tanh()]), 3 * c
    row = torch.stack([a, b, c, d])[:, 0].exp().sum()
    a, b, c, d = a + 1, b + 1, c + 1, d + 1
    made = torch.stack([a * c, b * d, c.exp(), d.exp(), *kept.T, a, b], 1)
    return made + row


def gated_in_place(x):
    one, other = (x * 1).chunk(2, 1)
    one *= one.sigmoid()
    before = other * 1
    before[:] = one
    return torch.cat([one, before * other.sigmoid()], 1)


WEIGHT = nn.Parameter(torch.full((3, 4), 0.5, dtype=torch.float64))


def computed_weight_changed(x):
    made = WEIGHT * 2
    made[:, 1:] = x[:, 1:].exp()
    return made * x


def masks_changed(x):
    """Write into constants that linear functions and functions with rules have read."""
    factor, weight = torch.full((4,), 2.0, dtype=x.dtype), torch.ones(4, dtype=x.dtype)
    hidden, bias = torch.tensor([True, False, False, True]), torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)
    scaled = x * factor
    factor += 1
    shown = x.masked_fill(hidden, 0.5)
    hidden.logical_not_()
    normed = F.layer_norm(x, (4,), weight)
    torch.mul(weight, 5, out=weight)
    attended = F.scaled_dot_product_attention(x, x, x, bias)
    bias[0] = -9
    divided = x / factor
    factor.zero_()
    return scaled.exp() + shown.exp() + normed.exp() + attended.exp() + divided.exp()


def copied_then_changed(x):
    x = x * 1
    made = torch.zeros(3, 4, dtype=x.dtype).index_copy(-1, torch.arange(4), x)
    x += made.exp()
    return made.tanh() + x.exp()


PLAIN = {
    gated_in_place: lambda x: torch.cat([F.silu(x[:, :2]), F.silu(x[:, :2]) * x[:, 2:].sigmoid()], 1),
    parts_changed: parts_changed_written_out,
    masks_changed: lambda x: (
        (x * 2).exp()
        + x.masked_fill(torch.tensor([True, False, False, True]), 0.5).exp()
        + F.layer_norm(x, (4,)).exp()
        + F.scaled_dot_product_attention(x, x, x, torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)).exp()
        + (x / 3).exp()
    ),
    copied_then_changed: lambda x: x.tanh() + (x + x.exp()).exp(),
    computed_weight_changed: lambda x: torch.cat([2 * WEIGHT[:, :1], x[:, 1:].exp()], 1) * x,
    result_changed: lambda x: ((F.gelu(x) + 1) * x).exp(),
    argument_changed: lambda x: _twice(x),
    activated_in_place: lambda x: x.relu() * x.relu() + F.silu(x.relu() - 0.3),
    viewed_before: lambda x: x[1].exp().sum() + x[:, 0].exp().tanh().sum() + F.pad(x.exp(), (2, 2))[0],
    dropped_in_place: lambda x: 2 * x * x.exp(),
}


def _twice(x):
    x = x + F.layer_norm(x, (4,)).tanh()
    return x + F.layer_norm(x, (4,)).sigmoid()


@pytest.mark.parametrize("function", PLAIN, ids=lambda it: it.__name__)
def test_contributions_are_those_of_the_function_written_out(function):
    found, expected = (compare(it, [X], [X0]) for it in (function, PLAIN[function]))
    torch.testing.assert_close(found.output, function(X))
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(
        found.contributions(found.output.sum())[0], expected.contributions(expected.output.sum())[0]
    )


@pytest.mark.parametrize("function", PLAIN, ids=lambda it: it.__name__)
def test_multipliers_of_the_frozen_function_are_those_of_it_written_out(function):
    found, expected = (freeze(it, [X]) for it in (function, PLAIN[function]))
    (made,), (wanted,) = (it.multipliers(it.output.sum(), [it.sources[0].leaf]) for it in (found, expected))
    torch.testing.assert_close(made, wanted)


def _half(x):
    made = torch.zeros(3, 4, dtype=torch.bfloat16)
    made[:, 1:] = x[:, 1:]
    return made.float() + x


def _root(x):
    return (x * x).sqrt_() + x


@pytest.mark.parametrize(
    "run", [lambda: compare(_half, [X], [X0]), lambda: freeze(_half, [X]), lambda: freeze(_root, [X])]
)
def test_writes_to_constants_and_half_precision_are_rejected(run):
    with pytest.raises(ValueError, match="writes a value that depends on the input"):
        run()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_in_half_precision_are_sums(dtype):
    both = compare(
        lambda x: x.sum(1, dtype=dtype) + x.mean(1, dtype=dtype) + x.softmax(-1, dtype=dtype)[:, 0],
        [X.float()],
        [X0.float()],
    )
    expected = X.sum(1) + X.mean(1) + X.softmax(-1)[:, 0]
    torch.testing.assert_close(both.output, expected.float())


@pytest.mark.parametrize("run", [lambda it: compare(it, [X], [X0]), lambda it: freeze(it, [X])])
def test_tensors_made_from_a_value_depend_on_it(run):
    with pytest.raises(ValueError, match="new_tensor has no rule"):
        run(lambda x: X.new_tensor(x * 2) * x)
    with pytest.raises(ValueError, match="new_tensor has no rule"):
        run(lambda x: x.new_tensor(x * 2) * x)


@pytest.mark.parametrize("function", [result_changed, argument_changed, parts_changed, copied_then_changed])
def test_rounding_is_that_of_the_values_as_they_were(function):
    """The bound is about that of the function written out, which may compute a little more or less."""
    found, expected = (compare(it, [X], [X0], measure_rounding=True) for it in (function, PLAIN[function]))
    bounds = [it.rounding(it.output.sum()) for it in (found, expected)]
    assert 0.5 < bounds[0] / bounds[1] < 2
    assert found.rounding(found.output.sum()) == bounds[0]
