"""The scores do not depend on inference mode, threads, copies, autocast or defaults."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from transformers import MPNetConfig, MPNetForSequenceClassification

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.differences.run import uncompiled

METHODS = [DecompX, GlobEnc, TransformerDeepLift]


@pytest.fixture(params=METHODS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def scores(method, inputs, extra):
    baselines = {"baselines": 3} if isinstance(method, TransformerDeepLift) else {}
    return method.attribute(inputs, target=1, additional_forward_args=extra, **baselines)


@pytest.fixture
def given(classifier, batch):
    return EncoderForward(classifier).arguments(batch)


@pytest.fixture
def expected(kind, classifier, given):
    return scores(kind(EncoderForward(classifier)), *given)


@pytest.mark.parametrize("what", ["inputs", "call", "function", "model"])
def test_inference_mode(kind, classifier, given, expected, what):
    inputs, extra = given
    forward = EncoderForward(classifier)
    with torch.inference_mode():
        if what == "inputs":
            inputs, extra = inputs.clone(), tuple(it.clone() for it in extra)
        elif what == "model":
            forward = EncoderForward(copy.deepcopy(classifier))
    function = torch.inference_mode()(lambda *args: forward(*args)) if what == "function" else forward
    with torch.inference_mode(what == "call"):
        found = scores(kind(function, forward), inputs, extra)
    torch.testing.assert_close(found.clone(), expected)


def test_a_method_that_was_used_is_copied_and_pickled(kind, classifier, given, expected):
    method = kind(EncoderForward(classifier))
    scores(method, *given)
    for other in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert torch.equal(scores(other, *given), expected)


def test_autocast_that_the_function_turns_on(kind, classifier, given, expected):
    single = copy.deepcopy(classifier).float()

    def function(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return EncoderForward(single)(*args).float()

    found = scores(kind(function, single), *given)
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=1e-2 * float(expected.abs().max()))


def test_another_default_device(kind, classifier, given, expected):
    torch.set_default_device("meta")
    try:
        found = scores(kind(EncoderForward(classifier)), *given)
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, expected)


class Named(torch.Tensor):
    """A tensor of another name, as some libraries use them."""


def test_tensors_of_a_subclass(kind, given):
    """MPNet writes in place into what it computes from them."""
    settings = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 8}
    config = MPNetConfig(vocab_size=60, **settings)
    model = MPNetForSequenceClassification(config).eval()
    method = kind(EncoderForward(model, ("attention_mask",)))
    inputs, (mask, *_) = given
    expected = scores(method, inputs, (mask,))
    found = scores(method, inputs.as_subclass(Named), (mask.as_subclass(Named),))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(0, 9), (3, 0)])
def test_inputs_without_elements_are_rejected(kind, classifier, shape):
    inputs = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match="are empty: pass at least one"):
        scores(kind(EncoderForward(classifier)), inputs, None)


def test_embeddings_of_a_lower_precision_than_the_model(kind, classifier, given):
    inputs, extra = given
    embedded = classifier.bert.embeddings.word_embeddings(inputs).detach().float()
    method = kind(EncoderForward(classifier))
    expected = scores(method, embedded.double(), extra)
    torch.testing.assert_close(scores(method, embedded, extra).double(), expected, rtol=1e-5, atol=1e-6)


def test_hooks_that_only_look(kind, classifier, given, expected):
    layer, seen = classifier.bert.encoder.layer[1], []
    hooks = [
        nn.modules.module.register_module_forward_hook(lambda *args: seen.append("forward")),
        layer.register_full_backward_hook(lambda *args: seen.append("backward")),
        layer.register_forward_hook(lambda *args: seen.append("keywords"), with_kwargs=True),
    ]
    try:
        found = scores(kind(EncoderForward(classifier)), *given)
    finally:
        for hook in hooks:
            hook.remove()
    torch.testing.assert_close(found, expected)
    assert {"forward", "keywords"} <= set(seen)


@pytest.mark.parametrize("learns", [True, False])
def test_a_state_that_the_model_keeps_holds_no_graph(kind, classifier, given, expected, learns):
    classifier.register_buffer("last", torch.zeros(3, 3, dtype=torch.float64))
    classifier.requires_grad_(learns)

    def function(*args):
        output = EncoderForward(classifier)(*args)
        classifier.last.copy_(output)
        return output

    for _ in range(2):
        assert torch.equal(scores(kind(function, classifier), *given), expected)
        assert not classifier.last.requires_grad
    copy.deepcopy(classifier)


def in_threads(*works):
    errors = []

    def caught(work):
        try:
            for _ in range(3):
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caught, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_all_methods_at_once_on_one_model(classifier, given):
    inputs, extra = given
    forward = EncoderForward(classifier)
    methods = [kind(forward) for kind in METHODS]
    alone = [scores(method, *given) for method in methods]
    deep = methods[-1]
    depths = deep.attribute_layers(inputs, 3, 1, extra)

    def work(number):
        torch.testing.assert_close(scores(methods[number], *given), alone[number])

    def layers():
        torch.testing.assert_close(deep.attribute_layers(inputs, 3, 1, extra), depths)

    in_threads(*(lambda number=number: work(number) for number in range(3)), layers, layers)
    assert not any({"forward", "__reduce_ex__"} & vars(it).keys() for it in classifier.modules())


def test_compilation_is_as_it_was_after_threads_that_overlap():
    def stance():
        return torch._dynamo.eval_frame._stance.stance

    before, inside = stance(), []
    one, other = uncompiled(), uncompiled()
    one.__enter__()
    other.__enter__()
    inside.append(stance())
    one.__exit__(None, None, None)
    inside.append(stance())
    other.__exit__(None, None, None)
    assert inside == ["force_eager"] * 2
    assert stance() == before


def test_dropout_is_the_same_in_all_segments(classifier, given):
    inputs, extra = given
    classifier.train()
    method = TransformerDeepLift(EncoderForward(classifier))
    with pytest.warns(UserWarning, match="training mode"):
        _, delta = method.attribute(inputs, 3, 1, extra, return_convergence_delta=True, n_steps=3)
    assert delta.abs().max() < 1e-10


def test_captums_measure_of_the_sum(classifier, given):
    inputs, extra = given
    method = TransformerDeepLift(EncoderForward(classifier))
    found, delta = method.attribute(inputs, 3, 1, extra, return_convergence_delta=True)
    again = method.compute_convergence_delta(found * 2, 3, inputs, target=1, additional_forward_args=extra)
    torch.testing.assert_close(again, found.sum(1) + delta, rtol=1e-9, atol=1e-10)
