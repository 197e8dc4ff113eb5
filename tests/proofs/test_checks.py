"""check_encoder accepts specs that fit, and lists the failed checks of others."""

from dataclasses import replace

import pytest
import torch

from captum_globenc import check_encoder
from captum_globenc.encoders import BERT, find_encoder
from families import FAMILIES, TEXT


def family(model_type):
    return next(row for row in TEXT if row.model_type == model_type)


def check(row, spec=None, side="right", model=None):
    model, batch = row.make() if model is None else model, row.batch(side)
    spec = find_encoder(model).spec if spec is None else spec
    return check_encoder(spec, model, batch.inputs, batch.extra, forward_func=row.forward(model))


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.label)
def test_every_family_passes(row):
    batch = row.batch(next(iter(row.sides), "none"))
    model = row.make().float()
    inputs = batch.inputs.float() if batch.inputs.is_floating_point() else batch.inputs
    spec = find_encoder(model).spec
    report = check_encoder(spec, model, inputs, batch.extra, forward_func=row.forward(model))
    assert report.reconstruction < 1e-5
    assert report.norms < 1e-5
    assert report.output < 1e-5
    assert report.padding == (batch.real is not None)


WRONG = [
    ("bert", {"out": "output.dense"}, "do not sum|size|shape"),
    ("bert", {"norm1": BERT.norm2, "norm2": BERT.norm1}, "do not sum"),
    ("bert", {"order": "pre-LN"}, "do not sum"),
    ("bert", {"centred": False}, "centred"),
    ("rembert", {"out": "output.dense"}, "do not sum|size|shape"),
    ("t5", {"centred": True}, "centred"),
    ("modernbert", {"norm2": "attn_norm"}, "do not sum"),
    ("deberta", {"norm1": "output.LayerNorm", "norm2": "attention.output.LayerNorm"}, "do not sum"),
]


@pytest.mark.parametrize(("model_type", "changes", "message"), WRONG)
def test_a_wrong_spec_raises_with_the_failed_checks(model_type, changes, message):
    row = family(model_type)
    spec = replace(find_encoder(row.make()).spec, **changes)
    with pytest.raises((ValueError, RuntimeError), match=message):
        check(row, spec)


def test_all_that_is_off_is_listed():
    spec = replace(BERT, centred=False, norm1=BERT.norm2, norm2=BERT.norm1)
    with pytest.raises(ValueError, match="do not sum.*; the norms do not return"):
        check(family("bert"), spec)


def test_a_spec_need_not_be_registered():
    spec = replace(BERT, pooled=lambda config: "mean")
    assert check(family("bert"), spec).batch < 1e-10


def test_padding_that_is_mixed_with_tokens_raises():
    """Absolute positions and padding on the left: the texts are others than those given alone."""
    with pytest.raises(ValueError, match="a batch gives other numbers than its examples alone"):
        check(family("bert"), side="left")


def test_a_model_that_changes_raises():
    row = family("bert")
    model = row.make()

    def meddle(module, args, output):
        model.pooler.train()

    model.register_forward_hook(meddle)
    with pytest.raises(ValueError, match="the model is not as it was"):
        check(row, model=model)


def test_a_single_text_without_padding_leaves_the_batch_unchecked():
    row = family("bert")
    report = check_encoder(BERT, row.make(), torch.tensor([[5, 6, 7]]))
    assert report.batch is None
    assert not report.padding
