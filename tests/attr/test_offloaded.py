"""Models whose weights accelerate offloads: the numbers of one device, and the weights stay offloaded."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from models import SMALL, SMALL_VIT, randomize
from outsiders import OUTSIDERS

IDS, BASELINE = torch.tensor([[2, 5, 7, 9, 3]]), torch.tensor([[2, 4, 4, 4, 3]])
PIXELS = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()


def bert():
    return randomize(BertForSequenceClassification(BertConfig(**SMALL))).double()


def vit():
    return randomize(ViTForImageClassification(ViTConfig(**SMALL_VIT))).double()


def mapped(model, folder):
    """Spread a BERT by a device map: parts on the CPU, a layer in memory, the rest on disk."""
    places = {
        "bert.embeddings": "cpu", "bert.encoder.layer.0": "disk", "bert.encoder.layer.1": "cpu",
        "bert.encoder.layer.2": "disk", "bert.pooler": "disk", "dropout": "cpu", "classifier": "disk",
    }  # fmt: skip
    dispatch_model(model, places, main_device="cpu", offload_dir=folder, force_hooks=True)


SPREAD = {
    "cpu": lambda model, folder: cpu_offload(model, torch.device("cpu")),
    "cpu, buffers too": lambda model, folder: cpu_offload(model, torch.device("cpu"), offload_buffers=True),
    "disk": lambda model, folder: disk_offload(model, folder, torch.device("cpu")),
    "device map": mapped,
}
METHODS = {
    "GlobEnc": lambda forward, *given: GlobEnc(forward).attribute(given[0], 1),
    "GlobEnc, layers": lambda forward, *given: GlobEnc(forward).attribute_layers(given[0], 1),
    "DecompX": lambda forward, *given: DecompX(forward).attribute(given[0], 1),
    "DecompX, recomputed": lambda forward, *given: DecompX(forward, recompute=True).attribute(given[0], 1),
    "TransformerDeepLift": lambda forward, *given: TransformerDeepLift(forward).attribute(*given, 1),
    "TransformerDeepLift, recomputed": lambda forward, *given: (
        TransformerDeepLift(forward, recompute=True).attribute(*given, 1, n_steps=2)
        + TransformerDeepLift(forward, recompute=True).attribute_layers(*given, 1).sum()
    ),
}


def offloaded(model):
    return [name for name, it in (*model.named_parameters(), *model.named_buffers()) if it.is_meta]


@pytest.mark.parametrize("spread", SPREAD)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [bert, vit])
def test_scores_are_those_of_the_model_on_one_device(make, method, spread, tmp_path):
    if make is vit and spread == "device map":
        pytest.skip("the map is of a BERT")
    model, given = make(), (IDS, BASELINE) if make is bert else (PIXELS, torch.zeros_like(PIXELS))
    expected = METHODS[method](EncoderForward(model), *given)
    SPREAD[spread](model, tmp_path)
    before = offloaded(model)
    assert "classifier.weight" in before
    found = METHODS[method](EncoderForward(model), *given)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert offloaded(model) == before


@pytest.mark.parametrize("recompute", [True, False])
def test_a_decoder(recompute, tmp_path):
    outsider = OUTSIDERS["llama"]
    model, (inputs, baselines) = outsider.make(), outsider.inputs()
    expected = TransformerDeepLift(EncoderForward(model, ())).attribute(inputs, baselines, (11, 3))
    disk_offload(model, tmp_path, torch.device("cpu"))
    before = offloaded(model)
    method = TransformerDeepLift(EncoderForward(model, ()), recompute=recompute)
    found = method.attribute(inputs, baselines, (11, 3))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert offloaded(model) == before != []


def test_weights_that_are_offloaded_with_those_of_a_larger_module_are_rejected():
    model = bert()
    cpu_offload(model, torch.device("cpu"), preload_module_classes=["BertSelfOutput"])
    TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)
    with pytest.raises(ValueError, match="offloaded together with a larger module"):
        GlobEnc(EncoderForward(model)).attribute(IDS, 1)
