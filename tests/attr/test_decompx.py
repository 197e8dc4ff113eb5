"""DecompX equals its authors' code and the definition by vectors, and fulfills Captum's contract."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from captum_globenc import DecompX, EncoderForward
from families import FAMILIES
from models import state_of
from outsiders import OUTSIDERS

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    (path.parent.name, name)
    for path in sorted(GOLDEN.glob("*/decompx.npz"))
    for name in json.loads((path.parent / "inputs.json").read_text())["sets"]
    if f"{name}/without-biases" in np.load(path).files
]


@pytest.mark.parametrize(("case", "name"), CASES)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_class_is_scored_as_by_the_authors_code(case, name, implementation):
    model = AutoModelForSequenceClassification.from_pretrained(
        GOLDEN / case, attn_implementation=implementation
    )
    forward = EncoderForward(model.double().eval())
    given = json.loads((GOLDEN / case / "inputs.json").read_text())["sets"][name]
    inputs, extra = forward.arguments({key: torch.tensor(rows) for key, rows in given.items()})
    expected = np.load(GOLDEN / case / "decompx.npz")
    real = torch.tensor(given["attention_mask"]).bool()
    method = DecompX(forward)
    classes = method.attribute_classes(inputs, extra)
    golden = torch.from_numpy(expected[f"{name}/without-biases"]).transpose(1, 2)
    assert (classes - golden).abs().max() <= 1e-8 * golden.abs().max()
    for target in range(classes.shape[1]):
        assert torch.equal(method.attribute(inputs, target, extra), classes[:, target])
    # A head that reads padding has something of it.
    begins = real[:, 0]
    assert not classes.transpose(1, 2)[begins][~real[begins]].any()


def test_there_are_cases_of_both_families_and_of_padded_batches():
    assert {case.partition("_")[0] for case, _ in CASES} == {"bert", "roberta"}
    assert {name for _, name in CASES} >= {"single0", "batch"}


@pytest.mark.parametrize("target", [1, [0, 2, 1], torch.tensor([0, 2, 1]), torch.tensor([1]), (1,)])
def test_a_batch_with_targets_equals_its_examples(classifier, batch, target):
    """Run Captum's generated target test."""
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    together = DecompX(forward).attribute(inputs, target, extra)
    per_example = not isinstance(target, tuple) and len(torch.as_tensor(target).flatten()) == len(together)
    for i in range(len(together)):
        one = slice(i, i + 1)
        single = target[i] if per_example else target
        alone = DecompX(forward).attribute(inputs[one], single, tuple(it[one] for it in extra))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-11)


def test_hooks_are_removed_when_the_target_is_bad(classifier, batch):
    """Run Captum's generated hook-removal test."""
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    before = state_of(forward)
    with pytest.raises(AssertionError):
        DecompX(forward).attribute(inputs, (9999,) * 20, extra)
    assert state_of(forward) == before


