"""Hidden Token Attribution against the Jacobian that autograd itself gives."""

import pytest
import torch
from transformers import AlbertConfig, AlbertForSequenceClassification, ViTConfig, ViTForImageClassification

from captum_globenc import EncoderForward
from captum_globenc.encoders import find_encoder
from captum_globenc.proofs.hidden import hidden_token_attribution
from models import randomize, state_of

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_labels": 2,
}


def layer_jacobians(model, run):
    """Norms `(B, L, N, N)`, from torch.autograd.functional.jacobian over each call of each layer."""
    calls, handles = [], []
    for layer in find_encoder(model).layers:
        handles.append(
            layer.module.register_forward_hook(
                lambda module, args, kwargs, output: calls.append((module, args, kwargs)), with_kwargs=True
            )
        )
    run()
    for handle in handles:
        handle.remove()
    norms = []
    for module, args, kwargs in calls:

        def function(stream, module=module, args=args, kwargs=kwargs):
            output = module(stream, *args[1:], **kwargs)
            return output[0] if isinstance(output, tuple) else output

        jacobian = torch.autograd.functional.jacobian(function, args[0])  # (B, N, D, B, N, D)
        batch = range(len(jacobian))
        norms.append(jacobian.square().sum(dim=(2, 5)).sqrt()[batch, :, batch, :])
    return torch.stack(norms, dim=1)


def test_norms_are_those_of_the_jacobian(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    expected = layer_jacobians(classifier, lambda: forward(inputs, *extra))
    real = batch["attention_mask"].bool()
    expected = expected * real[:, None, :, None] * real[:, None, None, :]
    norms = hidden_token_attribution(forward, classifier, inputs, extra, normalize=False)
    assert norms.shape == (3, 3, 9, 9)
    assert torch.allclose(norms, expected)
    shares = hidden_token_attribution(forward, classifier, (inputs,), extra)
    assert torch.allclose(shares.sum(dim=-1), real[:, None].double().expand(-1, 3, -1))
    assert torch.allclose(shares * expected.sum(dim=-1, keepdim=True), expected)


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (
            AlbertForSequenceClassification(AlbertConfig(**SMALL, vocab_size=20, embedding_size=6)),
            torch.tensor([[2, 5, 7, 3]]),
        ),
        (
            ViTForImageClassification(ViTConfig(**SMALL, image_size=4, patch_size=2)),
            torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double(),
        ),
    ],
    ids=["one layer run twice", "pixels"],
)
def test_other_encoders_by_the_same_jacobian(model, inputs):
    model = randomize(model.double())
    forward = EncoderForward(model)
    norms = hidden_token_attribution(forward, model, inputs, normalize=False)
    assert norms.shape[1] == 2
    assert torch.allclose(norms, layer_jacobians(model, lambda: forward(inputs)))


def test_random_directions_estimate_the_norms(classifier, batch):
    forward = EncoderForward(classifier)
    inputs = batch["input_ids"][2:, :4]
    exact = hidden_token_attribution(forward, classifier, inputs, normalize=False)
    generator = torch.Generator().manual_seed(0)
    estimate = hidden_token_attribution(
        forward, classifier, inputs, normalize=False, directions=400, generator=generator
    )
    # Five deviations of the squared norm.
    assert ((estimate**2 / exact**2 - 1).abs() < 5 * (2 / 400) ** 0.5).all()
    assert not torch.equal(estimate, exact)


def test_the_model_is_left_as_it_was(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    before = state_of(classifier)
    logits = forward(inputs, *extra)
    hidden_token_attribution(forward, classifier, inputs, extra, directions=1)
    assert state_of(classifier) == before
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(forward(inputs, *extra), logits)

    def broken(*args):
        forward(*args)
        raise ZeroDivisionError

    def without_gradients(*args):
        with torch.no_grad():
            return forward(*args)

    for function, error in ((broken, ZeroDivisionError), (without_gradients, RuntimeError)):
        with pytest.raises(error):
            hidden_token_attribution(function, classifier, inputs, extra, directions=1)
        assert state_of(classifier) == before


def test_directions_are_at_least_one(classifier, batch):
    with pytest.raises(ValueError, match="directions"):
        hidden_token_attribution(EncoderForward(classifier), classifier, batch["input_ids"], directions=0)
