"""Sanity checks, on methods that are correct by construction and on wrong ones."""

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, RobertaPreLayerNormConfig
from transformers import RobertaPreLayerNormForSequenceClassification as PreLayerNorm
from transformers.modeling_outputs import SequenceClassifierOutput

from captum_globenc.evaluation import (
    METHODS,
    METRICS,
    Example,
    Method,
    SanityChecks,
    Subject,
    redrawn,
    with_folded_gains,
    with_permuted_heads,
)
from captum_globenc.evaluation.subject import attribute
from captum_globenc.texts import load_classifier
from checkpoints import VOCABULARY
from models import SMALL, randomize, state_of

TEXTS = [
    Example(0, "the plot is bad"),
    Example(1, "a great film but the script is not good ."),
    Example(2, "unhappy but not bad , great script !"),
]
COMPLETE = ("transformer-deep-lift", "transformer-deep-lift/2", "integrated-gradients", "deep-lift")
DETERMINISTIC = ("globenc", "N-Res", "W", "decompx", "saliency", "feature-ablation", *COMPLETE)


@pytest.fixture
def loaded(folder):
    model, tokenizer = load_classifier(folder)[:2]
    return randomize(model.double()), tokenizer


def pre_layer_norm():
    config = RobertaPreLayerNormConfig(**SMALL, pad_token_id=0, num_labels=2)
    return randomize(PreLayerNorm(config).double())


class BagOfWords(PreTrainedModel):
    """Logits are sums over tokens with known terms. The mask's embedding is 0."""

    config_class = BertConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, inputs_embeds=None):
        embedded = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        return SequenceClassifierOutput(
            logits=self.head((embedded * attention_mask[..., None].to(embedded)).sum(dim=1))
        )


@pytest.fixture
def bag(loaded):
    """A subject over a bag of words, its batch, and the term of each token in the explained logit."""
    model = randomize(BagOfWords(BertConfig(**{**SMALL, "vocab_size": len(VOCABULARY)})).double())
    with torch.no_grad():
        model.embeddings.weight[VOCABULARY["[MASK]"]] = 0
        # Two classes, so that the probability rises and falls with the logit.
        model.head.weight[1] = -model.head.weight[0]
        model.head.bias[1] = -model.head.bias[0]
    subject = Subject(model, loaded[1])
    batch = subject.batch(0, TEXTS)
    adds = model.head(model.embeddings(batch.inputs)) - model.head.bias
    truth = adds.gather(2, batch.target[:, None, None].expand(-1, adds.shape[1], 1))[..., 0]
    return subject, batch, (truth * batch.mask).detach()


@pytest.mark.parametrize("method", [*COMPLETE, "feature-ablation", "gradient-shap", "input-x-gradient"])
def test_complete_methods_find_the_weights_of_a_bag_of_words(bag, method):
    subject, batch, truth = bag
    scores = attribute(method, batch)
    assert torch.allclose(scores.double(), truth, atol=1e-6)
    assert METRICS["completeness-error"].measure(subject, batch, scores).max() < 1e-5


def test_occlusion_is_the_mean_of_the_two_windows_over_a_token(bag):
    _, batch, truth = bag
    # What two neighbours add; a token at either end lies in one window alone.
    windows = truth[:, 1:] + truth[:, :-1]
    expected = torch.cat([windows[:, :1], (windows[:, 1:] + windows[:, :-1]) / 2, windows[:, -1:]], dim=1)
    scores = attribute("occlusion", batch)
    assert torch.allclose(scores.double(), expected * batch.mask, atol=1e-6)


