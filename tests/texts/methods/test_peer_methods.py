"""Peers' methods, compared with their definitions in plain torch and numpy, on BERT and others."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.attr.depths import Depths
from captum_globenc.differences import freeze
from captum_globenc.differences.frozen import FROZEN
from captum_globenc.differences.peers import ATTN_LRP, CONSERVATIVE
from captum_globenc.encoders import find_encoder
from captum_globenc.texts.methods.backward import Biases, fullgrad_plus, gradient_interactions, relevance
from captum_globenc.texts.methods.context_mixing import alti, value_zeroing
from families import FAMILIES
from models import state_of
from outsiders import OUTSIDERS

OF = {family.label: family for family in FAMILIES}
METHODS = {
    "attn-lrp": lambda *call: relevance(*call, 0, ATTN_LRP),
    "conservative-propagation": lambda *call: relevance(*call, 0, CONSERVATIVE),
    "libragrad": lambda *call: fullgrad_plus(*call, 0),
    "gim": lambda forward, inputs, extra: from_zero(forward, inputs, extra),
    "alti": alti,
    "value-zeroing": value_zeroing,
}


def from_zero(forward, inputs, extra):
    """GIM's scores of tokens, or of pixels where the inputs are these, from zero."""
    if inputs.is_floating_point():
        return gradient_interactions(forward, inputs, torch.zeros_like(inputs), extra, 0)
    embedded = forward.model.get_input_embeddings()(inputs).detach()
    return gradient_interactions(forward, embedded, torch.zeros_like(embedded), extra, 0).sum(-1)


class Literal:
    """A BERT token classifier without padding, from its word embeddings on, by the letter of a paper.

    What is taken as constant is detached, biases are there for each token, and values are as `zeroed` says.
    """

    def __init__(self, model, ids, *, constant=(), temperature=None, zeroed=None):
        self.weights = model.state_dict()
        self.config = model.config
        self.constant, self.temperature, self.zeroed = constant, temperature, zeroed
        self.biases, self.streams, self.attentions = [], [], []
        embeddings = model.bert.embeddings
        self.embedded = embeddings.word_embeddings(ids).detach().requires_grad_()
        positions = embeddings.position_embeddings.weight[: ids.shape[1]]
        stream = self.embedded + (positions + embeddings.token_type_embeddings.weight[0]).detach()
        stream = self.norm("bert.embeddings.LayerNorm", stream, False)
        for number in range(model.config.num_hidden_layers):
            stream = stream if stream.requires_grad else stream.requires_grad_()
            self.streams.append(stream)
            stream = self.layer(f"bert.encoder.layer.{number}", stream, number)
        self.streams.append(stream)
        self.logits = self.linear("classifier", stream, False)

    def held(self, what, tensor):
        return tensor.detach() if what in self.constant else tensor

    def added(self, name, to, counted):
        bias = self.weights[f"{name}.bias"].expand_as(to).clone().requires_grad_()
        if counted:
            self.biases.append(bias)
        return to + bias

    def linear(self, name, x, counted=True):
        return self.added(name, x @ self.weights[f"{name}.weight"].T, counted)

    def norm(self, name, x, counted=True):
        centred = x - x.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.config.layer_norm_eps).sqrt()
        return self.added(
            name, centred / self.held("deviation", deviation) * self.weights[f"{name}.weight"], counted
        )

    def layer(self, name, stream, number):
        q, k, v = (
            self.linear(f"{name}.attention.self.{it}", stream)
            .unflatten(-1, (self.config.num_attention_heads, -1))
            .transpose(1, 2)
            for it in ("query", "key", "value")
        )
        if self.zeroed is not None and self.zeroed[0] == number:
            v = v.index_fill(2, torch.tensor(self.zeroed[1]), 0)
        if self.temperature is not None:
            for tensor, share in ((q, 4), (k, 4), (v, 2)):
                tensor.register_hook(lambda grad, share=share: grad / share)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        p = self.held("attention", scores.softmax(-1))
        if self.temperature is not None:
            softer = (scores / self.temperature).softmax(-1) * self.temperature
            p = p.detach() + softer - softer.detach()
        self.attentions.append(p)
        mixed = (p @ v).transpose(1, 2).flatten(2)
        out = f"{name}.attention.output"
        attended = self.norm(f"{out}.LayerNorm", self.linear(f"{out}.dense", mixed) + stream)
        inner = self.linear(f"{name}.intermediate.dense", attended)
        gate = self.held("gate", (1 + torch.erf(inner / math.sqrt(2))) / 2)
        return self.norm(
            f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", inner * gate) + attended
        )

    def shares(self, of):
        """Gradient times value for the logit of class 2 at token 1, a score for each token."""
        made = torch.autograd.grad(self.logits[0, 1, 2], of, allow_unused=True)
        return sum(
            (m * value.detach()).sum(-1) for m, value in zip(made, of, strict=True) if m is not None
        ).detach()