def test_a_padded_batch_is_scored_as_each_text_alone(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    together = DecompX(forward).attribute(inputs, 1, extra)
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        alone = DecompX(forward).attribute(
            inputs[i : i + 1, :length], 1, tuple(it[i : i + 1, :length] for it in extra)
        )
        torch.testing.assert_close(together[i, :length], alone[0], rtol=1e-9, atol=1e-12)
        assert not together[i, length:].any()


@pytest.mark.parametrize(
    "family",
    [it for it in FAMILIES if it.classifier is not None and it.label != "deberta"],
    ids=lambda family: family.label,
)
def test_without_any_bias_scores_add_up_to_the_output(family):
    """Then the frozen network is linear, and what it gives is the sum over its tokens."""
    model = family.make(kind=family.classifier)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    batch = family.batch(family.sides[0] if family.sides else "right")
    forward = EncoderForward(model, family.arguments)
    classes = DecompX(forward).attribute_classes(batch.inputs, batch.extra)
    expected = forward(batch.inputs, *batch.extra).detach()
    torch.testing.assert_close(classes.sum(-1).to(expected.dtype), expected, rtol=1e-5, atol=1e-6)


def test_embeddings_and_tuples(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    by_ids = DecompX(forward).attribute(inputs, 1, extra)
    (again,) = DecompX(forward).attribute((inputs,), 1, extra)
    assert torch.equal(by_ids, again)
    embedded = classifier.bert.embeddings.word_embeddings(inputs).detach()
    scores = DecompX(forward).attribute(embedded, 1, extra)
    assert scores.shape == embedded.shape
    torch.testing.assert_close(scores.sum(-1), by_ids)


@pytest.mark.parametrize(
    "family", [it for it in FAMILIES if it.classifier is not None], ids=lambda family: family.label
)
def test_families_are_scored_or_rejected_with_a_reason(family):
    model = family.make(kind=family.classifier)
    batch = family.batch(family.sides[0] if family.sides else "right")
    forward = EncoderForward(model, family.arguments)
    forward(batch.inputs, *batch.extra)  # some models hook into themselves when they first run
    before = state_of(model)
    if family.label == "deberta":
        with pytest.raises(ValueError, match="value vectors"):
            DecompX(forward).attribute(batch.inputs, 0, batch.extra)
    else:
        scores = DecompX(forward).attribute(batch.inputs, 0, batch.extra)
        assert scores.shape == batch.inputs.shape
        assert torch.isfinite(scores).all()
        assert scores.abs().max() > 0
    assert state_of(model) == before


def test_unsupported_operations_are_rejected(classifier, batch):
    with pytest.raises(ValueError, match="pass the module"):
        DecompX(lambda ids: classifier(ids).logits)
    with pytest.raises(TypeError, match="not a module"):
        DecompX(classifier, model="bert")
    with pytest.raises(ValueError, match="supported"):
        DecompX(OUTSIDERS["gpt2"].make())
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    with pytest.raises(TypeError, match="integers"):
        DecompX(forward).attribute(inputs.float(), 1, extra)
    with pytest.raises(AssertionError):
        DecompX(forward).attribute(inputs, (9999,) * 20, extra)
    with pytest.raises(IndexError):
        DecompX(forward).attribute(inputs, 9, extra)
    with pytest.raises(TypeError, match="EncoderForward"):
        DecompX(lambda ids: classifier(ids), classifier).attribute(inputs, 1)
    with pytest.raises(RuntimeError, match="never ran"):
        DecompX(lambda ids: ids.float().sum(1), classifier).attribute(inputs)
    with pytest.raises(RuntimeError, match="more than once"):
        DecompX(lambda ids: forward(ids, *extra) + forward(ids, *extra), classifier).attribute(inputs, 1)
    with pytest.raises(NotImplementedError):
        DecompX(forward).attribute_future()
    assert DecompX(forward).get_name() == "DecompX"
    assert DecompX(forward).multiplies_by_inputs
    assert not DecompX(forward).has_convergence_delta()


def _probabilities(classifier):
    return lambda ids, mask: classifier(ids, mask).logits.softmax(-1)


def _weights(classifier):
    weight = classifier.get_input_embeddings().weight
    return lambda ids, mask: classifier(inputs_embeds=weight[ids], attention_mask=mask).logits


@pytest.mark.parametrize("function", [_probabilities, _weights])
def test_constants_and_unrecorded_values_have_no_scores(classifier, batch, function):
    method = DecompX(function(classifier), classifier)
    with pytest.raises(ValueError, match=r"explain logits.*looked up by an embedding"):
        method.attribute(batch["input_ids"], 1, batch["attention_mask"])


def test_checkpointed_layers_give_the_same(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    expected = DecompX(forward).attribute(inputs, 1, extra)
    classifier.gradient_checkpointing_enable({"use_reentrant": True})
    assert torch.equal(DecompX(forward).attribute(inputs, 1, extra), expected)  # evaluated, they are not
    for module in classifier.modules():
        module.training = not isinstance(module, torch.nn.Dropout)
    classifier.config.attention_probs_dropout_prob = 0.0
    for layer in classifier.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.0
    torch.testing.assert_close(DecompX(forward).attribute(inputs, 1, extra), expected)


def test_scores_that_are_not_finite_are_rejected(classifier, batch):
    with torch.no_grad():
        classifier.classifier.weight[1, 0] = torch.inf
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    with pytest.raises(ValueError, match="NaN or infinite"):
        DecompX(forward).attribute(inputs, 1, extra)


def test_pooling_by_a_query_that_is_learnt(classifier, batch):
    query = torch.randn(1, 1, 1, 24, dtype=torch.float64)

    def fused(ids, mask):
        states = classifier.bert(ids, mask).last_hidden_state[:, None]
        queries = query.expand(len(ids), 1, 1, 24)
        return torch.nn.functional.scaled_dot_product_attention(queries, states, states)[:, 0, 0]

    def written_out(ids, mask):
        states = classifier.bert(ids, mask).last_hidden_state[:, None]
        return ((query @ states.mT / 24**0.5).softmax(-1) @ states)[:, 0, 0]

    one, other = (
        DecompX(function, classifier).attribute(batch["input_ids"], 5, batch["attention_mask"])
        for function in (fused, written_out)
    )
    torch.testing.assert_close(one, other)


def test_a_hook_that_changes_the_value_vectors_is_rejected(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    expected = DecompX(forward).attribute(inputs, 1, extra)
    values = [layer.attention.self.value for layer in classifier.bert.encoder.layer]
    values[0].register_forward_hook(lambda module, args, output: output.clone())
    handle = values[1].register_forward_hook(lambda module, args, output: output * 1.0)
    assert torch.equal(DecompX(forward).attribute(inputs, 1, extra), expected)
    handle.remove()
    for change in (lambda output: output * 2, lambda output: output.mul_(2)):
        handle = values[0].register_forward_hook(lambda module, args, output, change=change: change(output))
        before = state_of(classifier)
        with pytest.raises(ValueError, match="changes the value vectors of the first layer"):
            DecompX(forward).attribute(inputs, 1, extra)
        assert state_of(classifier) == before
        handle.remove()
    assert torch.equal(DecompX(forward).attribute(inputs, 1, extra), expected)