def test_metrics_tell_the_truth_from_its_reverse_and_from_chance(bag, monkeypatch):
    subject, batch, truth = bag
    chance = attribute("random", batch)
    batch.marked.copy_(truth == truth.masked_fill(~batch.mask, -torch.inf).amax(dim=1, keepdim=True))
    measured = {
        name: [METRICS[name].measure(subject, batch, scores) for scores in (truth, chance, -truth)]
        for name in ("aopc-most", "aopc-least", "marked-precision", "marked-rank", "completeness-error")
    }
    for name, better in (("aopc-most", 1), ("aopc-least", -1)):
        right, random, wrong = (better * values for values in measured[name])
        assert bool((right >= random - 1e-12).all() and (random >= wrong - 1e-12).all())
        assert bool((right > wrong).all())
    assert measured["marked-precision"][0].tolist() == [1, 1, 1]
    assert measured["marked-precision"][2].tolist() == [0, 0, 0]
    assert measured["marked-rank"][0].tolist() == [1, 1, 1]
    assert measured["marked-rank"][2].tolist() == batch.mask.sum(dim=1).tolist()
    assert measured["completeness-error"][0].max() < 1e-9
    # The reverse sums to the negative: it misses the difference by twice its size.
    assert torch.allclose(measured["completeness-error"][2], 2 * truth.sum(dim=1).abs())


def test_every_parameter_is_randomized_once_in_a_copy(loaded):
    model, _ = loaded
    state, values = state_of(model), {name: it.clone() for name, it in model.named_parameters()}
    before, parts = values, {}
    for part, changed in redrawn(model):
        now = {name: it.detach().clone() for name, it in changed.named_parameters()}
        parts[part] = {name for name in now if not torch.equal(now[name], before[name])}
        before = now
    assert list(parts) == ["head", "layer 2", "layer 1", "embeddings"]
    assert sorted(name for names in parts.values() for name in names) == sorted(values)
    assert all("classifier" in name or "pooler" in name for name in parts["head"])
    assert all("layer.1." in name for name in parts["layer 2"])
    assert all("embeddings" in name for name in parts["embeddings"])
    words = "bert.embeddings.word_embeddings.weight"
    assert now[words].std() == pytest.approx(values[words].std().item(), rel=0.2)
    assert state_of(model) == state
    assert all(torch.equal(it, values[name]) for name, it in model.named_parameters())


def test_only_scores_that_depend_on_a_randomized_part_change(loaded, monkeypatch):
    def by_sign(parameter):
        def scores(request):
            return request.inputs * request.of.model.get_parameter(parameter).detach().flatten()[0].sign()

        return Method(scores)

    head, first = "classifier.weight", "bert.encoder.layer.0.output.dense.bias"
    for name in (head, first):
        monkeypatch.setitem(METHODS, name, by_sign(name))
    # The first seed whose draw turns both signs, so that the correlation turns from 1 to -1.
    signs = {name: loaded[0].get_parameter(name).flatten()[0].sign() for name in (head, first)}
    seed = next(
        seed
        for seed in range(50)
        for *_, (_, last) in [redrawn(loaded[0], seed)]
        if all(last.get_parameter(name).flatten()[0].sign() == -sign for name, sign in signs.items())
    )
    checks = SanityChecks(*loaded, TEXTS, [head, first, "random"], batch_size=2, seed=seed)
    found = dict(checks.randomization())
    turned = {
        part: [round(values[name].mean().item()) for name in (head, first)] for part, values in found.items()
    }
    assert turned == {"head": [-1, 1], "layer 2": [-1, 1], "layer 1": [-1, -1], "embeddings": [-1, -1]}
    assert all(values["random"].tolist() == pytest.approx([1, 1, 1]) for values in found.values())


def test_scores_change_when_all_weights_are_randomized(loaded):
    # Without the first text, whose four words may well stay in their order.
    checks = SanityChecks(*loaded, TEXTS[1:], ["globenc", "transformer-deep-lift"])
    *_, (_, found) = checks.randomization()
    assert all(bool((values < 0.9).all()) for values in found.values())


