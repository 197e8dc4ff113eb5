"""Mixing matrices and ratios against the reference, on synthetic layers."""

from dataclasses import replace

import pytest
import torch

from captum_globenc.decomposition import workspace
from captum_globenc.decomposition.attention import GivenAttention, QueryKeyAttention
from captum_globenc.decomposition.mixing import MIXINGS, mix, mixing_norms
from captum_globenc.decomposition.norms import mixing_ratio
from captum_globenc.decomposition.record import LayerRecord, Normalization
from reference import reference_mixing, reference_ratio

BATCH, HEADS, TOKENS, SIZE, HIDDEN = 2, 4, 11, 3, 10


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def norm(centred=True, gain=True):
    return Normalization(random(HIDDEN) if gain else None, centred, random(BATCH, TOKENS).abs() + 0.1)


def a_record(attention, groups=HEADS, real=None, norms=None):
    first, second = norms or (norm(), norm())
    stream = random(BATCH, TOKENS, HIDDEN)
    return LayerRecord(
        index=0,
        attention=attention,
        value=random(BATCH, groups, TOKENS, SIZE),
        output=random(HIDDEN, HEADS * SIZE),
        output_bias=None,
        stream=stream,
        attended=stream,
        after_attention=(first,),
        after_layer=(first, second),
        real=real,
    )


def queries(groups=HEADS, **kwargs):
    return QueryKeyAttention(
        random(BATCH, HEADS, TOKENS, SIZE), random(BATCH, groups, TOKENS, SIZE), SIZE**-0.5, **kwargs
    )


def padded():
    real = torch.arange(TOKENS) < torch.tensor([[TOKENS], [6]])
    return real, real[:, None, None, :].expand(BATCH, 1, TOKENS, TOKENS)


def additive(dtype_min):
    real, mask = padded()
    return a_record(queries(mask=torch.zeros(mask.shape).double().masked_fill(~mask, dtype_min)), real=real)


def local_window():
    """Padding next to a window of one token: some padded receivers see nothing at all."""
    real, mask = padded()
    near = (torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)).abs() <= 1
    return a_record(queries(mask=mask & near), real=real)


def with_logsumexp(record):
    """The same layer, with known denominators."""
    query = record.attention
    key = query.key.repeat_interleave(HEADS // query.key.shape[1], dim=1)
    scores = query.query @ key.transpose(2, 3) * query.scaling
    if query.mask is not None and query.mask.dtype == torch.bool:
        scores = scores.masked_fill(~query.mask, -torch.inf)
    elif query.mask is not None:
        scores = scores + query.mask
    if query.causal:
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), -torch.inf)
    logsumexp = scores.logsumexp(dim=-1).nan_to_num(neginf=0)  # as the kernel returns for fully masked rows
    return replace(record, attention=replace(query, logsumexp=logsumexp))


