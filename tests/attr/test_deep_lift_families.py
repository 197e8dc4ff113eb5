"""Contributions sum on every family of GlobEnc, and on many that it rejects."""

import pytest
import torch
import transformers as hf

from captum_globenc import EncoderForward, TransformerDeepLift
from families import FAMILIES, Weighted, baselines_of, rounds
from outsiders import OUTSIDERS


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.label)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_contributions_add_up_whatever_the_family(family, n_steps):
    model = family.make()
    batch = family.batch(family.sides[0] if family.sides else "right")
    forward = Weighted(model, family.arguments)
    method = TransformerDeepLift(forward)
    scores, delta = method.attribute(
        batch.inputs, baselines_of(batch), None, batch.extra, return_convergence_delta=True, n_steps=n_steps
    )
    assert scores.shape == batch.inputs.shape
    change = forward(batch.inputs, *batch.extra) - forward(baselines_of(batch), *batch.extra)
    single = rounds(family)
    scale = change.abs() + scores.flatten(1).abs().sum(1)
    assert (delta.abs() <= (1e-5 if single else 1e-9) * scale).all()
    torch.testing.assert_close(
        scores.flatten(1).sum(1),
        change.detach(),
        rtol=1e-4 if single else 1e-8,
        atol=1e-5 if single else 1e-8,
    )
    assert change.abs().min() > 1e-3


@pytest.mark.parametrize("family", [it for it in FAMILIES if it.sides], ids=lambda family: family.label)
def test_a_padded_batch_is_scored_as_each_text_alone(family):
    for side in family.sides:
        batch = family.batch(side)
        method = TransformerDeepLift(Weighted(family.make(), family.arguments))
        together = method.attribute(batch.inputs, baselines_of(batch), None, batch.extra)
        single = rounds(family, batch=True)
        for i, (inputs, extra) in enumerate(batch.singles):
            length = inputs.shape[1]
            place = slice(0, length) if side == "right" else slice(-length, None)
            alone = method.attribute(inputs, baselines_of(batch)[i : i + 1, place], None, extra)
            torch.testing.assert_close(
                together[i, place], alone[0], rtol=1e-4 if single else 1e-8, atol=1e-5 if single else 1e-9
            )
            assert together[i].count_nonzero() == alone.count_nonzero()


SINGLE_OUTSIDERS = {
    *("llama", "mistral", "qwen3", "qwen3_5", "gemma2", "gemma3", "olmo2", "phi3", "apertus"),
    *("longformer", "mamba", "funnel"),
}


@pytest.mark.parametrize("name", OUTSIDERS)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_contributions_sum_on_models_that_globenc_rejects(name, n_steps):
    outsider = OUTSIDERS[name]
    model = outsider.make()
    inputs, baselines = outsider.inputs()
    forward = EncoderForward(model, ())
    target = (11, 3) if forward(inputs).dim() == 3 else 1
    scores, delta = TransformerDeepLift(forward).attribute(
        inputs, baselines, target, return_convergence_delta=True, n_steps=n_steps
    )
    assert scores.shape == inputs.shape
    with torch.no_grad():
        outputs = [forward(side) for side in (inputs, baselines)]
    change = (outputs[0] - outputs[1])[(slice(None), *(target if isinstance(target, tuple) else (target,)))]
    single = name in SINGLE_OUTSIDERS
    scale = change.abs() + scores.flatten(1).abs().sum(1)
    assert (delta.abs() <= (1e-5 if single else 1e-9) * scale).all()
    torch.testing.assert_close(
        scores.flatten(1).sum(1).to(change.dtype),
        change,
        rtol=1e-4 if single else 1e-8,
        atol=1e-5 if single else 1e-8,
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "xlnet", "luke", "swin"])
def test_a_batch_of_outsiders_is_scored_as_each_alone(name):
    outsider = OUTSIDERS[name]
    inputs, baselines = outsider.inputs()
    forward = EncoderForward(outsider.make(), ())
    target = (11, 3) if forward(inputs).dim() == 3 else 1
    method = TransformerDeepLift(forward)
    together = method.attribute(inputs, baselines, target)
    for i in range(2):
        alone = method.attribute(inputs[i : i + 1], baselines[i : i + 1], target)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-6)


def test_a_decoders_token_has_nothing_of_those_that_follow():
    outsider = OUTSIDERS["gpt2"]
    import transformers as hf

    torch.manual_seed(0)
    model = hf.GPT2LMHeadModel(outsider.config(**outsider.sizes)).double().eval()
    inputs, baselines = outsider.inputs()
    baselines = torch.full_like(inputs, 4)
    scores = TransformerDeepLift(EncoderForward(model, ())).attribute(inputs, baselines, target=(5, 7))
    assert not scores[:, 6:].any()
    assert scores[:, :6].abs().min() > 0


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_model_may_compute_a_loss_beside_its_logits(name):
    torch.manual_seed(0)
    ids, labels = torch.randint(5, 60, (2, 7)), torch.randint(5, 60, (2, 4))
    if name == "bert":
        config = hf.BertConfig(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            num_labels=3,
        )
        model, labels = hf.BertForSequenceClassification(config), torch.tensor([1, 2])
        logits = lambda ids, labels: model(ids, labels=labels).logits  # noqa: E731
    else:
        config = hf.T5Config(
            vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        model = hf.T5ForConditionalGeneration(config)
        logits = lambda ids, labels: model(ids, labels=labels).logits[:, -1]  # noqa: E731
    model.double().eval()
    method = TransformerDeepLift(logits, model)
    scores, delta = method.attribute(ids, torch.full_like(ids, 4), 1, labels, return_convergence_delta=True)
    assert delta.abs().max() < 1e-6 * scores.abs().max()
    if name == "bert":
        plain = TransformerDeepLift(lambda ids: model(ids).logits, model)
        torch.testing.assert_close(scores, plain.attribute(ids, torch.full_like(ids, 4), 1))
        loss = TransformerDeepLift(lambda ids, labels: model(ids, labels=labels).loss[None], model)
        scores, delta = loss.attribute(ids[:1], torch.full_like(ids[:1], 4), None, labels[:1], True)
        assert delta.abs().max() < 1e-12
        assert scores.abs().sum() > 0
