"""Replaced norms: accepted if they compute the same as the family's, rejected otherwise."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from captum_globenc import GlobEnc
from captum_globenc.encoders import find_encoder
from families import FAMILIES
from models import attribute


class Same(nn.LayerNorm):
    """A norm of another name."""


class Gained(nn.LayerNorm):
    """A norm whose weight counts from 1."""

    def forward(self, x):
        return nn.functional.layer_norm(x, self.normalized_shape, 1 + self.weight, self.bias, self.eps)


def replace_norm(model, path, kind):
    parent, _, name = path.rpartition(".")
    old = model.get_submodule(path)
    new = kind(old.normalized_shape, eps=old.eps).double()
    new.load_state_dict(old.state_dict(), strict=False)
    setattr(model.get_submodule(parent), name, new)


NORMS = ["bert.encoder.layer.1.attention.output.LayerNorm", "bert.encoder.layer.2.output.LayerNorm"]


@pytest.mark.parametrize("path", NORMS)
@pytest.mark.parametrize("kind", [nn.RMSNorm, Gained])
def test_another_norm_is_rejected(classifier, batch, path, kind):
    replace_norm(classifier, path, kind)
    with pytest.raises(RuntimeError, match="norm of the encoder does not return"):
        attribute(classifier, batch)


@pytest.mark.parametrize("path", NORMS)
def test_the_same_norm_by_another_name_is_the_same(classifier, batch, path):
    expected = attribute(classifier, batch)
    replace_norm(classifier, path, Same)
    assert torch.equal(attribute(classifier, batch), expected)


@pytest.mark.parametrize("path", NORMS)
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_hook_that_changes_a_norms_output_raises(classifier, batch, path, everywhere):
    expected, changes = attribute(classifier, batch), []

    def hook(module, args, output):
        return output * 1.5 if changes and module is norm else None

    norm = classifier.get_submodule(path)
    register = nn.modules.module.register_module_forward_hook if everywhere else norm.register_forward_hook
    handle = register(hook)
    try:
        assert torch.equal(attribute(classifier, batch), expected)
        changes.append(1)
        with pytest.raises(RuntimeError, match="does not return|does not sum"):
            attribute(classifier, batch)
    finally:
        handle.remove()


@pytest.mark.parametrize("path", NORMS)
def test_a_hook_behind_a_norm_may_change_padding(classifier, batch, path):
    expected = attribute(classifier, batch)
    mask = batch["attention_mask"].bool()[..., None]
    norm = classifier.get_submodule(path)
    handle = norm.register_forward_hook(lambda module, args, output: output.where(mask, 1e4))
    torch.testing.assert_close(attribute(classifier, batch), expected)
    handle.remove()
    norm.register_forward_hook(lambda module, args, output: (1.001 * output).where(mask, 1e4))
    with pytest.raises(RuntimeError, match="does not return what the norms of its family do"):
        attribute(classifier, batch)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda it: it.label)
@pytest.mark.parametrize("role", ["norm1", "norm2", "final_norm"])
def test_a_hook_that_exchanges_tokens_behind_a_norm_of_the_last_layer_raises(family, role):
    model, data = family.make(), family.batch(family.sides[0] if family.sides else "none")
    encoder = find_encoder(model)
    norm = encoder.final_norm if role == "final_norm" else getattr(encoder.layers[-1], role)
    globenc = GlobEnc(family.forward(model))
    globenc.attribute(data.inputs, None, data.extra, position=0)

    def hook(module, args, output):
        if output.ndim == 2 or output.shape[1] == 1:  # of pooled tokens, or in chunks of one token
            return None
        changed.append(True)
        return output[:, [0, 2, 1, *range(3, output.shape[1])]]

    changed = []
    handle = norm.register_forward_hook(hook)
    forward = family.forward(model)
    forward(data.inputs, *data.extra)
    with pytest.raises(RuntimeError) if changed else nullcontext():
        globenc.attribute(data.inputs, None, data.extra, position=0)
    handle.remove()
    globenc.attribute(data.inputs, None, data.extra, position=0)
