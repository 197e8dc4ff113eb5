"""Models that write in place get the scores of the same model without such writes."""

import copy

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F  # noqa: N812

from captum_globenc import DecompX, EncoderForward, TransformerDeepLift
from captum_globenc.differences import compare, freeze
from models import randomize

B, N, D = 2, 4, 6
"""Batch, tokens (patches), embedding size."""


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


INPUTS = {
    "ids": (torch.tensor([[1, 2, 3, 4], [5, 2, 2, 7]]), torch.tensor([[1, 9, 9, 4], [9, 9, 9, 9]])),
    "embeddings": (random(B, N, D, seed=1), random(B, N, D, seed=2)),
    "pixels": (random(B, 3, 2, 4, seed=3), random(B, 3, 2, 4, seed=4)),
}
MASK = torch.tensor([[0.0, 0.0, -1.0, -2.0], [0.0, -3.0, 0.0, 0.0]], dtype=torch.float64)


class Model(nn.Module):
    """Attention over whatever it is given, which writes in one place.

    Args:
        place: where it writes.
        writes: whether it does so in place, or computes the same without.
    """

    def __init__(self, place, writes):
        super().__init__()
        self.place, self.writes = place, writes
        self.embedding, self.qkv, self.head = nn.Embedding(10, D), nn.Linear(D, 3 * D), nn.Linear(D, 1)
        self.register_buffer("work", torch.zeros(B, N, D))
        self.register_buffer("factor", torch.ones(D))
        randomize(self).double()

    def at(self, place):
        return self.place == place and self.writes, self.place == place and not self.writes

    def forward(self, x, mask):
        in_place, apart = self.at("input")
        h = x if x.is_floating_point() else self.embedding(x)
        if in_place:
            h *= 2
            h -= 0.5
            h.clamp_(-3, 3)
        elif apart:
            h = (2 * h - 0.5).clamp(-3, 3)
        if x.dim() == 4:  # patches
            h = h.reshape(B, N, D)
        h = self.through_views(h)
        q, k, v = self.qkv(h).chunk(3, -1)
        in_place, apart = self.at("parts")
        if in_place:
            q *= 2
            v[:, 1:] += 1
        elif apart:
            q, v = 2 * q, torch.cat([v[:, :1], v[:, 1:] + 1], 1)
        attended = F.scaled_dot_product_attention(q, k, v, mask[:, None])
        in_place, apart = self.at("queries, keys and values")
        if in_place:
            q.zero_()
            k.exp_()
            v += 1
        elif apart:
            q, k, v = 0 * q, k.exp(), v + 1
        h = h + attended + q + k * v
        in_place, apart = self.at("mask")
        if in_place:
            mask[:, 1:] = -0.5
            mask -= 1
        elif apart:
            mask = torch.cat([mask[:, :1], torch.full_like(mask[:, 1:], -0.5)], 1) - 1
        h = h + F.scaled_dot_product_attention(h, h, h.tanh(), mask[:, None])
        return self.head(self.through_buffers(h).tanh()).sum((1, 2))

    def through_views(self, h):
        in_place, apart = self.at("views")
        if in_place:
            h = h + 0
            first, rest = h[:, 0], h.view(B, -1)[:, D:]
            first *= 3
            h[:, 1:] = h[:, 1:].sigmoid()
            rest[:, ::2] = rest[:, ::2] * first[:, :1]
            return h
        if apart:
            first, rest = 3 * h[:, 0], h[:, 1:].sigmoid().flatten(1)
            rest = torch.stack([rest[:, ::2] * first[:, :1], rest[:, 1::2]], -1)
            return torch.cat([first[:, None], rest.view(B, N - 1, D)], 1)
        return h

    def through_buffers(self, h):
        in_place, apart = self.at("buffers")
        if in_place:
            self.factor.fill_(2.0)
            h = h * self.factor
            self.factor += 1
            self.work.copy_(h)
            self.work[:, 1:] *= h[:, :1]
            return self.work * self.factor
        if apart:
            h = 2 * h
            return 3 * torch.cat([h[:, :1], h[:, 1:] * h[:, :1]], 1)
        return h


