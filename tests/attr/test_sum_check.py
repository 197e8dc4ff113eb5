"""The sum check finds missing parts and accepts rounding."""

import warnings
from contextlib import nullcontext

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc import EncoderForward, TransformerDeepLift
from captum_globenc.differences import LINEAR, compare
from captum_globenc.differences.rules import EXACT, Row
from captum_globenc.errors import PrecisionWarning, ReconstructionError
from families import FAMILIES, VOCABULARY, Weighted


class Price(nn.Module):
    """A regression with an intercept, a part of which no torch function shows as a function of the ids."""

    def __init__(self, intercept, unseen):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(20, 8)
        self.weight, self.bonus = torch.randn(8) * 30, torch.randn(20) * 60
        self.intercept, self.unseen = intercept, unseen

    def forward(self, ids):
        looked_up = self.embedding(ids)
        seen = (looked_up @ self.weight.to(looked_up.dtype)).sum(1)
        unseen = torch.from_numpy(self.bonus.numpy()[ids.numpy()].sum(1)).to(looked_up.dtype)
        return self.intercept + seen + self.unseen * unseen


IDS, BASE = torch.tensor([[3, 7, 11], [2, 2, 5]]), torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intercept", [0, 300, 250_000])
def test_a_missing_part_is_found_behind_any_intercept(intercept, dtype):
    method = TransformerDeepLift(Price(intercept, 1.0).to(dtype))
    with pytest.raises(ReconstructionError, match=r"example 0 sum to .*weight\[ids\]"):
        method.attribute(IDS, BASE)


@pytest.mark.parametrize("intercept", [0, 300, 250_000])
def test_an_intercept_alone_is_no_fault(intercept):
    model = Price(intercept, 0.0)
    expected = ((model.embedding(IDS) - model.embedding(BASE)) @ model.weight).detach()
    torch.testing.assert_close(TransformerDeepLift(model).attribute(IDS, BASE), expected)


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
CLOSE = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
CLOSER = CLOSE + 1e-6 * torch.randn(6, 3, generator=torch.Generator().manual_seed(2))

RIGHT = {
    "constant": lambda x: x[:, 0] * 0 + 5,
    "contrast that is 0": lambda x: x.sum(1) - x.flip(1).sum(1),
    "large and back": lambda x: (x.sum(1) + 1e6) - 1e6,
    "saturated": lambda x: (x * 1e3).sigmoid().sum(1),
    "saturated softmax": lambda x: (x * 7e4).softmax(1)[:, 0],
    "a sum of probabilities": lambda x: x.softmax(1).sum(1),
    "normed": lambda x: F.layer_norm(x, (6,)).sum(1),
    "shifted": lambda x: ((x + 3e4).softmax(1) * x).sum(1),
}


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
@pytest.mark.parametrize("name", RIGHT)
def test_rounding_does_not_raise(name, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x, x0 in ((X, X * 0), (X, X), (X, X.flip(0)), (X, X + 1e-6), (X.double(), X.double() * 0)):
            TransformerDeepLift(RIGHT[name]).attribute(x * scale, x0 * scale)


def test_linear_maps_that_cancel_are_computed_in_double_precision():
    """In float32 they are off by percents."""

    def difference(x):
        return ((x @ CLOSE) * 1e4 - (x @ CLOSER) * 1e4)[:, 0]

    expected = X * ((CLOSE.double() - CLOSER.double()) * 1e4)[:, 0].float()
    torch.testing.assert_close(TransformerDeepLift(difference).attribute(X), expected, rtol=1e-5, atol=0)
    both = compare(difference, [X], [X * 0], measure_rounding=True)
    made = both.contributions(both.output.sum())[0].sum(1)
    off = (made - (both.output - both.base)).abs()
    for example in range(len(X)):
        assert off[example] <= both.rounding(both.output[example])


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_bounded_closely(seed):
    """A bound that is thousands of times too large would find nothing."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(6, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    )
    x = torch.randn(8, 6)
    both = compare(model, [x], [x * 0], measure_rounding=True)
    exact = compare(model.double(), [x.double()], [x.double() * 0])
    off = (both.output - both.base - (exact.output - exact.base)).abs().flatten()
    bounds = torch.tensor([both.rounding(both.output[it, 0]) for it in range(8)])
    assert (off <= bounds).all()
    assert (bounds < 1e-3 * (exact.output - exact.base).abs().max()).all()


def test_rounding_has_to_be_asked_for():
    both = compare(torch.exp, [X], [X * 0])
    with pytest.raises(ValueError, match="measure_rounding=True"):
        both.rounding(both.output[0, 0])


@pytest.mark.parametrize("function", [F.layer_norm, torch.softmax, torch.tanh])
def test_a_wrong_rule_is_found(monkeypatch, function):
    call = {F.layer_norm: lambda x: F.layer_norm(x, (6,)), torch.softmax: lambda x: torch.softmax(x, 1)}
    monkeypatch.setitem(EXACT, function, Row(LINEAR))
    with pytest.raises(ReconstructionError, match="sum to"):
        TransformerDeepLift(lambda x: call.get(function, function)(x)[:, 1] + 1e3).attribute(X * 3)


def decoder(kind, layers=12):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=30,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=8,
        num_labels=2,
        pad_token_id=0,
    )
    return getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()


@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen3"])
def test_contributions_that_cancel_raise_a_warning(kind):
    """Zero embeddings are a singular point of RMSNorm."""
    model = decoder(kind)
    embeddings = model.get_input_embeddings()
    ids = torch.arange(3, 12)[None]

    def forward(looked_up):
        return model(inputs_embeds=looked_up).logits

    inputs = embeddings(ids).detach()
    method = TransformerDeepLift(forward, model)
    with pytest.warns(PrecisionWarning, match='cancel.*baseline="mean"'):
        scores = method.attribute(inputs, target=0)
    change = (forward(inputs) - forward(inputs * 0))[0, 0].detach()
    torch.testing.assert_close(
        scores.double().sum().float(), change, rtol=0, atol=1e-6 * float(scores.abs().sum())
    )
    mean = embeddings.weight.detach().mean(0).expand_as(inputs)
    scores, delta = TransformerDeepLift(forward, model).attribute(
        inputs, mean, 0, return_convergence_delta=True
    )
    change = (forward(inputs) - forward(mean))[0, 0].detach()
    assert delta.abs() < 1e-4 * change.abs()
    torch.testing.assert_close(scores.sum(), change, rtol=1e-4, atol=0)


def test_contributions_that_nearly_cancel_are_warned_of():
    def steep(x):
        return 1e6 * (x[:, 0] - x[:, 1])

    x = torch.tensor([[1.0, 1.00001]])
    with pytest.warns(PrecisionWarning, match="cancel: their absolute values sum to 2e"):
        TransformerDeepLift(steep).attribute(x)


class Pool(nn.Module):
    """A learned query, which does not depend on the input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.key, self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x, mask=None, shift=None):
        mask = None if mask is None else mask[:, None, :]
        made = F.scaled_dot_product_attention(
            self.query.expand(len(x), 1, 8), self.key(x), self.value(x), attn_mask=mask
        )
        return self.out(made[:, 0] if shift is None else made[:, 0] + shift)


