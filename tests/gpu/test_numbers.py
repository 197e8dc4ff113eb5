"""The numbers on a device equal the CPU's: proofs and methods of every family, precisions, streams."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from captum_globenc import (
    DecompX,
    EncoderForward,
    GlobEnc,
    TransformerDeepLift,
    check_encoder,
    explain,
    reconstruction_error,
)
from captum_globenc.encoders import find_encoder
from families import Weighted, baselines_of, rounds
from language_models import language_model
from outsiders import OUTSIDERS

METHODS = ("GlobEnc", "TransformerDeepLift", "DecompX")


def moved(value, device, dtype=None):
    """Tensors on the device; numbers with a point in the dtype."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


def batch_of(family, device="cpu", dtype=None):
    """The padded batch of a family."""
    batch = family.batch(next(iter(family.sides), "none"))
    return replace(
        batch,
        inputs=moved(batch.inputs, device, dtype),
        extra=tuple(moved(it, device, dtype) for it in batch.extra),
        real=moved(batch.real, device),
    )


def apart(one, other):
    """The largest difference, relative to the largest entry."""
    one, other = one.detach().cpu().double(), other.detach().cpu().double()
    return float((one - other).abs().max() / other.abs().max())


def scores_of(name, family, model, batch):
    if name == "DecompX" and family.model_type == "deberta":
        pytest.skip("DecompX does not find the value vectors of DeBERTa")
    forward = Weighted(model, family.arguments)
    if name == "GlobEnc":
        return GlobEnc(forward, model).attribute(batch.inputs, None, batch.extra, position="mean")
    if name == "DecompX":
        return DecompX(forward, model).attribute(batch.inputs, None, batch.extra)
    return TransformerDeepLift(forward).attribute(batch.inputs, baselines_of(batch), None, batch.extra)


def test_the_proofs_hold(family, device, accelerated):
    model, batch = family.make().to(device), batch_of(family, device)
    with accelerated():
        report = check_encoder(
            find_encoder(model).spec,
            model,
            batch.inputs,
            batch.extra,
            forward_func=family.forward(model),
            tolerance=1e-5 if rounds(family, batch=True) else 1e-10,
        )
    assert report.padding == (batch.real is not None)


