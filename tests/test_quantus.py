"""The explain function for Quantus, alone and in Quantus itself."""

from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from scipy.stats import spearmanr

from captum_globenc import EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.quantus import TextSignal, explain
from pages import ROOT, python_blocks


@pytest.fixture
def setting(classifier):
    """Two texts of eight tokens, as signals, and the classes they are explained for."""
    model = TextSignal(EncoderForward(classifier.float()))
    ids = torch.randint(5, 60, (2, 8), generator=torch.Generator().manual_seed(0))
    embeddings = classifier.get_input_embeddings()(ids).detach()
    return model, embeddings.transpose(1, 2).numpy(), np.array([1, 2]), ids


def test_scores_are_those_of_the_method_over_ids(setting):
    model, signal, targets, ids = setting
    scores = explain(model, signal, targets)
    assert scores.shape == (2, 1, 8)
    assert np.allclose(scores[:, 0], GlobEnc(model.forward_func).attribute(ids).numpy(), atol=1e-6)
    steps = explain(model, signal, targets, attribution=IntegratedGradients, n_steps=8)
    expected = IntegratedGradients(model.forward_func).attribute(
        torch.as_tensor(signal).transpose(1, 2), target=torch.tensor([1, 2]), n_steps=8
    )
    assert np.allclose(steps[:, 0], expected.sum(-1).numpy(), atol=1e-6)


def test_a_model_that_is_no_signal_is_rejected(setting):
    model, signal, targets, _ = setting
    with pytest.raises(TypeError, match="TextSignal"):
        explain(model.forward_func, signal, targets)


@pytest.mark.quantus
def test_quantus_evaluates_globenc_and_integrated_gradients(setting):
    quantus = pytest.importorskip("quantus", reason='needs the extra "quantus"')
    model, signal, targets, _ = setting
    flipping = {"features_in_step": 1, "perturb_baseline": "black", "disable_warnings": True}
    call = {"normalise": False, "abs": False, "display_progressbar": False}
    found = quantus.evaluate(
        metrics={
            "pixel flipping": quantus.PixelFlipping(**flipping, **call),
            "sparseness": quantus.Sparseness(normalise=False, abs=True, disable_warnings=True),
        },
        xai_methods={
            "GlobEnc": explain,
            "IntegratedGradients": partial(explain, attribution=IntegratedGradients, n_steps=8),
        },
        model=model,
        x_batch=signal,
        y_batch=targets,
        explain_func_kwargs={},
        call_kwargs={"call": {"channel_first": True, "softmax": True}},
    )
    assert set(found) == {"GlobEnc", "IntegratedGradients"}
    for name, method in (("GlobEnc", explain), ("IntegratedGradients", None)):
        curves = np.array(found[name]["pixel flipping"])
        assert curves.shape == (2, 24 * 8)
        if method is not None:
            # The same curve by hand: the highest scores first, their embeddings to 0. Quantus flips
            # the 24 channels of a token one by one, in an order of its own, so only whole tokens compare.
            order = np.argsort(-method(model, signal, targets)[:, 0], axis=1)
            for text in range(2):
                gone = signal[text].copy()
                for step in range(8):
                    gone[:, order[text, step]] = 0
                    with torch.no_grad():
                        p = model(torch.as_tensor(gone)[None]).softmax(-1)[0, targets[text]].item()
                    assert curves[text, 24 * step + 23] == pytest.approx(p, abs=1e-5)
        sparse = np.array(found[name]["sparseness"])
        assert ((sparse > 0) & (sparse < 1)).all()


@pytest.mark.quantus
@pytest.mark.parametrize("attribution", [GlobEnc, TransformerDeepLift])
def test_quantus_randomizes_weights_and_targets(setting, attribution):
    """Adebayo et al. 2018 and Sixt et al. 2020: its metrics of randomisation."""
    quantus = pytest.importorskip("quantus", reason='needs the extra "quantus"')
    model, signal, targets, _ = setting
    call = {
        "model": model,
        "x_batch": signal,
        "y_batch": targets,
        "explain_func": partial(explain, attribution=attribution),
        "channel_first": True,
        "softmax": False,
    }
    options = {
        "similarity_func": quantus.similarity_func.correlation_spearman,
        "abs": False,
        "normalise": False,
        "disable_warnings": True,
    }
    found = quantus.MPRT(**options, skip_layers=False, seed=3)(**call)
    _, first, *_ = found  # after the model as it was
    assert first.endswith("classifier")
    redrawn = deepcopy(model)
    torch.manual_seed(4)
    redrawn.get_submodule(first).reset_parameters()
    whole = explain(model, signal, targets, attribution=attribution)[:, 0]
    changed = explain(redrawn, signal, targets, attribution=attribution)[:, 0]
    by_hand = [spearmanr(*rows).statistic for rows in zip(whole, changed, strict=True)]
    np.testing.assert_allclose(found[first], by_hand, atol=1e-6)
    # GlobEnc knows no class: neither the head's weights nor another class change it.
    other = np.array(quantus.RandomLogit(num_classes=3, **options)(**call))
    assert (other == pytest.approx(1)) == (attribution is GlobEnc)
    assert (np.array(by_hand) == pytest.approx(1)) == (attribution is GlobEnc)
    assert np.abs(list(found.values())[-1]).max() < 0.99


@pytest.mark.quantus
def test_the_example_of_the_guide_runs():
    pytest.importorskip("quantus", reason='needs the extra "quantus"')
    _, model_and_ids, *others = python_blocks(ROOT / "docs/evaluation.md")
    (in_quantus,) = (block for block in others if "import quantus" in block)
    names = {}
    exec(model_and_ids, names)
    exec(in_quantus, names)
    assert set(names["found"]) == {"GlobEnc", "IntegratedGradients"}
    for scores in names["found"].values():
        assert 0 < scores["sparseness"][0] < 1
