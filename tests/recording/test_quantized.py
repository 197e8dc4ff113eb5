"""Models that torchao and optimum-quanto quantized, which the extra "quantized" installs."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import DecompX, EncoderForward, TransformerDeepLift
from models import SMALL, attribute, randomize, state_of


def wide():
    config = BertConfig(**{**SMALL, "hidden_size": 64, "intermediate_size": 64})
    return randomize(BertForSequenceClassification(config)).float()


def torchao_weights(model):
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(model, Int8WeightOnlyConfig())


def torchao_both(model):
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    quantize_(model, Int8DynamicActivationInt8WeightConfig())


def quanto_weights(model, bits="qint8"):
    from optimum import quanto

    quanto.quantize(model, weights=getattr(quanto, bits))
    quanto.freeze(model)


QUANTIZED = {
    "torchao, weights": torchao_weights,
    "torchao, weights and activations": torchao_both,
    "quanto, 8 bits": quanto_weights,
    "quanto, 4 bits": partial(quanto_weights, bits="qint4"),
}


def dequantized(quantized, plain):
    for name, module in quantized.named_modules():
        if isinstance(module, nn.Linear):
            plain.get_submodule(name).weight.data = module.weight.dequantize().float()
    return plain


@pytest.mark.quantized
@pytest.mark.parametrize("how", QUANTIZED)
def test_quantized_models_have_the_scores_of_their_rounded_weights(how, batch):
    pytest.importorskip("torchao", reason='needs the extra "quantized"')
    plain = wide()
    quantized = copy.deepcopy(plain)
    QUANTIZED[how](quantized)
    plain = dequantized(quantized.eval(), plain)
    before = state_of(quantized)
    found = attribute(quantized, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, attribute(plain, batch), rtol=0.05, atol=0.01)
    assert state_of(quantized) == before


@pytest.mark.quantized
def test_quanto_of_weights_and_activations(batch):
    pytest.importorskip("torchao", reason='needs the extra "quantized"')
    from optimum import quanto

    model = wide()
    plain = attribute(model, batch)
    quanto.quantize(model, weights=quanto.qint8, activations=quanto.qint8)
    with torch.no_grad(), quanto.Calibration():
        model(**batch)
    quanto.freeze(model)
    torch.testing.assert_close(attribute(model.eval(), batch), plain, rtol=0.2, atol=0.02)


@pytest.mark.quantized
@pytest.mark.parametrize("how", ["torchao, weights", "quanto, 8 bits", "quanto, 4 bits"])
def test_contributions_of_quantized_weights_are_those_of_the_rounded_ones(how, batch):
    pytest.importorskip("torchao", reason='needs the extra "quantized"')
    plain = wide()
    quantized = copy.deepcopy(plain)
    QUANTIZED[how](quantized)
    plain = dequantized(quantized.eval(), plain)
    before = state_of(quantized)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    found, expected = (EncoderForward(model, ["attention_mask"]) for model in (quantized, plain))
    for scores in (
        lambda forward: TransformerDeepLift(forward).attribute(ids, 4, 1, (mask,)),
        lambda forward: DecompX(forward).attribute(ids, 1, (mask,)),
    ):
        torch.testing.assert_close(scores(found), scores(expected), rtol=1e-3, atol=1e-4)
    assert state_of(quantized) == before


@pytest.mark.quantized
def test_contributions_through_quantized_activations_are_rejected(batch):
    pytest.importorskip("torchao", reason='needs the extra "quantized"')
    model = wide()
    torchao_both(model)
    forward = EncoderForward(model)
    with pytest.raises(ValueError, match="linear has no gradient with these arguments"):
        TransformerDeepLift(forward).attribute(batch["input_ids"], 4, 1)
    with pytest.raises(ValueError, match="linear has no gradient with these arguments"):
        DecompX(forward).attribute(batch["input_ids"], 1)
