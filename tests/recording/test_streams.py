"""Hooks that change the residual stream between two layers raise; copies do not."""

from contextlib import nullcontext

import pytest
import torch
from transformers import (
    ModernBertConfig,
    ModernBertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.encoders import find_encoder
from families import FAMILIES
from models import SMALL_VIT, attribute, randomize

POOL_FIRST = ("beit", "clip_vision_model")
"""Families whose final norm reads pooled tokens."""


def exchanged(hidden):
    return hidden[:, [1, 0, *range(2, hidden.shape[1])]]


def patched(hidden):
    hidden = hidden.clone()
    hidden[:, 2] = 0.5
    return hidden


def scaled_in_place(hidden):
    hidden[:, 1] *= 2
    return hidden


@pytest.mark.parametrize("change", [exchanged, patched, scaled_in_place])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("gradients", [torch.no_grad, torch.inference_mode])
def test_a_hook_that_changes_a_layers_output_raises(classifier, batch, layer, change, gradients):
    def hook(module, args, output):
        return change(output) if torch.is_tensor(output) else (change(output[0]), *output[1:])

    classifier.bert.encoder.layer[layer].register_forward_hook(hook)
    with pytest.raises(RuntimeError, match="does not read what the previous layer wrote"), gradients():
        attribute(classifier, batch)


@pytest.mark.parametrize("change", [exchanged, patched, scaled_in_place])
def test_a_hook_that_changes_a_layers_input_raises(classifier, batch, change):
    def hook(module, args):
        return change(args[0]), *args[1:]

    classifier.bert.encoder.layer[1].register_forward_pre_hook(hook)
    with pytest.raises(RuntimeError, match="does not read what the previous layer wrote"):
        attribute(classifier, batch)


@pytest.mark.parametrize("layers", [1, 2])
def test_changes_of_padding_before_the_final_norm_do_not_raise(layers):
    size = {"vocab_size": 40, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
    model = ModernBertForSequenceClassification(ModernBertConfig(num_hidden_layers=layers, **size, **ends))
    ids, mask = torch.arange(5, 23).view(2, 9), torch.ones(2, 9).long()
    mask[0, 6:] = 0
    globenc = GlobEnc(EncoderForward(model.eval(), ["attention_mask"]))
    expected = globenc.attribute(ids, 1, (mask,))
    model.model.final_norm.register_forward_pre_hook(lambda module, args: (args[0] * mask[..., None],))
    torch.testing.assert_close(globenc.attribute(ids, 1, (mask,)), expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_a_pre_norm_encoder_is_watched_as_well(layer):
    model = randomize(ViTForImageClassification(ViTConfig(**SMALL_VIT))).double().eval()
    pixels = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    globenc = GlobEnc(lambda x: model(x).logits, model)
    expected = globenc.attribute(pixels)
    module = find_encoder(model).layers[layer].module
    handle = module.register_forward_hook(lambda module, args, output: exchanged(output))
    with pytest.raises(RuntimeError, match="does not read what the previous layer wrote"):
        globenc.attribute(pixels)
    handle.remove()
    assert torch.equal(globenc.attribute(pixels), expected)


FINAL_NORMS = [it for it in FAMILIES if not isinstance(find_encoder(it.make()).final_norm, torch.nn.Identity)]


@pytest.mark.parametrize("family", FINAL_NORMS, ids=lambda it: it.label)
def test_a_hook_that_changes_what_the_final_norm_reads_raises(family):
    model, data = family.make(), family.batch(family.sides[0] if family.sides else "none")
    globenc = GlobEnc(family.forward(model))
    expected = globenc.attribute(data.inputs, None, data.extra, position=0)
    pooled = []

    def hook(module, args):
        if args[0].ndim == 2:  # the norm of a head that pools first
            pooled.append(True)
            return None
        return (exchanged(args[0]),)

    handle = find_encoder(model).final_norm.register_forward_pre_hook(hook)
    with nullcontext() if family.label in POOL_FIRST else pytest.raises(RuntimeError, match="after the last"):
        globenc.attribute(data.inputs, None, data.extra, position=0)
    assert bool(pooled) == (family.label in POOL_FIRST)
    handle.remove()
    assert torch.equal(globenc.attribute(data.inputs, None, data.extra, position=0), expected)


def test_copies_and_changes_of_padding_do_not_raise(classifier, batch):
    expected = attribute(classifier, batch)
    padding = ~batch["attention_mask"].bool()
    assert padding.any()

    def hook(module, args):
        return torch.where(padding[..., None], 7.0, args[0]), *args[1:]

    classifier.bert.encoder.layer[1].register_forward_pre_hook(hook)
    torch.testing.assert_close(attribute(classifier, batch), expected)
