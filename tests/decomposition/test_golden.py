"""Parity with the original implementation, for every case, set, kind of mixing and layer."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition.aggregation import rollout
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.decomposition.norms import mixing_ratio
from captum_globenc.encoders import find_encoder
from captum_globenc.recording.recorder import record
from weights import minilm_folder

GOLDEN = Path(__file__).parents[1] / "golden"
VECTOR_KINDS = ("N", "N-Res", "N-ResLN", "N-Enc")
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def sets_of(case):
    return json.loads((GOLDEN / case / "inputs.json").read_text())["sets"]


CASES = [
    (folder.name, name)
    for folder in sorted(path.parent for path in GOLDEN.glob("*/expected.npz"))
    for name in sets_of(folder.name)
]


@cache
def load(case, dtype):
    if case != "minilm_l6":
        return AutoModelForSequenceClassification.from_pretrained(GOLDEN / case).to(dtype).eval()
    model = BertForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2)
    head = np.load(GOLDEN / case / "head.npz")
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(head["classifier.weight"]))
        model.classifier.bias.copy_(torch.from_numpy(head["classifier.bias"]))
    return model.to(dtype).eval()


@cache
def expected(case):
    return np.load(GOLDEN / case / "expected.npz")


def prepare(case, name, dtype):
    """The forward function, its arguments, the real tokens, and a look-up of the expected arrays."""
    forward = EncoderForward(load(case, dtype))
    batch = {key: torch.tensor(v) for key, v in sets_of(case)[name].items() if key != "tokens"}
    inputs, extra = forward.arguments(batch)
    real = extra[0].bool()
    return forward, inputs, extra, real, lambda key: torch.from_numpy(expected(case)[f"{name}/{key}"])


def assert_close(actual, reference, dtype):
    """Within the tolerance relative to the largest entry."""
    error = (actual.double() - reference).abs().max() / reference.abs().max()
    assert error <= TOLERANCE[dtype], f"relative error {error:.2e}"


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.mark.parametrize(("case", "name"), CASES)
def test_logits_are_those_of_the_original(case, name, dtype):
    forward, inputs, extra, _, reference = prepare(case, name, dtype)
    assert_close(forward(inputs, *extra), reference("logits"), dtype)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_mixing_matrices_equal_the_original(case, name, mixing, dtype):
    forward, inputs, extra, real, reference = prepare(case, name, dtype)
    matrices = GlobEnc(forward, mixing=mixing).mixing_matrices(inputs, extra)
    both = real[:, :, None] & real[:, None, :]
    assert_close(matrices.transpose(0, 1), reference(mixing) * both, dtype)
    assert (matrices.transpose(0, 1)[:, ~both] == 0).all()


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_rollouts_equal_the_original(case, name, mixing, dtype):
    forward, inputs, extra, _, reference = prepare(case, name, dtype)
    matrices = GlobEnc(forward, mixing=mixing).mixing_matrices(inputs, extra).unbind(1)
    every_row = torch.eye(inputs.shape[1], dtype=matrices[0].dtype).expand_as(matrices[0])
    for layer in range(len(matrices)):
        rows, log_scale = rollout(matrices[: layer + 1], every_row)
        actual = rows.double() * log_scale.exp()[..., None]
        assert_close(actual, reference(f"rollout.{mixing}")[layer], dtype)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_layers_and_scores_equal_rows_of_the_original_rollout(case, name, mixing, dtype):
    forward, inputs, extra, real, reference = prepare(case, name, dtype)
    globenc = GlobEnc(forward, mixing=mixing)
    first = real.long().argmax(dim=1)
    expected_layers = reference(f"rollout.{mixing}")[:, torch.arange(len(first)), first].transpose(0, 1)
    layers = globenc.attribute_layers(inputs, 1, extra, position=first, normalize=False)
    assert_close(layers, expected_layers, dtype)
    scores = globenc.attribute(inputs, 1, extra, position=first)
    assert_close(scores, expected_layers[:, -1] / expected_layers[:, -1].sum(1, keepdim=True), dtype)
    average = globenc.attribute(inputs, 1, extra, position="mean", normalize=False)
    last = reference(f"rollout.{mixing}")[-1]
    assert_close(average, last.sum(1) / real.sum(1, keepdim=True), dtype)


@pytest.mark.parametrize("mixing", VECTOR_KINDS)
@pytest.mark.parametrize(("case", "name"), CASES)
def test_mixing_ratios_equal_the_original(case, name, mixing, dtype):
    forward, inputs, extra, real, reference = prepare(case, name, dtype)
    ratios = []
    record(
        lambda: forward(inputs, *extra),
        find_encoder(forward),
        lambda layer: ratios.append(mixing_ratio(layer, mixing)),
    )
    actual = torch.stack(ratios)
    assert_close(actual[:, real], reference(f"ratio.{mixing}")[:, real], dtype)


@pytest.mark.parametrize("case", [case for case, name in CASES if name == "batch" and "bert" in case])
def test_scores_equal_the_original_inside_the_model(case):
    forward, inputs, extra, real, reference = prepare(case, "batch", torch.float64)
    first = real.long().argmax(dim=1)
    scores = GlobEnc(forward).attribute(inputs, 1, extra, position=first, normalize=False)
    assert_close(scores, reference("globenc_inmodel")[torch.arange(len(first)), first], torch.float64)


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("case", [case for case, name in CASES if name == "batch"])
def test_a_padded_batch_equals_its_single_runs(case, mixing):
    forward, inputs, extra, real, _ = prepare(case, "batch", torch.float64)
    globenc = GlobEnc(forward, mixing=mixing)
    together = globenc.mixing_matrices(inputs, extra)
    for example, tokens in enumerate(real):
        if not tokens[0]:
            continue  # Padding on the left shifts BERT's positions: another input, not the same one.
        single = globenc.mixing_matrices(
            inputs[example : example + 1, tokens], tuple(a[example : example + 1, tokens] for a in extra)
        )
        part = together[example][:, tokens][:, :, tokens]
        assert_close(part[None], single, torch.float64)
