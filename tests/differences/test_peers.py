"""The rules of other authors, compared with the equations and theorems of their papers."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from captum_globenc.differences import freeze
from captum_globenc.differences.frozen import FROZEN
from captum_globenc.differences.peers import ATTN_LRP, CONSERVATIVE, gim

N, D, H = 4, 6, 2


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relevance(function, inputs, rules):
    """Multiplier times input, and what the function gave."""
    run = freeze(function, inputs, rules)
    made = run.multipliers(run.output, [source.leaf for source in run.sources])
    return [m * x for m, x in zip(made, inputs, strict=True)], run.output.detach()


@pytest.fixture(params=["sdpa", "eager"])
def layer(request):
    config = BertConfig(
        hidden_size=D, num_attention_heads=H, intermediate_size=8, attn_implementation=request.param
    )
    made = BertLayer(config).double().eval().requires_grad_(False)
    for seed, parameter in enumerate(made.parameters()):
        parameter.copy_(random(*parameter.shape, seed=seed))
    return made


class Propagated:
    """Relevance through a BERT layer by AttnLRP's equations, each of which returns that of its inputs.

    Achtibat et al. 2024: the epsilon rule (eq. 8) with epsilon 0, the identity rule (eq. 9), propositions
    3.1 (softmax), 3.3 (matrix product) and 3.4 (norms).
    """

    def __init__(self, layer, x):
        weights = layer.state_dict()
        self.of = lambda name: (weights[f"{name}.weight"], weights[f"{name}.bias"])
        q, k, v = (self.linear(f"attention.self.{it}", x) for it in ("query", "key", "value"))
        self.x, self.heads = x, []
        for start in range(0, D, D // H):
            part = slice(start, start + D // H)
            scores = q[:, part] @ k[:, part].T / math.sqrt(D // H)
            self.heads.append((q[:, part], k[:, part], v[:, part], scores, scores.softmax(-1)))
        self.mixed = torch.cat([p @ v for _, _, v, _, p in self.heads], -1)
        self.sent = self.linear("attention.output.dense", self.mixed)
        self.attended = self.norm("attention.output.LayerNorm", self.sent + x)
        self.inner = self.linear("intermediate.dense", self.attended)
        self.active = nn.functional.gelu(self.inner)
        self.out = self.linear("output.dense", self.active)
        self.y = self.norm("output.LayerNorm", self.out + self.attended)

    def linear(self, name, x):
        weight, bias = self.of(name)
        return x @ weight.T + bias

    def norm(self, name, x):
        return nn.functional.layer_norm(x, (D,), *self.of(name), eps=1e-12)

    def through_linear(self, name, x, relevance):
        return x * ((relevance / self.linear(name, x)) @ self.of(name)[0])

    def through_norm(self, name, x, relevance):
        relevance = relevance * (1 - self.of(name)[1] / self.norm(name, x))  # what the bias leaves
        share = relevance / (x - x.mean(-1, keepdim=True))
        return x * (share - share.mean(-1, keepdim=True))

    def through_sum(self, one, other, relevance):
        return relevance * one / (one + other), relevance * other / (one + other)

    def through_product(self, one, other, relevance):
        share = relevance / (2 * (one @ other))
        return one * (share @ other.mT), other * (one.mT @ share)

    def back(self, relevance):
        relevance = self.through_norm("output.LayerNorm", self.out + self.attended, relevance)
        out, attended = self.through_sum(self.out, self.attended, relevance)
        inner = self.through_linear("output.dense", self.active, out)
        attended = attended + self.through_linear("intermediate.dense", self.attended, inner)
        relevance = self.through_norm("attention.output.LayerNorm", self.sent + self.x, attended)
        sent, found = self.through_sum(self.sent, self.x, relevance)
        mixed = self.through_linear("attention.output.dense", self.mixed, sent).split(D // H, -1)
        parts = []
        for (q, k, v, scores, p), of_head in zip(self.heads, mixed, strict=True):
            of_p, of_v = self.through_product(p, v, of_head)
            of_scores = scores * (of_p - p * of_p.sum(-1, keepdim=True))
            of_q, of_k = self.through_product(q, k.mT, of_scores)
            parts.append((of_q, of_k.mT, of_v))
        for number, name in enumerate(("query", "key", "value")):
            whole = torch.cat([part[number] for part in parts], -1)
            found = found + self.through_linear(f"attention.self.{name}", self.x, whole)
        return found


def test_attn_lrp_is_relevance_by_the_papers_equations(layer):
    x = random(1, N, D, seed=50)
    literal = Propagated(layer, x[0])
    start = torch.zeros(N, D, dtype=torch.float64)
    start[1, 2] = literal.y[1, 2]
    (found,), output = relevance(lambda x: layer(x)[0, 1, 2], [x], ATTN_LRP)
    torch.testing.assert_close(output, literal.y[1, 2])
    torch.testing.assert_close(found[0], literal.back(start), rtol=1e-8, atol=1e-10)


def test_attn_lrp_conserves_relevance_but_for_softmax():
    """Propositions 3.2 to 3.4: products, gates and norms pass on all; so do activations."""
    gate, up, down = (random(D, D, seed=it) for it in range(3))

    def function(x, w):
        normed = nn.functional.rms_norm(x, (D,), eps=1e-6)
        x = x + (nn.functional.silu(normed @ gate) * (normed @ up)) @ down
        return (nn.functional.layer_norm(x, (D,)) @ w)[0].sum()

    (of_x, of_w), output = relevance(function, [random(N, D, seed=4), random(D, 3, seed=5)], ATTN_LRP)
    torch.testing.assert_close(of_x.sum() + of_w.sum(), output)
    # A softmax keeps some: what the bias of its Taylor expansion has (proposition 3.1).
    (found,), output = relevance(lambda s: s.softmax(-1)[0, 1], [random(2, 4)], ATTN_LRP)
    assert not torch.isclose(found.sum(), output)


@pytest.mark.parametrize("rules", [CONSERVATIVE, FROZEN], ids=["conservative", "libragrad"])
def test_without_biases_relevance_is_conserved(layer, rules):
    """Ali et al. 2022; Mehri et al. 2025, corollary 3. Of activations, ReLU has no gate."""
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    if rules is CONSERVATIVE:
        layer.intermediate.intermediate_act_fn = nn.ReLU()
    (found,), output = relevance(lambda x: layer(x)[0, 1, 2], [random(1, N, D, seed=50)], rules)
    torch.testing.assert_close(found.sum(), output)


def test_gim_softens_only_the_backward_pass_of_a_softmax():
    scores, weights = random(3, 5), random(3, 5, seed=1)
    for temperature in (1.0, 2.0):
        run = freeze(lambda s: (s.softmax(-1) * weights).sum(), [scores], gim(temperature))
        torch.testing.assert_close(run.output.detach(), (scores.softmax(-1) * weights).sum())
        (found,) = run.multipliers(run.output, [run.sources[0].leaf])
        leaf = (scores / temperature).requires_grad_()
        (expected,) = torch.autograd.grad((leaf.softmax(-1) * weights).sum(), leaf)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("written_out", [False, True])
def test_activations_have_their_gradient_or_their_slope(written_out):
    def gelu(x):
        if written_out:
            return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        return nn.functional.gelu(x)

    x = random(7).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.gelu(x).sum(), x)
    slope = (nn.functional.gelu(x) / x).detach()
    for rules, expected in ((CONSERVATIVE, gradient), (gim(), gradient), (ATTN_LRP, slope), (FROZEN, slope)):
        run = freeze(lambda x: gelu(x).sum(), [x.detach()], rules)
        torch.testing.assert_close(run.multipliers(run.output, [run.sources[0].leaf])[0], expected)
