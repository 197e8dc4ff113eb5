"""Methods share the check that recording does not change the output, if they run the same function."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, BertConfig, BertForSequenceClassification
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from captum_globenc import Contrast, DecompX, EncoderForward, TransformerDeepLift, explain
from captum_globenc.errors import ReconstructionError, UnsupportedOperationError
from captum_globenc.texts import load_default
from captum_globenc.texts.embeddings import OnEmbeddings
from captum_globenc.texts.outputs import OutputSelector
from models import SMALL, randomize

IDS = torch.tensor([[2, 7, 9, 11, 3]])
BASELINE = torch.tensor([[2, 4, 4, 4, 3]])


class Runs:
    """Count the forward passes of a model."""

    def __init__(self, model):
        self.count = 0
        self.hook = model.register_forward_hook(self._add)

    def _add(self, *_):
        self.count += 1

    def of(self, method, *arguments):
        before = self.count
        method.attribute(*(arguments or (IDS, BASELINE, 1)))
        return self.count - before


@pytest.fixture(name="model")
def _model():
    return randomize(BertForSequenceClassification(BertConfig(**SMALL)).double())


@pytest.fixture(name="runs")
def _runs(model):
    return Runs(model)


def selected(model):
    return OutputSelector(EncoderForward(model))


def logits(model):
    return lambda ids: model(ids).logits


EMBEDDINGS = torch.randn(2, 1, 5, SMALL["hidden_size"], dtype=torch.float64)
SELECTED = torch.zeros(1, 1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.float64)
WRAPPED = {
    "EncoderForward": (EncoderForward, (IDS, BASELINE, 1)),
    "Contrast": (lambda model: Contrast(EncoderForward(model), 0, 1), (IDS, BASELINE)),
    "OutputSelector": (selected, (IDS, BASELINE, None, (None, None, *SELECTED))),
    "OnEmbeddings": (
        lambda model: OnEmbeddings(selected(model), model),
        (*EMBEDDINGS, None, (IDS, None, None, *SELECTED)),
    ),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_objects_of_one_model_share_the_check(model, runs, wrapped):
    forward, arguments = WRAPPED[wrapped]
    counts = [runs.of(TransformerDeepLift(forward(model)), *arguments) for _ in range(3)]
    assert counts == [4, 2, 2]


def test_a_function_shares_the_check_with_itself_only(model, runs):
    function = logits(model)
    assert [runs.of(TransformerDeepLift(function, model)) for _ in range(2)] == [4, 2]
    assert runs.of(TransformerDeepLift(logits(model), model)) == 4
    assert [runs.of(TransformerDeepLift(function)) for _ in range(2)] == [4, 4]  # of an unknown model


def test_methods_of_a_model_share_the_check(model, runs):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def logits(self, ids):
            return self.model(ids).logits

    head = Head()
    assert [runs.of(TransformerDeepLift(head.logits, model)) for _ in range(2)] == [4, 2]


OTHERS = {
    "other classes": lambda model: TransformerDeepLift(Contrast(EncoderForward(model), 1, 0)),
    "other names": lambda model: TransformerDeepLift(EncoderForward(model, ("attention_mask",))),
    "a subclass": lambda model: TransformerDeepLift(type("Other", (EncoderForward,), {})(model)),
    "a copy": lambda model: TransformerDeepLift(copy.deepcopy(EncoderForward(model))),
    "recomputed layers": lambda model: TransformerDeepLift(EncoderForward(model), recompute=True),
    "followed decisions": lambda model: TransformerDeepLift(EncoderForward(model), decisions="follow"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_other_functions_and_settings_are_checked(model, other, monkeypatch):
    checked = []
    monkeypatch.setattr("captum_globenc.attr.proof.check_output", lambda *given: checked.append(given))
    for _ in range(2):
        TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)
        TransformerDeepLift(Contrast(EncoderForward(model), 0, 1)).attribute(IDS, BASELINE)
    before = len(checked)
    OTHERS[other](model).attribute(IDS, BASELINE, None if other == "other classes" else 1)
    assert before == 4
    assert len(checked) > before


def test_decompx_shares_its_own_check(model, runs):
    runs.of(TransformerDeepLift(EncoderForward(model)))
    assert [runs.of(DecompX(EncoderForward(model)), IDS, 1) for _ in range(3)] == [2, 1, 1]


def hooked(model):
    model.bert.encoder.layer[1].register_forward_hook(lambda *_: None)


def hooked_before(model):
    model.bert.pooler.register_forward_pre_hook(lambda *_: None)


def replaced(model):
    model.bert.encoder.layer[0].output.dense = copy.deepcopy(model.bert.encoder.layer[0].output.dense)


def patched(model):
    own = model.bert.pooler.forward
    model.bert.pooler.forward = lambda *arguments: own(*arguments)


def with_own_attention(model):
    AttentionInterface.register("again", lambda *given, **named: sdpa_attention_forward(*given, **named))
    AttentionMaskInterface.register("again", sdpa_mask)
    model.set_attn_implementation("again")


CHANGES = {
    "a hook": hooked,
    "a hook before": hooked_before,
    "a submodule": replaced,
    "a forward function": patched,
    "an attention function": with_own_attention,
    "the mode": lambda model: model.bert.pooler.train(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_checked_again(model, runs, change):
    assert [runs.of(TransformerDeepLift(EncoderForward(model))) for _ in range(2)] == [4, 2]
    CHANGES[change](model)
    assert [runs.of(TransformerDeepLift(EncoderForward(model))) for _ in range(2)] == [4, 2]


def test_operations_that_the_first_object_did_not_meet_are_checked(model, runs):
    forward = EncoderForward(model)
    runs.of(TransformerDeepLift(forward))
    with_mask = (IDS, BASELINE, 1, torch.tensor([[1, 1, 1, 1, 0]]))
    assert [runs.of(TransformerDeepLift(forward), *with_mask) for _ in range(2)] == [4, 2]
    assert runs.of(TransformerDeepLift(forward)) == 2  # both are known now


def test_a_failed_check_is_not_shared(model):
    calls = itertools.count()
    model.classifier.register_forward_hook(lambda module, args, output: output + next(calls))
    for _ in range(2):
        with pytest.raises(ReconstructionError, match="must compute the same in every call"):
            TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)


def test_an_unsupported_operation_is_rejected_by_every_object(model):
    TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)
    model.classifier.register_forward_hook(lambda module, args, output: output.lgamma())
    for _ in range(2):
        with pytest.raises(UnsupportedOperationError, match="lgamma has no rule"):
            TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)


def test_a_fault_that_was_added_after_a_check_is_found_though_it_uses_checked_operations(model):
    TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)
    calls = itertools.count()
    model.bert.pooler.register_forward_hook(lambda module, args, output: output + output * next(calls))
    with pytest.raises(ReconstructionError):
        TransformerDeepLift(EncoderForward(model)).attribute(IDS, BASELINE, 1)


def test_checks_keep_no_model_alive():
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL)))
    TransformerDeepLift(logits(model), model).attribute(IDS, BASELINE, 1)
    TransformerDeepLift(Contrast(EncoderForward(model), 0, 1)).attribute(IDS, BASELINE)
    found = weakref.ref(model)
    del model
    gc.collect()
    assert found() is None


@pytest.mark.parametrize("baseline", ["mask", "zero"])
def test_explain_checks_a_model_once(baseline):
    model, tokenizer = load_default()
    runs, counts = Runs(model), []
    for _ in range(3):
        before = runs.count
        explain(["A fine film."], model, tokenizer, methods=["transformer-deep-lift"], baseline=baseline)
        counts.append(runs.count - before)
    runs.hook.remove()  # the model may be cached
    assert counts == [5, 3, 3]