class Counted(nn.Module):
    """Counts how often a model runs."""

    def __init__(self, model):
        super().__init__()
        self.model, self.runs = model, 0

    def forward(self, *args):
        self.runs += 1
        return self.model(*args)


def test_both_runs_are_proven_anew_for_other_types_of_arguments():
    model = Counted(Pool())
    method = TransformerDeepLift(model)
    x, x0 = torch.randn(2, 4, 8), torch.zeros(2, 4, 8)
    seen = torch.ones(2, 4, dtype=torch.bool)
    costs = []
    for arguments in (
        None,
        None,
        (seen,),
        (seen,),
        (seen.float(),),
        (seen, torch.ones(8)),
        (seen, torch.ones(8)),
    ):
        model.runs = 0
        method.attribute(x, x0, 0, arguments)
        costs.append(model.runs)
    assert costs == [4, 2, 4, 2, 4, 4, 2]


def test_recording_that_changes_the_output_at_the_baseline_raises(monkeypatch):
    """Rules see both runs alike, so no sum tells."""
    original = EXACT[torch.nn.functional.scaled_dot_product_attention]

    def another(depends, query, key, value, *args, **kwargs):
        made = torch.nn.functional.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value
        return made + (1 if not value.any() else 0)

    monkeypatch.setitem(EXACT, torch.nn.functional.scaled_dot_product_attention, Row(original.rule, another))
    model = Pool()
    nn.init.zeros_(model.value.bias)
    with pytest.raises((ReconstructionError, ValueError)):
        TransformerDeepLift(model).attribute(torch.randn(2, 4, 8), torch.zeros(2, 4, 8), 0)


def test_esm_as_published_names_the_baselines_that_work():
    torch.manual_seed(0)
    config = transformers.EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    model = transformers.EsmForSequenceClassification(config).double().eval()
    forward, ids = EncoderForward(model, ("attention_mask",)), torch.tensor([[0, 5, 6, 7, 8, 9, 2]])
    mask, base = torch.ones_like(ids), torch.tensor([[0, 1, 1, 1, 1, 1, 2]])
    with pytest.raises(ReconstructionError, match='padding ids, or .*baseline="zero"'):
        TransformerDeepLift(forward).attribute(ids, torch.where(base == 1, 32, base), 0, (mask,))
    scores = TransformerDeepLift(forward).attribute(ids, base, 0, (mask,))
    change = (forward(ids, mask) - forward(base, mask))[0, 0].detach()
    torch.testing.assert_close(scores.sum(), change, rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", ["high", "medium"])
@pytest.mark.parametrize("broken", [False, True])
def test_lower_precisions_of_matrix_products_are_rounding(precision, broken):
    """T5 computes its norms in float32, so no run in float64 helps; a part that is missing still shows."""
    family = next(it for it in FAMILIES if it.label == "t5")
    model, data = family.make().float(), family.batch("right")
    forward = Weighted(model, family.arguments)
    others = torch.where(data.real, VOCABULARY - 1, data.inputs)

    def function(inputs, mask):
        missing = inputs.float().pow(2).sum(1) * mask.sum(1) if broken else 0
        return forward(inputs, mask) + missing

    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(ReconstructionError) if broken else nullcontext():
            TransformerDeepLift(function, model).attribute(data.inputs, others, None, data.extra)
    finally:
        torch.set_float32_matmul_precision("highest")
