"""The explainers for ferret and interpreto, in these packages themselves."""

import sys

import numpy as np
import pytest
import torch

from captum_globenc import explain
from captum_globenc.harnesses import _explained, ferret_explainer, interpreto_explainer
from captum_globenc.texts import load_classifier, load_default
from checkpoints import save_classifier
from pages import ROOT, python_blocks

TEXTS = ["the plot is bad but great .", "good film !"]


@pytest.fixture
def loaded(folder):
    return load_classifier(folder)[:2]


def probabilities(model, rows, target):
    with torch.no_grad():
        return model(input_ids=torch.stack(rows)).logits.softmax(-1)[:, target]


@pytest.mark.parametrize(
    ("make", "package", "advice"),
    [
        (ferret_explainer, "ferret", "--no-deps ferret-xai"),
        (interpreto_explainer, "interpreto", r"\.\[interpreto\]"),
    ],
)
def test_a_package_that_is_not_installed_is_named(loaded, make, package, advice, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=advice):
        make(*loaded)


@pytest.mark.harnesses
def test_ferret_measures_masking_of_the_highest_scores(loaded):
    ferret = pytest.importorskip("ferret", reason="needs ferret-xai")
    model, tokenizer = loaded
    explainer = ferret_explainer(model, tokenizer)
    bench = ferret.Benchmark(model, tokenizer, explainers=[explainer])
    (found,) = bench.explain(TEXTS[0], target=1, show_progress=False, normalize_scores=False)
    (expected,) = explain(TEXTS[:1], model, tokenizer, methods=["transformer-deep-lift"], target=1)
    assert (found.tokens, found.explainer, found.target) == (expected.tokens, "transformer-deep-lift", 1)
    np.testing.assert_array_equal(found.scores, expected.scores["transformer-deep-lift"])
    removal = {"remove_tokens": False, "thresholds": [0.3]}
    measured = bench.evaluate_explanation(found, 1, show_progress=False, removal_args=removal)
    comprehensiveness = next(it.score for it in measured.evaluation_scores if it.name == "aopc_compr")
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"][0]
    masked = ids.clone()
    # Without the special tokens 0.3 of seven are two.
    masked[1 + np.argsort(-found.scores[1:-1])[:2]] = tokenizer.mask_token_id
    whole, without = probabilities(model, [ids, masked], 1)
    assert comprehensiveness == pytest.approx(float(whole - without), abs=1e-6)


@pytest.mark.harnesses
def test_interpreto_deletes_tokens_in_the_order_of_their_scores(loaded):
    pytest.importorskip("interpreto", reason='needs the extra "interpreto"')
    from interpreto.attributions.metrics import Deletion, Insertion

    model, tokenizer = loaded
    outputs = interpreto_explainer(model, tokenizer, "globenc")(TEXTS, torch.tensor([1, 0]))
    area, curves = Deletion(model, tokenizer)(outputs)
    areas = []
    for text, target, output, (curve,) in zip(TEXTS, (1, 0), outputs, curves, strict=True):
        (expected,) = explain([text], model, tokenizer, methods=["globenc"])
        assert output.elements == expected.tokens
        assert output.attributions[0].tolist() == pytest.approx(expected.scores["globenc"])
        ids = tokenizer(text, return_tensors="pt")["input_ids"][0]
        rows = [ids]
        for token in output.attributions[0].argsort(descending=True):
            rows.append(rows[-1].clone())
            rows[-1][token] = tokenizer.mask_token_id
        by_hand = probabilities(model, rows, target)
        torch.testing.assert_close(curve, by_hand, rtol=1e-4, atol=1e-6)
        areas.append(torch.trapezoid(by_hand) / len(ids))
    assert area == pytest.approx(float(torch.stack(areas).mean()), abs=1e-5)
    assert Insertion(model, tokenizer)(outputs)[0] != pytest.approx(area)


@pytest.mark.harnesses
def test_interpreto_takes_one_text_or_one_class_for_all(loaded):
    pytest.importorskip("interpreto", reason='needs the extra "interpreto"')
    explainer = interpreto_explainer(*loaded)
    (one,) = explainer(TEXTS[0], 0)
    assert torch.equal(explainer(TEXTS, 0)[0].attributions, one.attributions)
    (predicted,) = explain(TEXTS[:1], *loaded)
    (left_out,) = explainer(TEXTS[0])
    assert loaded[0].config.id2label[int(left_out.targets)] == predicted.prediction
    with pytest.raises(ValueError, match="3 targets for 2 texts"):
        explainer(TEXTS, [0, 1, 0])


@pytest.mark.harnesses
@pytest.mark.parametrize("package", ["interpreto", "ferret"])
def test_the_examples_of_the_guide_run(package):
    pytest.importorskip(package, reason=f"needs {package}")
    blocks = [it for it in python_blocks(ROOT / "docs/evaluation.md") if f"from {package}" in it]
    names = dict(zip(("model", "tokenizer"), load_default(), strict=True))
    exec(blocks[0], names)
    if package == "interpreto":
        assert 0 < names["area"] < 1
    else:
        assert {it.name for it in names["measured"][0].evaluation_scores} >= {"aopc_compr", "aopc_suff"}


def test_a_class_is_selected_by_its_index_whatever_its_name(tmp_path):
    names = {0: "dull", 1: "dull", 2: ""}
    folder = save_classifier(tmp_path, id2label=names, label2id={}, problem_type="multi_label_classification")
    model, tokenizer = load_classifier(str(folder))[:2]
    logits = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0].tolist()
    for number, value in [*enumerate(logits), (None, max(logits))]:
        found = _explained(TEXTS[0], model, tokenizer, "decompx", number, {})
        assert found.explained == pytest.approx(value, abs=1e-5)
    with pytest.raises(
        ValueError, match="target 3 is not a class of the model: dull \\(0\\), dull \\(1\\), 2"
    ):
        _explained(TEXTS[0], model, tokenizer, "decompx", 3, {})