def test_the_proofs_hold_in_half_precision(family, device, accelerated):
    model = family.make().bfloat16().to(device)
    batch = batch_of(family, device, torch.bfloat16)
    with accelerated():
        errors = reconstruction_error(family.forward(model), model, batch.inputs, batch.extra)
    assert errors.max() <= 0.1


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_the_cpu(method, family, device, accelerated):
    expected = scores_of(method, family, family.make(), batch_of(family))
    with accelerated():
        found = scores_of(method, family, family.make().to(device), batch_of(family, device))
    assert found.device.type == device.type
    assert apart(found, expected) <= (1e-4 if rounds(family, batch=True) else 1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_scores_in_half_precision_are_close_to_those_of_the_same_weights(method, family, device, accelerated):
    batch = batch_of(family, "cpu", torch.bfloat16)
    exact = replace(batch, inputs=moved(batch.inputs, "cpu", torch.float64))
    expected = scores_of(method, family, family.make().bfloat16().double(), exact)
    with accelerated():
        model = family.make().bfloat16().to(device)
        found = scores_of(method, family, model, batch_of(family, device, torch.bfloat16))
    assert apart(found, expected) <= 0.05


@pytest.mark.parametrize("method", METHODS)
def test_autocast_lowers_the_precision_of_the_model_alone(method, family, device, accelerated):
    if family.model_type == "deberta":
        pytest.skip("the model itself overflows under autocast")
    batch = batch_of(family, device, torch.float32)
    model = family.make().float().to(device)
    with accelerated():
        expected = scores_of(method, family, model, batch)
        with torch.autocast(device.type, torch.bfloat16):
            found = scores_of(method, family, model, batch)
    assert found.dtype == torch.float32
    assert apart(found, expected) <= 0.05


@pytest.mark.parametrize("method", METHODS)
def test_threads_with_streams_of_their_own_do_not_disturb_each_other(
    method, family, device, accelerated, streams
):
    batch = batch_of(family, device)
    models = [family.make().to(device) for _ in range(3)]

    def run(model):
        with streams():
            return scores_of(method, family, model, batch).cpu()

    with accelerated():
        expected = scores_of(method, family, models[0], batch)
        with ThreadPoolExecutor(len(models)) as pool:
            together = list(pool.map(run, models))
    for found in together:
        assert apart(found, expected) <= 1e-12


RESULTS = {
    "mixing matrices": lambda f, ids, extra: GlobEnc(f).mixing_matrices(ids, extra),
    "rollout matrices": lambda f, ids, extra: GlobEnc(f).rollout_matrices(ids, extra),
    "maximum flow": lambda f, ids, extra: GlobEnc(f, aggregation="max-flow").attribute(ids, 1, extra),
    "layers": lambda f, ids, extra: GlobEnc(f).attribute_layers(ids, 1, extra),
    "exact layers": lambda f, ids, extra: TransformerDeepLift(f).attribute_layers(ids, 4, 1, extra),
    "classes": lambda f, ids, extra: TransformerDeepLift(f).attribute_classes(ids, 4, extra),
    "path": lambda f, ids, extra: TransformerDeepLift(f).attribute(
        ids, 4, 1, extra, path="restore", n_steps=2
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_other_results_are_those_of_the_cpu(name, classifier, batch, device, accelerated):
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = RESULTS[name](EncoderForward(classifier), ids, (mask,))
    model = classifier.to(device)
    with accelerated():
        found = RESULTS[name](EncoderForward(model), ids.to(device), (mask.to(device),))
    assert found.device.type == device.type
    assert apart(found, expected) <= 1e-10


def test_explain_gives_the_numbers_of_the_cpu(folder, device, accelerated):
    model = AutoModelForSequenceClassification.from_pretrained(folder).double()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ["a good film", "a film that is not good at all"]
    methods = ["globenc", "transformer-deep-lift", "decompx"]
    expected = explain(texts, model, tokenizer, methods=methods)
    with accelerated():
        found = explain(texts, model.to(device), tokenizer, methods=methods)
    assert len(found) == len(expected) == 2
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        for method in methods:
            mine, theirs = (torch.tensor(it.scores[method]) for it in (one, other))
            assert apart(mine, theirs) <= 1e-6


def test_kernels_do_not_grow_with_the_texts_and_the_syncs_are_few(classifier, device, measuring):
    classifier.to(device)
    globenc = GlobEnc(EncoderForward(classifier))
    counts = []
    for texts in (8, 64):
        ids = torch.randint(5, 60, (texts, 32), generator=torch.Generator().manual_seed(0))
        mask = torch.ones_like(ids)
        mask[::2, 20:] = 0
        ids, mask = ids.to(device), mask.to(device)
        forward = partial(EncoderForward(classifier), ids, mask)
        call = partial(globenc.attribute, ids, 1, (mask,))
        with measuring.mode(), torch.no_grad():
            call()  # also checks the model
            counts.append(measuring.kernels(call))
            assert measuring.syncs(call) <= measuring.syncs(forward) + 3
    assert counts[1] <= 1.05 * counts[0]


def test_contributions_on_models_that_globenc_rejects_are_those_of_the_cpu(outsider, device, accelerated):
    model, (inputs, baselines) = OUTSIDERS[outsider].make(), OUTSIDERS[outsider].inputs()
    method = TransformerDeepLift(EncoderForward(model, ()))
    target = (11, 3) if EncoderForward(model, ())(inputs).dim() == 3 else 1
    expected = method.attribute(inputs, baselines, target)
    model.to(device)
    with accelerated():
        found = method.attribute(inputs.to(device), baselines.to(device), target)
    assert apart(found, expected) <= 1e-4


def test_a_mixture_of_experts_is_routed_as_on_the_cpu(mixture, device, accelerated):
    model = language_model(mixture)  # grouped products take no float64
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    method = TransformerDeepLift(EncoderForward(model, ()), decisions="follow")
    expected = method.attribute(ids, 4, (5, 9))
    model.to(device)
    with accelerated():
        found = method.attribute(ids.to(device), 4, (5, 9))
    assert apart(found, expected) <= 1e-4