PLAIN = {
    "plain": lambda: a_record(queries()),
    "padded": lambda: a_record(queries(mask=padded()[1]), real=padded()[0]),
    "additive -inf": lambda: additive(-torch.inf),
    "additive smallest number": lambda: additive(torch.finfo(torch.float64).min),
    "mask without receivers": lambda: a_record(queries(mask=padded()[1][:, :, :1]), real=padded()[0]),
    "local window": local_window,
    "causal": lambda: a_record(queries(causal=True)),
    "position bias": lambda: a_record(queries(mask=random(1, HEADS, TOKENS, TOKENS))),
    "grouped heads": lambda: a_record(queries(groups=2), groups=2),
    "given probabilities": lambda: a_record(GivenAttention(random(BATCH, HEADS, TOKENS, TOKENS).softmax(-1))),
    "RMSNorm": lambda: a_record(queries(), norms=(norm(centred=False), norm(centred=False))),
    "norm without weight": lambda: a_record(queries(), norms=(norm(gain=False), norm(gain=False))),
    "no norms": lambda: replace(a_record(queries()), after_attention=(), after_layer=()),
}
WITH_LOGSUMEXP = ("plain", "padded", "mask without receivers", "local window", "causal", "position bias")
RECORDS = PLAIN | {
    f"{name}, denominators known": lambda name=name: with_logsumexp(PLAIN[name]())
    for name in (*WITH_LOGSUMEXP, "grouped heads")
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


BUDGETS = {
    "several tiles": workspace.TileBudget(cells=1, receivers=4, sources=4, syncs=False),
    "one tile for each text": workspace.TileBudget(
        cells=HEADS * TOKENS**2, receivers=128, sources=512, syncs=False
    ),
    "one tile": workspace.CPU,
    "an accelerator's": workspace.ACCELERATOR,
}


@pytest.fixture(params=BUDGETS)
def _tile(request, monkeypatch):
    monkeypatch.setattr(workspace, "CPU", BUDGETS[request.param])


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("name", RECORDS)
def test_norms_equal_the_definition(name, mixing):
    record = RECORDS[name]()
    expected = reference_mixing(record, mixing)
    assert (mixing_norms(record, mixing) - expected).abs().max() <= 1e-12 * expected.max()


@pytest.mark.parametrize("budget", ["several tiles", "an accelerator's"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "recomputed"])
@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("name", RECORDS)
def test_left_multiplication_equals_the_product_with_the_matrix(name, mixing, kept, budget, monkeypatch):
    for attention in (QueryKeyAttention, GivenAttention):
        monkeypatch.setattr(attention, "size", property(lambda self: 1e9 if kept else 0))
    monkeypatch.setattr(workspace, "CPU", BUDGETS[budget])
    record = RECORDS[name]()
    (mixture,) = mix(record, mixing, workspace.Workspace(BUDGETS[budget]))
    mixture.materialize()
    real = record.real if record.real is not None else torch.ones(BATCH, TOKENS).bool()
    expected = reference_mixing(record, mixing)
    for weights in (random(BATCH, 3, TOKENS).abs(), torch.eye(TOKENS).double().expand(BATCH, -1, -1)[:, 4:6]):
        rows = weights * real[:, None]
        assert (mixture.left_multiply(rows) - rows @ expected).abs().max() <= 1e-12 * expected.max() * TOKENS
    assert (mixture.matrix() - expected).abs().max() <= 1e-12 * expected.max()


def test_a_window_is_computed_at_visible_positions_only(monkeypatch):
    """Of 64 tokens that see 4 on each side, tiles of 8 receivers need 16 sources at most."""
    near = (torch.arange(64)[:, None] - torch.arange(64)).abs() <= 4
    attention = QueryKeyAttention(random(1, 2, 64, 3), random(1, 2, 64, 3), 1.0, mask=near[None, None])
    budget = workspace.TileBudget(cells=1, receivers=8, sources=64, syncs=False)
    monkeypatch.setattr(workspace, "CPU", budget)
    space = workspace.Workspace(budget)
    weights = attention.weights(torch.float64)
    tiles = [weights.trim(tile) for tile in space.columns(1, 64, 2)]
    assert [tile.sources for tile in tiles] == [
        slice(max(k - 4, 0), min(k + 12, 64)) for k in range(0, 64, 8)
    ]


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("mixing", ["N", "N-Res", "N-ResLN", "N-Enc"])
@pytest.mark.parametrize("name", RECORDS)
def test_ratios_equal_the_definition(name, mixing):
    record = RECORDS[name]()
    real = record.real if record.real is not None else torch.ones(BATCH, TOKENS).bool()
    assert torch.allclose(
        mixing_ratio(record, mixing)[real], reference_ratio(record, mixing)[real], rtol=1e-11, atol=0
    )


@pytest.mark.parametrize("mixing", MIXINGS)
def test_padding_gets_exactly_zero_even_where_the_model_left_nan(mixing):
    record = RECORDS["padded"]()
    expected = mixing_norms(record, mixing)
    padding = ~record.real
    record.stream[padding] = torch.nan
    assert torch.equal(mixing_norms(record, mixing), expected)
    assert (expected[~(record.real[:, :, None] & record.real[:, None, :])] == 0).all()


def test_a_token_that_cancels_the_residual_loses_no_digits():
    """T_ii = -x_i to six digits: a difference of squares would keep none of what remains, in float32."""
    record = RECORDS["plain"]()
    weights = torch.eye(TOKENS).expand(BATCH, HEADS, -1, -1)
    projected = record.value.transpose(1, 2).flatten(2) @ record.output.T
    remains = 1e-4 * random(BATCH, TOKENS, HIDDEN)
    stream = remains - projected
    single = LayerRecord(
        index=0,
        attention=GivenAttention(weights.float()),
        value=record.value.float(),
        output=record.output.float(),
        output_bias=None,
        stream=stream.float(),
        attended=stream.float(),
    )
    diagonal = mixing_norms(single, "N-Res").diagonal(dim1=1, dim2=2)
    assert torch.allclose(diagonal.double(), remains.norm(dim=-1), rtol=2e-2)


def test_a_single_token_keeps_itself_under_w_res():
    attention = GivenAttention(torch.ones(1, HEADS, 1, 1, dtype=torch.float64))
    stream = random(1, 1, HIDDEN)
    record = LayerRecord(
        0, attention, random(1, HEADS, 1, SIZE), random(HIDDEN, HEADS * SIZE), None, stream, stream
    )
    assert mixing_norms(record, "W-Res").tolist() == [[[1.0]]]