def test_two_equal_functions_score_alike_and_a_method_that_reads_weights_does_not(loaded, monkeypatch):
    model, tokenizer = loaded
    weight = "bert.encoder.layer.0.attention.self.query.weight"
    of_weight = Method(lambda request: request.inputs * request.of.model.get_parameter(weight)[0, 0])
    monkeypatch.setitem(METHODS, "a-weight", of_weight)
    same = with_permuted_heads(model, seed=1)
    checks = SanityChecks(model, tokenizer, TEXTS, [*DETERMINISTIC, "lime", "a-weight"], batch_size=2)
    found = checks.invariance(same)
    ratio = same.get_parameter(weight)[0, 0] / model.get_parameter(weight)[0, 0]
    assert ratio != 1
    assert found.pop("a-weight").tolist() == pytest.approx([abs(ratio.item() - 1)] * 3)
    assert {name: values.max().item() for name, values in found.items() if values.max() > 1e-5} == {}


def test_gains_go_into_the_next_matrix_and_the_function_stays():
    model = pre_layer_norm()
    batch = {"input_ids": torch.randint(5, 60, (3, 9)), "attention_mask": torch.ones(3, 9).long()}
    folded = with_folded_gains(model, batch)
    assert torch.allclose(folded(**batch).logits, model(**batch).logits, atol=1e-9)
    norms = {name: it for name, it in folded.named_modules() if isinstance(it, nn.LayerNorm)}
    plain = {name for name, it in norms.items() if bool((it.weight == 1).all() and (it.bias == 0).all())}
    # The norm of the embeddings goes into the residual stream, the last one to the head's slice of it.
    assert plain == {name for name in norms if "layer." in name}
    assert len(plain) == 2 * SMALL["num_hidden_layers"]


def test_complete_methods_do_not_change_with_folded_gains(loaded):
    model, tokenizer = pre_layer_norm(), loaded[1]
    batch = tokenizer([it.text for it in TEXTS], padding=True, return_tensors="pt")
    checks = SanityChecks(model, tokenizer, TEXTS, [*COMPLETE, "saliency", "globenc", "decompx"])
    found = {name: it.max().item() for name, it in checks.invariance(with_folded_gains(model, batch)).items()}
    # GlobEnc measures vectors ahead of the gains or behind them, DecompX credits a value's bias to its token.
    assert {name for name, change in found.items() if change > 1e-5} == {"globenc", "decompx"}


def test_norms_that_feed_the_residual_stream_cannot_be_folded(loaded):
    state = {name: it.clone() for name, it in loaded[0].state_dict().items()}
    with pytest.raises(ValueError, match="no LayerNorm"):
        with_folded_gains(loaded[0], loaded[1]("the plot", return_tensors="pt"))
    assert all(torch.equal(it, state[name]) for name, it in loaded[0].state_dict().items())


def test_models_with_different_outputs_are_rejected(loaded):
    *_, (_, other) = redrawn(loaded[0])
    with pytest.raises(ValueError, match="outputs differ"):
        SanityChecks(*loaded, TEXTS, ["random"]).invariance(other)


def test_a_token_without_effect_gets_nothing_and_changes_nothing(loaded, monkeypatch):
    spread = Method(lambda it: torch.full(it.inputs.shape, 1 / it.inputs.shape[1]).double())
    monkeypatch.setitem(METHODS, "spread", spread)
    model, tokenizer = loaded
    state = state_of(model)
    checks = SanityChecks(model, tokenizer, TEXTS, [*DETERMINISTIC, "spread"], batch_size=2)
    found = checks.added_token(VOCABULARY["red"])
    # 1 / n each, and with a token more 1 / (n + 1), the new one's too: n / (n + 1) of what it was. The first
    # two texts are padded to the longer one's 12 tokens, the third has 11.
    assert found.pop("spread").tolist() == pytest.approx([12 / 13, 12 / 13, 11 / 12])
    assert {name: values.max().item() for name, values in found.items() if values.max() > 1e-6} == {}
    assert state_of(model) == state


def test_heads_without_separate_projections_are_rejected():
    model = BertForSequenceClassification(BertConfig(**SMALL))
    for layer in model.bert.encoder.layer:
        layer.attention.self.key = nn.Sequential(layer.attention.self.key, nn.Linear(24, 24))
    with pytest.raises(ValueError, match="three linear maps"):
        with_permuted_heads(model)
