"""GlobEnc with Captum's own checks, metrics and visualizer."""

import pytest
import torch
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    LayerIntegratedGradients,
    NoiseTunnel,
    Saliency,
)
from captum.attr._utils.visualization import VisualizationDataRecord, visualize_text
from captum.metrics import infidelity, sensitivity_max

from captum_globenc import EncoderForward, GlobEnc
from models import state_of

MASK_ID = 3


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    return forward, inputs, extra


@pytest.fixture
def embedded(setting, classifier):
    """The same with embeddings for inputs."""
    forward, inputs, extra = setting
    return forward, classifier.bert.embeddings.word_embeddings(inputs).detach(), extra


@pytest.fixture
def config(setting):
    """What the rows of the table hold from which Captum generates its tests: a function and arguments."""
    forward, inputs, extra = setting
    return forward, {"inputs": inputs, "target": 0, "additional_forward_args": extra}


def perturb_ids(ids):
    """Replace one token of each example by the mask token, as a token perturbation for Captum's metrics."""
    where = torch.zeros(ids.shape, dtype=torch.bool)
    where[torch.arange(len(ids)), torch.randint(1, 4, (len(ids),))] = True
    return where, torch.where(where, MASK_ID, ids)


def test_hooks_are_removed_when_the_target_is_bad(config):
    """Run Captum's generated hook-removal test."""
    model, arguments = config
    before = state_of(model)
    arguments["target"] = (9999,) * 20
    with pytest.raises(AssertionError):
        GlobEnc(model).attribute(**arguments)
    for module in model.modules():
        assert len(module._forward_hooks) == 0
        assert len(module._backward_hooks) == 0
        assert len(module._forward_pre_hooks) == 0
    assert state_of(model) == before


@pytest.mark.parametrize("target", [1, [0, 2, 1], torch.tensor([0, 2, 1]), torch.tensor([1]), (1,)])
def test_a_batch_with_targets_equals_its_examples(config, target):
    """Run Captum's generated target test."""
    model, arguments = config
    arguments["target"] = target
    together = GlobEnc(model).attribute(**arguments)
    per_example = not isinstance(target, tuple) and len(torch.as_tensor(target).flatten()) == len(together)
    for example in range(len(together)):
        single = target[example] if per_example else target
        alone = GlobEnc(model).attribute(
            arguments["inputs"][example : example + 1],
            target=single,
            additional_forward_args=tuple(
                a[example : example + 1] for a in arguments["additional_forward_args"]
            ),
        )
        torch.testing.assert_close(alone[0], together[example], rtol=0, atol=1e-12)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_over_embeddings(embedded, nt_type):
    forward, inputs, extra = embedded
    globenc = GlobEnc(forward)
    torch.manual_seed(0)
    noisy = NoiseTunnel(globenc).attribute(
        inputs, nt_type=nt_type, nt_samples=8, stdevs=1e-4, target=1, additional_forward_args=extra
    )
    assert noisy.shape == inputs.shape
    scores = globenc.attribute(inputs, 1, extra)
    expected = {"smoothgrad": scores, "smoothgrad_sq": scores**2, "vargrad": torch.zeros_like(scores)}
    assert torch.allclose(noisy, expected[nt_type], atol=1e-5)


def test_noise_tunnel_over_ids_is_rejected_with_advice(setting):
    forward, inputs, extra = setting
    with pytest.raises(TypeError, match="embeddings"):
        NoiseTunnel(GlobEnc(forward)).attribute(inputs.float(), target=1, additional_forward_args=extra)


def test_infidelity_over_ids_is_the_squared_error_it_defines(setting):
    forward, inputs, extra = setting
    scores = GlobEnc(forward).attribute(inputs, 1, extra)

    def perturb(ids):
        where, replaced = perturb_ids(ids)
        return where.to(scores.dtype), replaced

    torch.manual_seed(3)
    value = infidelity(
        forward, perturb, inputs, scores, additional_forward_args=extra, target=1, n_perturb_samples=1
    )
    torch.manual_seed(3)
    where, replaced = perturb_ids(inputs)
    change = forward(inputs, *extra)[:, 1] - forward(replaced, *extra)[:, 1]
    assert torch.allclose(value, ((where * scores).sum(1) - change) ** 2)


def test_infidelity_over_embeddings(embedded):
    forward, inputs, extra = embedded
    scores = GlobEnc(forward).attribute(inputs, 1, extra)

    def perturb(embeddings):
        noise = 0.1 * torch.randn_like(embeddings)
        return noise, embeddings - noise

    value = infidelity(forward, perturb, inputs, scores, additional_forward_args=extra, target=1)
    assert value.shape == (3,)
    assert (value > 0).all()


def test_sensitivity_max_over_ids_with_a_token_perturbation(setting):
    forward, inputs, extra = setting
    globenc = GlobEnc(forward)

    def perturb(ids):
        return perturb_ids(ids)[1]

    torch.manual_seed(3)
    value = sensitivity_max(
        globenc.attribute,
        inputs,
        perturb,
        n_perturb_samples=1,
        target=1,
        additional_forward_args=extra,
    )
    torch.manual_seed(3)
    scores = globenc.attribute(inputs, 1, extra)
    changed = globenc.attribute(perturb(inputs), 1, extra)
    assert torch.allclose(value, (scores - changed).norm(dim=1) / scores.norm(dim=1))


def test_sensitivity_max_over_embeddings_is_small_for_small_perturbations(embedded):
    forward, inputs, extra = embedded
    value = sensitivity_max(
        GlobEnc(forward).attribute, inputs, perturb_radius=1e-6, target=1, additional_forward_args=extra
    )
    assert value.shape == (3,)
    assert ((value > 0) & (value < 1e-3)).all()


def test_visualize_text_draws_the_scores(setting):
    forward, inputs, extra = setting
    scores = GlobEnc(forward).attribute(inputs, 1, extra)
    words = [f"word{i}" for i in inputs[0].tolist()]
    record = VisualizationDataRecord(scores[0] / scores[0].max(), 0.9, 1, 1, "1", scores[0].sum(), words, 0.0)
    html = visualize_text([record]).data
    assert all(word in html for word in words)


def test_side_by_side_with_other_methods_on_one_forward_function(setting, embedded, classifier):
    forward, ids, extra = setting
    _, embeddings, _ = embedded
    calls = {"target": 1, "additional_forward_args": extra}
    by_ids = {
        "GlobEnc": GlobEnc(forward).attribute(ids, **calls),
        "FeatureAblation": FeatureAblation(forward).attribute(ids, baselines=MASK_ID, **calls),
        "LayerIntegratedGradients": LayerIntegratedGradients(
            forward, classifier.bert.embeddings.word_embeddings
        )
        .attribute(ids, baselines=torch.full_like(ids, MASK_ID), n_steps=4, **calls)
        .sum(-1),
    }
    by_embeddings = {
        "GlobEnc": GlobEnc(forward).attribute(embeddings, **calls).sum(-1),
        "InputXGradient": InputXGradient(forward).attribute(embeddings, **calls).sum(-1),
        "Saliency": Saliency(forward).attribute(embeddings, **calls).sum(-1),
    }
    assert {s.shape for s in (*by_ids.values(), *by_embeddings.values())} == {ids.shape}
    assert torch.allclose(by_ids["GlobEnc"], by_embeddings["GlobEnc"])