@pytest.fixture(params=["sdpa", "eager"])
def one(request, tagger):
    """A token classifier, its forward function, and the ids of one text."""
    tagger.set_attn_implementation(request.param)
    ids = torch.randint(5, 60, (1, 7), generator=torch.Generator().manual_seed(4))
    return tagger, EncoderForward(tagger), ids


def test_conservative_propagation_detaches_attention_and_deviations(one):
    model, forward, ids = one
    literal = Literal(model, ids, constant=("attention", "deviation"))
    torch.testing.assert_close(literal.logits, model(ids).logits)
    found = relevance(forward, ids, (), (1, 2), CONSERVATIVE)
    torch.testing.assert_close(found, literal.shares(literal.streams[:1]), rtol=1e-8, atol=1e-10)


def test_libragrad_sums_every_layers_inputs_and_biases(one):
    model, forward, ids = one
    literal = Literal(model, ids, constant=("attention", "deviation", "gate"))
    found = fullgrad_plus(forward, ids, (), (1, 2))
    expected = literal.shares([*literal.streams[:-1], *literal.biases])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_gim_is_its_definition(one, temperature):
    model, forward, ids = one
    literal = Literal(model, ids, constant=("deviation",), temperature=temperature)
    torch.testing.assert_close(literal.logits, model(ids).logits)
    embedded = literal.embedded.detach()
    found = gradient_interactions(forward, embedded, embedded / 2, (), (1, 2), temperature).sum(-1)
    torch.testing.assert_close(found, literal.shares([literal.embedded]) / 2, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("label", ["bert", "roberta-prelayernorm", "modernbert", "vit", "dinov2"])
def test_balanced_gradients_are_complete(label):
    """Mehri et al. 2025, definition 1 and corollary 3: inputs and all biases sum to the output."""
    family = OF[label]
    model = family.make(kind=family.classifier)
    batch = family.batch("right")
    forward = EncoderForward(model, family.arguments)
    depths = Depths(model)
    encoder = find_encoder(model)
    after = [encoder.final_norm, *(it for name, it in model.named_children() if name in HEADS)]
    after += [it for it in [getattr(encoder.stack, "pooler", None)] if it is not None]
    biases = Biases([*(layer.module for layer in encoder.layers), *after])

    def function(inputs):
        with depths.recorded(), biases.recorded():
            return forward(inputs, *batch.extra)

    run = freeze(function, [batch.inputs], FROZEN)
    added_to, values = biases.collected()
    at = [depths.streams[0], *added_to]
    made = run.multipliers(run.output[:, 1].sum(), at)
    total = sum((m * value).flatten(1).sum(1) for m, value in zip(made, [at[0].value, *values], strict=True))
    torch.testing.assert_close(total, run.output[:, 1].detach().to(total.dtype), rtol=1e-5, atol=1e-6)


HEADS = ("classifier", "head")


def test_attention_rollout_is_the_product_of_half_attention_and_half_identity(classifier, batch):
    classifier.set_attn_implementation("eager")
    attentions = classifier(**batch, output_attentions=True).attentions
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    found = GlobEnc(forward, mixing="W-FixedRes").attribute(inputs, additional_forward_args=extra)
    for text, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        product = np.eye(length)
        for attention in attentions:
            mean = attention[text].mean(0).detach().numpy()[:length, :length]
            product = (0.5 * mean + 0.5 * np.eye(length)) @ product
        np.testing.assert_allclose(found[text, :length].numpy(), product[0], rtol=1e-9)


def test_value_zeroing_is_a_loop_over_tokens(one):
    model, forward, ids = one
    whole = Literal(model, ids)
    product = np.eye(7)
    for number in range(3):
        moved = torch.zeros(7, 7, dtype=torch.float64)
        for token in range(7):
            other = Literal(model, ids, zeroed=(number, token)).streams[number + 1]
            moved[:, token] = 1 - torch.cosine_similarity(whole.streams[number + 1], other, -1)[0]
        product = (moved / moved.sum(1, keepdim=True)).detach().numpy() @ product
    found = value_zeroing(forward, ids, (), position=1)
    np.testing.assert_allclose(found[0].numpy(), product[1], rtol=1e-7)


def test_alti_is_proximity_by_explicit_vectors(one):
    model, forward, ids = one
    literal = Literal(model, ids)
    product = np.eye(7)
    for number, (stream, p) in enumerate(zip(literal.streams, literal.attentions, strict=False)):
        layer = model.bert.encoder.layer[number].attention
        v = layer.self.value(stream).unflatten(-1, (4, -1))[0]
        norm, weight = layer.output.LayerNorm, layer.output.dense.weight.unflatten(1, (4, -1))
        summed = layer.output.dense((p @ v.transpose(0, 1)).transpose(1, 2).flatten(2)) + stream
        y = norm(summed)[0]
        deviation = (summed.var(-1, correction=0) + norm.eps).sqrt()[0]
        near = np.zeros((7, 7))
        y, v, stream, deviation = (it.detach() for it in (y, v, stream, deviation))
        for i in range(7):
            for j in range(7):
                part = sum(p[0, h, i, j].detach() * weight[:, h] @ v[j, h] for h in range(4))
                part = part + (stream[0, i] if i == j else 0)
                part = (part - part.mean()) / deviation[i] * norm.weight
                near[i, j] = max(0.0, (y[i].abs().sum() - (y[i] - part).abs().sum()).item())
        product = near / near.sum(1, keepdims=True) @ product
    found = alti(forward, ids, (), position=1)
    np.testing.assert_allclose(found[0].numpy(), product[1], rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "label", ["bert", "roberta-prelayernorm", "albert", "distilbert", "modernbert", "deberta-v2"]
)
def test_a_padded_batch_is_scored_as_each_text_alone(label, method):
    family = OF[label]
    model = family.make(kind=family.classifier)
    batch = family.batch("right")
    forward = EncoderForward(model, family.arguments)
    forward(batch.inputs, *batch.extra)
    before = state_of(model)
    together = METHODS[method](forward, batch.inputs, batch.extra)
    assert state_of(model) == before
    assert together.shape == batch.inputs.shape
    for row, (inputs, extra) in enumerate(batch.singles):
        alone = METHODS[method](forward, inputs, extra)[0]
        length = len(alone)
        torch.testing.assert_close(together[row, :length], alone, rtol=1e-5, atol=1e-7)
        assert not together[row, length:].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("label", ["vit", "dinov2"])
def test_images_are_scored(label, method):
    family = OF[label]
    model = family.make(kind=family.classifier)
    batch = family.batch("right")
    forward = EncoderForward(model, family.arguments)
    scores = METHODS[method](forward, batch.inputs, batch.extra)
    grid = find_encoder(model).grid
    assert scores.shape == batch.inputs.shape or grid.fits(batch.inputs.shape, scores.shape[1])
    for row in range(len(scores)):
        alone = METHODS[method](forward, batch.inputs[row : row + 1], batch.extra)
        torch.testing.assert_close(scores[row], alone[0], rtol=1e-5, atol=1e-7)
    assert scores.isfinite().all()


def test_unsupported_models_are_rejected():
    model = OUTSIDERS["gpt2"].make()
    forward, (ids, _) = EncoderForward(model, ()), OUTSIDERS["gpt2"].inputs()
    for method in ("libragrad", "alti", "value-zeroing"):
        with pytest.raises(ValueError, match="supported"):
            METHODS[method](forward, ids, ())
    xlm = OF["xlm"].make(kind=OF["xlm"].classifier)
    batch = OF["xlm"].batch("right")
    for method in ("libragrad", "value-zeroing"):
        with pytest.raises(ValueError, match="not single modules"):
            METHODS[method](EncoderForward(xlm, OF["xlm"].arguments), batch.inputs, batch.extra)
    with pytest.raises(ValueError, match="in_proj_bias"):
        Biases([nn.MultiheadAttention(4, 2)])
    chunked = OF["roberta-prelayernorm"]
    model = chunked.make(kind=chunked.classifier, chunk_size_feed_forward=1)
    batch = chunked.batch("right")
    with pytest.raises(ValueError, match="chunk_size_feed_forward"):
        alti(EncoderForward(model, chunked.arguments), batch.inputs, batch.extra)
    unused = Biases([nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="not added to tokens"):
        unused.collected()