PLACES = ["input", "views", "parts", "queries, keys and values", "mask", "buffers"]


def models(place):
    one, other = Model(place, True), Model(place, False)
    other.load_state_dict(one.state_dict())
    return one, other


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("place", PLACES)
class TestPlaces:
    def test_exact_differences(self, place, kind):
        x, x0 = INPUTS[kind]
        mask, before = MASK.clone(), [it.clone() for it in (x, x0)]
        found, expected = (
            TransformerDeepLift(model).attribute(x, x0, additional_forward_args=mask)
            for model in models(place)
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert found.any()
        assert all(map(torch.equal, (x, x0, mask), (*before, MASK)))

    def test_segments(self, place, kind):
        x, x0 = INPUTS[kind]
        found, expected = (
            TransformerDeepLift(model).attribute(x, x0, additional_forward_args=MASK, n_steps=3)
            for model in models(place)
        )
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)

    def test_comparisons_and_frozen_runs(self, place, kind):
        x, x0 = INPUTS[kind]
        before = [it.clone() for it in (x, x0)]
        one, other = ((lambda it, model=model: model(it, MASK.clone())) for model in models(place))
        compared = [compare(function, [x], [x0]) for function in (one, other)]
        contributions = [run.contributions(run.output.sum())[0] for run in compared]
        torch.testing.assert_close(*contributions, rtol=1e-10, atol=1e-12)
        frozen = [freeze(function, [x]) for function in (one, other)]
        multipliers = [run.multipliers(run.output.sum(), [run.sources[0].leaf])[0] for run in frozen]
        torch.testing.assert_close(*multipliers, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(frozen[0].output, compared[1].output, rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, (x, x0), before))


def test_buffers_that_were_written_into_hold_no_graph():
    model, _ = models("buffers")
    x, x0 = INPUTS["ids"]
    method = TransformerDeepLift(model)
    first = method.attribute(x, x0, additional_forward_args=MASK)
    assert not any(buffer.requires_grad for buffer in model.buffers())
    again = TransformerDeepLift(copy.deepcopy(model)).attribute(x, x0, additional_forward_args=MASK)
    assert torch.equal(first, method.attribute(x, x0, additional_forward_args=MASK))
    assert torch.equal(first, again)


def kept_and_changed(writes):
    """Return a pre-hook by which a layer, or what follows it, writes into the layer's own input."""

    def hook(_, args):
        given = args[0].mul_(1.1) if writes else args[0] * 1.1
        return (given, *args[1:])

    return hook


class Late:
    """A hook on BERT's self-attention that changes queries, keys and values once attention has read them."""

    def __init__(self, attention, writes):
        self.seen, self.writes = [], writes
        for part in (attention.query, attention.key, attention.value):
            part.register_forward_hook(lambda _, __, output: self.seen.append(output))
        attention.register_forward_hook(self.finish)

    def finish(self, _, __, output):
        while self.seen:
            part = self.seen.pop()
            if self.writes:
                part.mul_(0).add_(7)


def scaled(writes):
    return lambda _, __, output: output.mul_(1.5) if writes else output * 1.5


@pytest.fixture(params=["ids", "embeddings"])
def twins(request, classifier, batch):
    """Classifiers with hooks that write in place and that do not; inputs, baselines, arguments."""
    forwards = []
    for writes in (True, False):
        model = copy.deepcopy(classifier)
        model.bert.embeddings.register_forward_hook(scaled(writes))
        for layer in model.bert.encoder.layer:
            Late(layer.attention.self, writes)
            layer.register_forward_hook(scaled(writes))
            layer.attention.register_forward_pre_hook(kept_and_changed(writes))
        forwards.append(EncoderForward(model))
    inputs, extra = forwards[0].arguments(batch)
    baselines = torch.where(inputs > 3, 3, inputs)
    if request.param == "embeddings":
        inputs, baselines = (
            classifier.bert.embeddings.word_embeddings(it).detach() for it in (inputs, baselines)
        )
    return forwards, inputs, baselines, extra


