"""Recording leaves the model as it was."""

import threading
import warnings
from functools import partial

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc, reconstruction_error
from captum_globenc.decomposition.mixing import MIXINGS
from models import SMALL, attribute, randomize, state_of


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_the_model_is_left_as_it_was(classifier, batch, implementation):
    classifier.set_attn_implementation(implementation)
    classifier.bert.encoder.layer[1].train()
    classifier.bert.pooler.requires_grad_(False)
    seen = []
    classifier.bert.encoder.layer[0].register_forward_hook(lambda *args: seen.append("hook"))
    classifier.bert.encoder.layer[0].register_forward_pre_hook(lambda *args: seen.append("pre-hook"))
    before = state_of(classifier)
    with pytest.warns(UserWarning, match="dropout"):
        attribute(classifier, batch)
    assert state_of(classifier) == before
    assert seen == ["pre-hook", "hook"]


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("part", ["attention.self", "attention.output.LayerNorm", "output.LayerNorm"])
def test_an_error_inside_a_layer_propagates_and_the_model_is_left_as_it_was(classifier, batch, layer, part):
    class OwnError(Exception):
        pass

    def fail(*args):
        raise OwnError

    classifier.bert.encoder.layer[layer].get_submodule(part).register_forward_hook(fail)
    before = state_of(classifier)
    with pytest.raises(OwnError):
        attribute(classifier, batch)
    assert state_of(classifier) == before
    assert torch.is_grad_enabled()


def test_eager_and_sdpa_models_give_the_same(classifier, batch):
    scores = attribute(classifier, batch)
    classifier.set_attn_implementation("eager")
    assert torch.allclose(attribute(classifier, batch), scores, rtol=1e-12)


def test_one_warning_in_training_mode_with_dropout(classifier, batch):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attribute(classifier.train(), batch)
    assert [w.category for w in caught] == [UserWarning]
    assert "model.eval()" in str(caught[0].message)


