"""No public method returns a tensor that requires grad, whatever requires grad in the model or its inputs."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from captum_globenc import DecompX, EncoderForward, GlobEnc, reconstruction_error
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.proofs import hidden_token_attribution
from models import SMALL, SMALL_VIT, randomize

METHODS = {
    "attribute": lambda it, inputs: it.attribute(inputs, 1),
    "attribute, within": lambda it, inputs: type(it).attribute.__wrapped__(it, inputs, 1),
    "attribute, raw": lambda it, inputs: it.attribute(inputs, 1, normalize=False),
    "attribute_layers": lambda it, inputs: it.attribute_layers(inputs, 1),
    "attribute_layers, raw": lambda it, inputs: it.attribute_layers(inputs, 1, normalize=False),
    "mixing_matrices": lambda it, inputs: it.mixing_matrices(inputs),
    "rollout_matrices": lambda it, inputs: it.rollout_matrices(inputs),
    "rollout_matrices, raw": lambda it, inputs: it.rollout_matrices(inputs, normalize=False),
}


def cases():
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL)))
    ids = torch.randint(5, 60, (2, 5))
    embedded = model.bert.embeddings.word_embeddings(ids).detach().requires_grad_()
    vit = randomize(ViTForImageClassification(ViTConfig(**SMALL_VIT)))
    pixels = torch.randn(2, 3, 8, 8).requires_grad_()

    def with_gradients(ids):
        with torch.enable_grad():
            return model(ids).logits

    return {
        "ids": (EncoderForward(model), model, ids),
        "embeddings": (lambda x: model(inputs_embeds=x).logits, model, embedded),
        "gradients in forward_func": (with_gradients, model, ids),
        "pixels": (lambda x: vit(x).logits, vit, pixels),
    }


@pytest.fixture(params=["ids", "embeddings", "gradients in forward_func", "pixels"])
def case(request):
    return cases()[request.param]


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("aggregation", ["rollout", "max-flow"])
def test_globenc_returns_no_gradients(case, mixing, aggregation):
    forward, model, inputs = case
    globenc = GlobEnc(forward, model, mixing=mixing, aggregation=aggregation)
    assert torch.is_grad_enabled()
    for name, method in METHODS.items():
        assert not method(globenc, inputs).requires_grad, name
    assert torch.is_grad_enabled()


def test_proofs_return_no_gradients(case):
    forward, model, inputs = case
    assert not reconstruction_error(forward, model, inputs).requires_grad
    assert not hidden_token_attribution(forward, model, inputs, directions=1).requires_grad


def test_decompx_returns_no_gradients():
    forward, _, ids = cases()["ids"]
    decompx = DecompX(forward)
    assert not decompx.attribute(ids, target=1).requires_grad
    assert not decompx.attribute_classes(ids).requires_grad
