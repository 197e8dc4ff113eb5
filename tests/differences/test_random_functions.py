"""Properties of exact differences for random compositions of torch functions.

A program is a list of steps. Each step calls a function with values computed before it, or writes into one of
them in place; the output is a weighted sum of all values. EXAMPLES in the environment sets how many run.
"""

import contextlib
import os
import warnings

import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import UnsupportedOperationError, compare, freeze
from captum_globenc.errors import PrecisionWarning

EXAMPLES = int(os.environ.get("EXAMPLES", "100"))
LIMIT = 1e3
"""Programs whose values exceed it are left out."""


def few(share=1.0):
    """Settings of a property: the same programs in every run."""
    return settings(
        max_examples=max(int(EXAMPLES * share), 1),
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


def constant(like, start=-1.0, end=1.5):
    """A constant of the shape of a value."""
    return torch.linspace(start, end, like.numel(), dtype=like.dtype).reshape(like.shape)


def hidden(like):
    """A constant boolean mask that shows at least one place of every row."""
    return (constant(like, 0, 7).long() % 3 == 1) & (torch.arange(like.shape[-1]) > 0)


def fitted(b, shape):
    """Repeat or cut a value to a shape."""
    count = torch.Size(shape).numel()
    return b.reshape(-1).repeat(-(-count // b.numel()))[:count].reshape(shape)


def like(a, b):
    return fitted(b, a.shape)


def rows(b, a):
    """Return `b` as a matrix of two rows that are as wide as those of `a`."""
    return fitted(b, (*a.shape[:-2], 2, a.shape[-1]))


def matrix(a):
    return a if a.dim() > 1 else a[None]


def into_zeros(a, b):
    made = torch.zeros(*a.shape[:-1], a.shape[-1] + 2, dtype=a.dtype)
    before = made[..., 1:]
    made[..., 1:-1] = a.tanh()
    before *= 2
    return made


def into_a_constant(a, b):
    made = constant(a)
    made[..., :1] = like(a, b)[..., :1]
    made += a
    return made


def with_a_constant_changed(a, b):
    factor = constant(a)
    made = a * factor
    factor += 1
    return made * factor


NAMES = (
    "relu relu6 leaky_relu hardtanh hardsigmoid hardswish gelu silu mish softplus elu selu celu "
    "logsigmoid softsign tanhshrink softshrink hardshrink"
)
ELEMENTWISE = {name: getattr(F, name) for name in NAMES.split()} | {
    "gelu by tanh": lambda a: F.gelu(a, approximate="tanh"),
    "celu of alpha": lambda a: F.celu(a, 0.3),
    "elu of alpha": lambda a: F.elu(a, 2.5),
    "sharp softplus": lambda a: F.softplus(a, beta=20.0),
    "threshold": lambda a: F.threshold(a, 0.1, 0.1),
    "erf": torch.erf,
    "erfc": torch.erfc,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "abs": torch.abs,
    "square": torch.square,
    "neg": torch.neg,
    "clamp": lambda a: a.clamp(-0.5, 0.7),
    "clamp_min": lambda a: a.clamp_min(0.1),
    "nan_to_num": torch.nan_to_num,
    "sinh": lambda a: a.clamp(-3, 3).sinh(),
    "cosh": lambda a: a.clamp(-3, 3).cosh(),
    "exp": lambda a: a.clamp(-3, 3).exp(),
    "expm1": lambda a: a.clamp(-3, 3).expm1(),
    "log": lambda a: (a.abs() + 0.1).log(),
    "log1p": lambda a: a.abs().log1p(),
    "sqrt": lambda a: a.relu().sqrt(),
    "rsqrt": lambda a: (a.abs() + 0.1).rsqrt(),
    "reciprocal": lambda a: (a.abs() + 0.5).reciprocal(),
    "divided from the left": lambda a: 2 / (1.5 + a.tanh()),
    "power of a number": lambda a: 2 ** a.clamp(-3, 3),
    "squared": lambda a: a**2,
    "cubed": lambda a: a.clamp(-5, 5).pow(3),
    "power": lambda a: a.abs() ** 1.5,
    "inverse power": lambda a: (1 + a.abs()) ** -2,
    "subtracted": lambda a: 1 - a,
    "scaled": lambda a: a * constant(a) + 0.5,
    "masked": lambda a: a.masked_fill(hidden(a), 0.25),
    "where": lambda a: torch.where(hidden(a), a, 2 * a),
    "in double": lambda a: a.double().tanh().to(a.dtype),
    "type_as": lambda a: a.double().sigmoid().type_as(a),
    "dropped": lambda a: F.dropout(a, 0.5, training=False),
    "rolled": lambda a: a.roll(1, -1).tanh().roll(-1, -1),
    "flipped": lambda a: F.silu(a.flip(-1)).flip(-1),
    "flattened": lambda a: a.reshape(-1).sigmoid().view(a.shape),
    "transposed": lambda a: F.gelu(a.transpose(0, -1).contiguous()).transpose(0, -1),
    "split": lambda a: torch.cat([F.silu(a[..., :1]), F.relu(a[..., 1:])], -1),
    "stacked": lambda a: torch.stack([a, a.tanh()]).sum(0),
    "padded": lambda a: F.pad(a, (1, 1)).sin()[..., 1:-1],
    "written into zeros": lambda a: torch.zeros_like(a).index_copy(-1, torch.arange(a.shape[-1]), a).tanh(),
}

TOGETHER = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: torch.sub(a, b, alpha=0.5),
    "mul": lambda a, b: a * b,
    "gate": lambda a, b: a * b.sigmoid(),
    "div": lambda a, b: a / (1 + b.abs()),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "weighted lerp": lambda a, b: torch.lerp(a, b, b.sigmoid()),
    "addcmul": lambda a, b: torch.addcmul(a, b, a, value=0.5),
    "addcdiv": lambda a, b: torch.addcdiv(a, b, 1 + a.abs(), value=0.5),
    "logaddexp": torch.logaddexp,
    "where of both": lambda a, b: torch.where(hidden(a), a, b),
}

WRITES = {
    "add_": lambda a, b: a.add_(b),
    "+=": lambda a, b: a.__iadd__(b),
    "mul_": lambda a, b: a.mul_(b),
    "*= number": lambda a, b: a.__imul__(0.5),
    "-= constant": lambda a, b: a.__isub__(constant(a)),
    "div_": lambda a, b: a.div_(1.5 + b.tanh()),
    "copy_": lambda a, b: a.copy_(b.clone()),
    "relu_": lambda a, b: a.relu_(),
    "relu in place": lambda a, b: F.relu(a, inplace=True),
    "silu in place": lambda a, b: F.silu(a, inplace=True),
    "tanh_": lambda a, b: a.tanh_(),
    "clamp_": lambda a, b: a.clamp_(-0.5, 0.7),
    "masked_fill_": lambda a, b: a.masked_fill_(hidden(a), 0.5),
    "into a slice": lambda a, b: a[..., :1].__setitem__(..., b[..., :1].clone()),
    "slice by number": lambda a, b: a[..., 1:].__imul__(0.5),
    "slice added": lambda a, b: a[..., :1].add_(b[..., :1].sigmoid()),
    "through a view": lambda a, b: a.flatten(0)[1:].mul_(b.flatten()[1:].sigmoid()),
    "setitem": lambda a, b: a.__setitem__((..., slice(0, 1)), b[..., :1].clone()),
    "setitem by mask": lambda a, b: a.__setitem__(hidden(a), 0.75),
    "zero_": lambda a, b: a[..., :1].zero_(),
}

ACROSS = {
    "sum": lambda a, b: a.sum(-1),
    "mean": lambda a, b: a.mean(-1, keepdim=True),
    "cumsum": lambda a, b: a.cumsum(-1),
    "amax": lambda a, b: a.amax(-1),
    "max": lambda a, b: a.max(-1, keepdim=True).values,
    "min": lambda a, b: a.min(-1)[0],
    "amin of all": lambda a, b: a.amin().reshape(1),
    "logsumexp": lambda a, b: a.logsumexp(-1),
    "var": lambda a, b: a.var(-1, correction=0),
    "std": lambda a, b: a.std(-1, correction=0, keepdim=True),
    "norm": lambda a, b: a.norm(dim=-1),
    "vector_norm": lambda a, b: torch.linalg.vector_norm(a, dim=-1, keepdim=True),
    "layer_norm": lambda a, b: F.layer_norm(a, a.shape[-1:], eps=0.01),
    "affine layer_norm": lambda a, b: F.layer_norm(
        a, a.shape[-1:], constant(a.reshape(-1, a.shape[-1])[0]), eps=0.1
    ),
    "rms_norm": lambda a, b: F.rms_norm(a, a.shape[-1:], eps=0.01),
    "group_norm": lambda a, b: F.group_norm(torch.cat([a.flatten(), b.flatten()])[None, None], 1, eps=0.01),
    "normalize": lambda a, b: F.normalize(a + 0.3, dim=-1, eps=0.01),
    "cosine_similarity": lambda a, b: F.cosine_similarity(a + 0.2, like(a, b) - 0.3, dim=-1, eps=0.01),
    "pairwise_distance": lambda a, b: F.pairwise_distance(matrix(a), like(matrix(a), b)),
    "softmax": lambda a, b: a.softmax(-1),
    "softmax of the first": lambda a, b: F.softmax(a, 0),
    "masked softmax": lambda a, b: a.masked_fill(hidden(a), -torch.inf).softmax(-1),
    "log_softmax": lambda a, b: a.log_softmax(-1),
    "softmin": lambda a, b: F.softmin(a, -1),
    "glu": lambda a, b: F.glu(torch.cat([a, like(a, b)], -1), -1),
    "matmul": lambda a, b: matrix(a) @ rows(b, matrix(a)).mT,
    "products of itself": lambda a, b: matrix(a) @ matrix(a).mT,
    "matrix by vector": lambda a, b: matrix(a) @ fitted(b, a.shape[-1:]),
    "einsum": lambda a, b: torch.einsum("...i,...ji->...j", a, fitted(b, (*a.shape[:-1], 2, a.shape[-1]))),
    "bmm": lambda a, b: torch.bmm(*[it.reshape(-1, *it.shape[-2:]) for it in (matrix(a), matrix(a).mT)]),
    "outer": lambda a, b: torch.outer(a.flatten()[:3], b.flatten()[:2]),
    "dot": lambda a, b: torch.dot(a.flatten(), like(a, b).flatten()).reshape(1),
    "linear": lambda a, b: F.linear(
        a, constant(a.new_zeros(3, a.shape[-1])), constant(a.new_zeros(3), -0.5, 0.5)
    ),
    "computed linear": lambda a, b: F.linear(a, fitted(b, (2, a.shape[-1]))),
    "addmm": lambda a, b: torch.addmm(
        fitted(b, (2, 2)), fitted(a, (2, 3)), fitted(b, (3, 2)), beta=0.5, alpha=0.5
    ),
    "conv1d": lambda a, b: F.conv1d(a.reshape(1, 1, -1), constant(a.new_zeros(2, 1, 1)))[0],
    "attention": lambda a, b: F.scaled_dot_product_attention(
        matrix(a), rows(b, matrix(a)), rows(a, matrix(a)) * 1
    ),
    "self-attention": lambda a, b: F.scaled_dot_product_attention(matrix(a), matrix(a), like(matrix(a), b)),
    "causal attention": lambda a, b: F.scaled_dot_product_attention(
        matrix(a), like(matrix(a), b), matrix(a), is_causal=True
    ),
    "masked attention": lambda a, b: F.scaled_dot_product_attention(
        matrix(a), rows(b, matrix(a)), rows(b, matrix(a)), torch.tensor([True, False])
    ),
    "attention with a bias": lambda a, b: F.scaled_dot_product_attention(
        matrix(a), rows(b, matrix(a)), rows(a, matrix(a)), torch.tensor([0.5, -1.0], dtype=a.dtype)
    ),
    "slice": lambda a, b: a[..., : max(a.shape[-1] - 1, 1)],
    "row": lambda a, b: a[0] if a.dim() > 1 else a[:1],
    "advanced index": lambda a, b: a[..., [0, -1, 0]],
    "index_select": lambda a, b: a.index_select(-1, torch.tensor([0, 0])),
    "gather": lambda a, b: a.gather(-1, torch.zeros(a.shape, dtype=torch.long)),
    "masked_select": lambda a, b: a[~hidden(a)],
    "cat": lambda a, b: torch.cat([a, like(a, b), constant(a)], -1),
    "stack": lambda a, b: torch.stack([a, like(a, b)], 0) if a.dim() < 3 else a + like(a, b),
    "chunk": lambda a, b: torch.cat([a, a], -1).chunk(2, -1)[1],
    "unbind": lambda a, b: sum(a.unbind(-1)),
    "pad": lambda a, b: F.pad(a, (1, 0)),
    "transpose": lambda a, b: a.transpose(0, -1),
    "view": lambda a, b: a.reshape(-1),
    "unsqueeze": lambda a, b: a.unsqueeze(0) if a.dim() < 3 else a.squeeze(),
    "expand": lambda a, b: a[..., :1].expand(a.shape) * 1,
    "tril": lambda a, b: matrix(a).tril(),
    "index_add": lambda a, b: torch.zeros_like(a).index_add(
        -1, torch.zeros(a.shape[-1], dtype=torch.long), a
    ),
    "max_pool1d": lambda a, b: F.max_pool1d(a.reshape(1, 1, -1), 2, ceil_mode=True)[0],
    "written into more zeros": into_zeros,
    "written into a constant": into_a_constant,
    "constant written into": with_a_constant_changed,
    "avg_pool1d": lambda a, b: F.avg_pool1d(a.reshape(1, 1, -1), 2, ceil_mode=True)[0],
}


def stepped(name, a, b):
    """Run a step: return its value, or None where it wrote into `a`."""
    if name in ELEMENTWISE:
        return ELEMENTWISE[name](a)
    if name in TOGETHER:
        return TOGETHER[name](a, like(a, b))
    if name in WRITES:
        WRITES[name](a, like(a, b))
        return None
    return ACROSS[name](a, b)


class Program:
    """A function of any number of tensors, made of steps."""

    def __init__(self, steps):
        self.steps = steps

    def values(self, *inputs):
        values = list(inputs)
        for name, one, other in self.steps:
            made = stepped(name, values[one % len(values)], values[other % len(values)])
            if made is not None:
                values.append(made if made.dim() else made[None])
        return values

    def __call__(self, *inputs):
        values = self.values(*inputs)
        # The later ones first, so that a short program is a single function.
        return sum((value * constant(value, 0.4, 1.3)).sum() for value in values[::-1])

    def __repr__(self):
        return f"Program({self.steps})"


def programs(*tables, size=7):
    names = [name for table in tables for name in table]
    numbers = st.integers(0, 9)
    return st.lists(st.tuples(st.sampled_from(names), numbers, numbers), min_size=1, max_size=size).map(
        Program
    )


SHAPES = [(4,), (3, 4), (2, 3, 2), (1, 2, 3), (2, 1)]


@st.composite
def points(draw, shapes=SHAPES):
    """An input and a baseline: random, or with equal elements, ties, kinks, small or large differences."""
    shape = draw(st.sampled_from(shapes))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    x, x0 = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    kind = draw(
        st.sampled_from(["random", "some equal", "rounded", "close", "equal", "zeros", "large", "ties"])
    )
    if kind == "some equal":
        x0 = torch.where(torch.rand(shape, generator=generator) < 0.5, x, x0)
    elif kind == "rounded":
        x, x0 = x.round(), x0.round()
    elif kind == "close":
        x0 = x + 10.0 ** -draw(st.integers(2, 9)) * x0
    elif kind == "equal":
        x0 = x.clone()
    elif kind == "zeros":
        x0 = torch.zeros(shape, dtype=torch.float64)
    elif kind == "large":
        x, x0 = 8 * x, 8 * x0
    elif kind == "ties":
        x, x0 = torch.full(shape, float(x.flatten()[0])).double(), x0.round()
    return x, x0


def plain(program, *inputs):
    """Return the output of a program outside of a comparison, and leave it out where it is too large."""
    values = program.values(*(it.clone() for it in inputs))
    assume(all(bool((value.abs() < LIMIT).all()) for value in values))
    return program(*(it.clone() for it in inputs))


def compared(program, inputs, baselines):
    """Return contributions, after the checks that hold for every program."""
    note(program)
    outputs = [plain(program, *side) for side in (inputs, baselines)]
    before = [it.clone() for it in (*inputs, *baselines)]
    both = compare(program, inputs, baselines, measure_rounding=True)
    assert all(map(torch.equal, before, (*inputs, *baselines))), "wrote into the caller's tensors"
    for found, expected in zip((both.output, both.base), outputs, strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-10)
    made = both.contributions(both.output)
    assert all(bool(it.isfinite().all()) for it in made)
    delta = sum(it.sum() for it in made) - (outputs[0] - outputs[1])
    size = sum(float(it.abs().sum()) for it in made)
    assert abs(float(delta)) <= 1e-10 * size + 1e-12 * (1 + sum(abs(float(it)) for it in outputs)), delta
    for one, x, x0 in zip(made, inputs, baselines, strict=True):
        assert not one[x == x0].any(), "elements that are equal in both runs contribute"
    return made


ALL = (ELEMENTWISE, TOGETHER, WRITES, ACROSS)


@few()
@given(programs(*ALL), points())
def test_contributions_are_complete_and_those_of_equal_elements_are_zero(program, at):
    x, x0 = at
    compared(program, [x], [x0])


@few(0.5)
@given(programs(*ALL), points(), st.sampled_from([torch.float32, torch.float64]))
def test_the_checks_raise_no_false_alarm(program, at, dtype):
    note(program)
    x, x0 = (it.to(dtype)[None] for it in at)
    for side in (x, x0):
        plain(program, side[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PrecisionWarning)
        scores = TransformerDeepLift(lambda x: program(x[0])[None]).attribute(x, x0)
    assert scores.dtype is dtype
    assert not scores[x == x0].any()


@few(0.5)
@given(programs(*ALL), points())
def test_the_frozen_function_gives_its_output_or_is_rejected(program, at):
    note(program)
    x, _ = at
    expected, before = plain(program, x), x.clone()
    with contextlib.suppress(UnsupportedOperationError):
        output = freeze(program, [x]).output
        torch.testing.assert_close(output.detach(), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(x, before)


@few(0.5)
@given(programs(ELEMENTWISE, TOGETHER, WRITES), points())
def test_contributions_to_an_additive_function_are_those_of_one_element_at_a_time(program, at):
    x, x0 = at
    (found,) = compared(program, [x], [x0])
    whole = plain(program, x)
    for place in range(x.numel()):
        other = x.clone()
        other.view(-1)[place] = x0.reshape(-1)[place]
        alone = whole - plain(program, other)
        torch.testing.assert_close(found.reshape(-1)[place], alone, rtol=1e-8, atol=1e-10)


SYMMETRIC = {
    "sum": lambda a, b: a + b,
    "product": lambda a, b: a * b,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "amax": lambda a, b: torch.stack([a, b]).amax(0),
    "max": lambda a, b: torch.stack([a, b], -1).max(-1).values,
    "min": lambda a, b: torch.stack([a, b], -1).min(-1).values,
    "logsumexp": lambda a, b: torch.stack([a, b]).logsumexp(0),
    "logaddexp": torch.logaddexp,
    "entropy": lambda a, b: (torch.stack([a, b]).softmax(0) * torch.stack([a, b]).log_softmax(0)).sum(0),
    "norm": lambda a, b: torch.stack([a, b]).norm(dim=0),
    "variance": lambda a, b: torch.stack([a, b]).var(0, correction=0),
    "pooled": lambda a, b: F.max_pool1d(torch.stack([a, b], -1).reshape(1, -1, 2), 2).reshape(a.shape),
    "attention": lambda a, b: F.scaled_dot_product_attention(
        *[torch.stack([a, b], -1).reshape(-1, 2, 1)] * 3
    ).sum(1),
    "layer norm": lambda a, b: F.layer_norm(torch.stack([a, b], -1), (2,), eps=0.1).square().sum(-1),
    "distance": lambda a, b: (a - b).abs(),
    "cosine": lambda a, b: F.cosine_similarity(a + 2, b + 2, dim=-1),
}


@few(0.5)
@given(
    st.sampled_from(sorted(SYMMETRIC)),
    programs(*ALL, size=4),
    points(),
    points(),
    st.booleans(),
)
def test_symmetric_players_get_the_same_and_swapped_ones_swapped_contributions(
    name, program, one, other, same
):
    a, a0 = one
    b, b0 = (a.clone(), a0.clone()) if same else (like(a, it) for it in other)

    class Symmetric(Program):
        def values(self, a, b):
            return program.values(
                SYMMETRIC[name](a, b).reshape(a.shape[: a.dim() - (name == "cosine")] or (1,))
            )

    function = Symmetric((name, *program.steps))
    found = compared(function, [a, b], [a0, b0])
    swapped = found if same else compared(function, [b, a], [b0, a0])
    for part, opposite in zip(found, swapped[::-1], strict=True):
        torch.testing.assert_close(part, opposite, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("table", ALL, ids=["elementwise", "together", "writes", "across"])
def test_every_step_runs_on_every_shape(table):
    for name in table:
        for shape in SHAPES:
            x = torch.linspace(-1, 1.3, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
            assert Program([(name, 0, 0)])(x.clone()).isfinite(), name