def test_no_warning_in_training_mode_without_dropout(batch):
    config = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = randomize(BertForSequenceClassification(config).double())
    scores = attribute(model, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(attribute(model.train(), batch), scores)


def test_gradients_on_or_off_make_no_difference(classifier, batch):
    scores = attribute(classifier, batch)
    assert not scores.requires_grad
    with torch.no_grad():
        assert torch.equal(attribute(classifier, batch), scores)
    with torch.inference_mode():
        assert torch.equal(attribute(classifier, batch), scores)


def test_twice_in_a_row_gives_the_same_and_follows_the_weights(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    globenc = GlobEnc(forward)
    scores = globenc.attribute(inputs, 1, extra)
    assert torch.equal(globenc.attribute(inputs, 1, extra), scores)
    with torch.no_grad():
        classifier.bert.encoder.layer[0].attention.self.value.weight.mul_(2)
    changed = globenc.attribute(inputs, 1, extra)
    assert not torch.allclose(changed, scores)
    assert torch.equal(changed, attribute(classifier, batch))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precision_models_are_decomposed_in_float32(classifier, batch, dtype, tolerance):
    scores = attribute(classifier, batch)
    half = attribute(classifier.to(dtype), batch)
    assert half.dtype == torch.float32
    assert (half - scores).abs().max() <= tolerance * scores.max()


def test_two_threads_on_one_model_do_not_disturb_each_other(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    texts = [(inputs[i : i + 1], tuple(a[i : i + 1] for a in extra)) for i in range(3)]
    expected = [GlobEnc(forward).attribute(ids, 1, more) for ids, more in texts]
    plain = classifier(**batch).logits
    before = state_of(classifier)
    failures = []

    def explain(index):
        ids, more = texts[index]
        for _ in range(15):
            if not torch.equal(GlobEnc(forward).attribute(ids, 1, more), expected[index]):
                failures.append(f"scores of text {index}")

    def run_plainly():
        for _ in range(30):
            if not torch.allclose(classifier(**batch).logits, plain, rtol=1e-12):
                failures.append("a plain forward pass")

    threads = [threading.Thread(target=explain, args=(i,)) for i in range(3)]
    threads.append(threading.Thread(target=run_plainly))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert state_of(classifier) == before


def together(*jobs):
    """Run jobs in threads of their own, each 40 times; return what they raised."""
    raised = []

    def repeat(job):
        try:
            for _ in range(40):
                job()
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=repeat, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_two_models_made_from_one_config_do_not_disturb_each_other(batch):
    config = BertConfig(**SMALL)
    models = [randomize(BertForSequenceClassification(config).double()) for _ in range(2)]
    expected = [attribute(model, batch) for model in models]
    before = [state_of(model) for model in models]

    def explain(model, scores):
        assert torch.equal(attribute(model, batch), scores)

    assert together(*(partial(explain, *pair) for pair in zip(models, expected, strict=True))) == []
    assert [state_of(model) for model in models] == before


def test_a_plain_pass_of_an_eager_model_goes_on_as_it_began(classifier, batch):
    classifier.set_attn_implementation("eager")
    plain = classifier(**batch, output_attentions=True)
    began, asked = threading.Event(), threading.Event()
    outputs = []

    def run_plainly():
        # Stops between the mask and the layers, while the other thread records.
        def wait(*args):
            if threading.current_thread() is thread:
                began.set()
                asked.wait()

        handle = classifier.bert.encoder.layer[0].register_forward_pre_hook(wait)
        outputs.append(classifier(**batch, output_attentions=True))
        handle.remove()

    thread = threading.Thread(target=run_plainly)
    thread.start()
    began.wait()

    def go_on(*args):
        if threading.current_thread() is not thread:
            asked.set()
            thread.join()

    handle = classifier.bert.encoder.layer[1].register_forward_pre_hook(go_on)
    attribute(classifier, batch)
    handle.remove()
    (output,) = outputs
    assert torch.equal(output.logits, plain.logits)
    for found, expected in zip(output.attentions, plain.attentions, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_autocast_lowers_the_precision_of_the_model_alone(classifier, batch, mixing, inside):
    classifier.float()
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    scores = GlobEnc(forward, mixing=mixing).attribute(inputs, 1, extra)

    def lowered(*args):
        with torch.autocast("cpu", torch.bfloat16):
            return forward(*args)

    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        found = GlobEnc(lowered, classifier, mixing=mixing).attribute(inputs, 1, extra)
    assert found.dtype == torch.float32
    assert (found - scores).abs().max() <= 0.05 * scores.max()
    assert found.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_forward_func_may_turn_gradients_on(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)

    def with_gradients(*args):
        with torch.enable_grad():
            return forward(*args)

    scores = GlobEnc(with_gradients, classifier).attribute(inputs, 1, extra)
    assert torch.equal(scores, attribute(classifier, batch))


def test_feed_forward_in_chunks_is_recorded_whole(classifier, batch):
    scores = attribute(classifier, batch)
    for layer in classifier.bert.encoder.layer:
        layer.chunk_size_feed_forward = 3
    assert torch.allclose(attribute(classifier, batch), scores, rtol=1e-12)


def test_a_custom_four_dimensional_mask_is_understood(classifier, batch):
    scores = attribute(classifier, batch)
    mask = batch["attention_mask"][:, None, None, :].expand(3, 1, 9, 9).bool()
    lowest = torch.finfo(torch.float64).min
    additive = [torch.zeros(3, 1, 9, 9).double().masked_fill(~mask, low) for low in (lowest, -1e9, -1e4)]
    for custom in (mask, *additive):
        found = attribute(classifier, {**batch, "attention_mask": custom})
        assert torch.allclose(found, scores, rtol=1e-12)
        assert (found[batch["attention_mask"] == 0] == 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_scores_far_apart_hide_no_token(attention):
    config = BertConfig(**SMALL, attn_implementation=attention)
    model = randomize(BertForSequenceClassification(config)).double()
    query = model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        query.weight.zero_()
        query.bias.mul_(4000)  # scores differ by up to 3000, so all tokens attend to one
    model(torch.arange(5, 14)[None])
    matrices = GlobEnc(model).mixing_matrices(torch.arange(5, 14)[None])
    assert (matrices[0, 0].diagonal() > 0).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_layer_without_finite_numbers_raises_for_every_token(attention):
    model = randomize(BertForSequenceClassification(BertConfig(**SMALL, attn_implementation=attention)))
    with torch.no_grad():
        model.bert.embeddings.LayerNorm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="NaN or infinity in encoder layer 0"):
        GlobEnc(model).mixing_matrices(torch.arange(5, 14)[None])


def test_the_decomposition_of_each_layer_sums_to_its_output(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    errors = reconstruction_error(forward, classifier, inputs, extra)
    assert errors.shape == (3,)
    assert errors.max() <= 1e-14


def test_reconstruction_error_shows_a_wrong_spec(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    # The projection's output is doubled on its way: what the decomposition cannot know of.
    projection = classifier.bert.encoder.layer[1].attention.output.dense
    projection.register_forward_hook(lambda module, args, output: 2 * output)
    errors = reconstruction_error(forward, classifier, inputs, extra)
    assert errors[0] <= 1e-14
    assert errors[1] > 0.1


def test_an_attention_that_writes_nothing_is_reconstructed(classifier, batch):
    with torch.no_grad():
        for parameter in classifier.bert.encoder.layer[1].attention.output.dense.parameters():
            parameter.zero_()
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    assert reconstruction_error(forward, classifier, inputs, extra).max() <= 1e-14
