"""Small models with random weights, and checks that a model is unchanged."""

import torch

from captum_globenc import EncoderForward, GlobEnc

SMALL = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 300,
}

SMALL_VIT = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
}


def randomize(model):
    """Give every parameter a random value: fresh biases are 0 and norm weights 1, which hides errors."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(1 + 0.3 * noise if "norm.weight" in name.lower() else 0.2 * noise)
    return model.eval()


def state_of(model):
    """All that an attribution could leave behind on a model."""
    return {
        "hooks": [
            (name, list(m._forward_hooks), list(m._forward_pre_hooks), list(m._backward_hooks))
            for name, m in model.named_modules()
        ],
        "attention": [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")],
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad for p in model.parameters()],
        "modules": [type(m) for m in model.modules()],
        "attributes": [
            (name, {key: _identity(value) for key, value in vars(m).items()})
            for name, m in model.named_modules()
        ],
    }


def _identity(value):
    """What tells whether an attribute is still the object that it was, with the same things in it."""
    if isinstance(value, dict):
        return id(value), [(key, id(item)) for key, item in value.items()]
    if isinstance(value, (list, set)):
        return id(value), [id(item) for item in value]
    return value if isinstance(value, (bool, int, float, str)) else id(value)


def attribute(model, batch, **kwargs):
    """The scores of a batch for class 1, from the model's logits."""
    forward = EncoderForward(model)
    inputs, extra = forward.arguments(batch)
    return GlobEnc(forward, **kwargs).attribute(inputs, 1, extra)