def test_hooks_of_a_transformer_that_write(twins):
    forwards, inputs, baselines, extra = twins
    before = [it.clone() for it in (inputs, baselines, *extra)]
    found, expected = (TransformerDeepLift(it).attribute(inputs, baselines, 1, extra) for it in forwards)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    layers = [TransformerDeepLift(it).attribute_layers(inputs, baselines, 1, extra) for it in forwards]
    torch.testing.assert_close(*layers, rtol=1e-9, atol=1e-11)
    decomposed = [DecompX(it).attribute(inputs, target=1, additional_forward_args=extra) for it in forwards]
    torch.testing.assert_close(*decomposed, rtol=1e-9, atol=1e-11)
    assert decomposed[0].any()
    assert all(map(torch.equal, (inputs, baselines, *extra), before))


SMALL = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24,
}  # fmt: skip
LOOK = {
    "image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16,
}  # fmt: skip


def ctrl():
    config = transformers.CTRLConfig(vocab_size=60, n_embd=16, dff=24, n_layer=2, n_head=4, pad_token_id=0)
    model = transformers.CTRLForSequenceClassification(config)
    return model, lambda ids, pixels: model(ids).logits


def git():
    model = transformers.GitForCausalLM(
        transformers.GitConfig(vision_config=LOOK, bos_token_id=1, eos_token_id=2, **SMALL)
    )
    return model, lambda ids, pixels: model(input_ids=ids, pixel_values=pixels).logits[:, -1]


def blip():
    text = {**SMALL, "encoder_hidden_size": 16, "pad_token_id": 0, "bos_token_id": 1, "sep_token_id": 2}
    model = transformers.BlipForImageTextRetrieval(
        transformers.BlipConfig(text_config=text, vision_config=LOOK, image_text_hidden_size=16)
    )
    return model, lambda ids, pixels: model(input_ids=ids, pixel_values=pixels).itm_score


def udop():
    config = transformers.UdopConfig(
        vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_decoder_layers=1, num_heads=2,
        image_size=16, patch_size=8, max_2d_position_embeddings=50,
    )  # fmt: skip
    model = transformers.UdopForConditionalGeneration(config)
    corner = torch.rand(1, 4, 2, generator=torch.Generator().manual_seed(0)).double() / 2
    boxes = torch.cat([corner, corner + 0.3], -1)

    def forward(ids, pixels):
        answer = torch.tensor([[0, 3]])
        return model(input_ids=ids, bbox=boxes, pixel_values=pixels, decoder_input_ids=answer).logits[:, -1]

    return model, forward


@pytest.mark.parametrize("make", [ctrl, git, blip, udop], ids=lambda it: it.__name__)
def test_models_that_write_to_looked_up_embeddings(make):
    torch.manual_seed(0)
    model, forward = make()
    randomize(model).double()
    ids, pixels = torch.tensor([[5, 6, 7, 8]]), random(1, 3, 16, 16, seed=5)
    bases = torch.tensor([[5, 4, 4, 4]]), 0 * pixels
    before = ids.clone(), pixels.clone()
    scores = TransformerDeepLift(forward, model).attribute((ids, pixels), bases, 1)
    change = (forward(ids, pixels) - forward(*bases))[0, 1].detach()
    # UDOP norms in float32.
    torch.testing.assert_close(sum(it.sum() for it in scores), change, rtol=1e-4, atol=1e-7)
    assert scores[0][0, 1:].all()
    assert scores[0][0, 0] == 0
    assert (make is ctrl) is not bool(scores[1].any())
    assert all(map(torch.equal, before, (ids, pixels)))
