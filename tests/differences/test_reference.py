"""The multipliers of one layer, by explicit matrices of the definition; and the path they are a part of."""

import math

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from captum_globenc import TransformerDeepLift
from captum_globenc.differences import compare

N, D, H = 4, 6, 2


@pytest.fixture(params=["sdpa", "eager"])
def layer(request):
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=D, num_attention_heads=H, intermediate_size=8, attn_implementation=request.param
    )
    made = BertLayer(config).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made


def test_a_layers_multipliers_by_explicit_matrices(layer):
    """Every operation as a matrix M with M (u - u0) = y - y0, multiplied in order."""
    x, x0 = (
        torch.randn(1, N, D, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2)
    )
    both = compare(lambda x: layer(x), [x], [x0])
    found = torch.stack(
        [both.multipliers(value, [both.sources[0].leaf])[0] for value in both.output.flatten()]
    )
    weights = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    expected, y, y0 = matrix_of_layer(x[0].numpy(), x0[0].numpy(), weights)
    np.testing.assert_allclose(both.output[0].detach().numpy(), y, rtol=1e-9)
    np.testing.assert_allclose(expected @ (x - x0).numpy().ravel(), (y - y0).ravel(), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.reshape(N * D, N * D).numpy(), expected, rtol=1e-7, atol=1e-9)


def linear(weights, name):
    """The matrix of a linear map of every token."""
    return np.kron(np.eye(N), weights[f"{name}.weight"])


def apply(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def matrix_of_layer(x, x0, weights):
    q, k, v = (
        [apply(weights, f"attention.self.{it}", side) for side in (x, x0)] for it in ("query", "key", "value")
    )
    Q, K, V = (linear(weights, f"attention.self.{it}") for it in ("query", "key", "value"))
    d = D // H
    mixed = [np.zeros((N, D)), np.zeros((N, D))]
    M = np.zeros((N * D, N * D))
    for head in range(H):
        part = slice(head * d, (head + 1) * d)
        scores = [q[run][:, part] @ k[run][:, part].T / math.sqrt(d) for run in (0, 1)]
        p = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in scores]
        S = np.zeros((N, N, N * D))  # scores[i, j] by the input
        k_mean, q_mean = (k[0] + k[1])[:, part] / 2, (q[0] + q[1])[:, part] / 2
        rows = np.arange(N * D).reshape(N, D)[:, part]
        for i in range(N):
            for j in range(N):
                S[i, j] = (k_mean[j] @ Q[rows[i]] + q_mean[i] @ K[rows[j]]) / math.sqrt(d)
        P = np.zeros_like(S)
        for i in range(N):
            means = logarithmic_mean(p[0][i], p[1][i])
            for j in range(N):
                P[i, j] = means[j] * (S[i, j] - means @ S[i] / means.sum())
        p_mean, v_mean = (p[0] + p[1]) / 2, (v[0] + v[1])[:, part] / 2
        for i in range(N):
            for j in range(N):
                M[rows[i]] += np.outer(v_mean[j], P[i, j]) + p_mean[i, j] * V[rows[j]]
        for run in (0, 1):
            mixed[run][:, part] = p[run] @ v[run][:, part]
    out = [apply(weights, "attention.output.dense", side) for side in mixed]
    M = linear(weights, "attention.output.dense") @ M + np.eye(N * D)
    hidden = [out[0] + x, out[1] + x0]
    N1, normed = norm(hidden, weights, "attention.output.LayerNorm")
    M = N1 @ M
    inner = [apply(weights, "intermediate.dense", side) for side in normed]
    active = [np.vectorize(lambda u: u * (1 + math.erf(u / math.sqrt(2))) / 2)(side) for side in inner]
    secant = (active[0] - active[1]) / (inner[0] - inner[1])
    F = linear(weights, "output.dense") @ np.diag(secant.ravel()) @ linear(weights, "intermediate.dense")
    M = (F + np.eye(N * D)) @ M
    hidden = [apply(weights, "output.dense", a) + b for a, b in zip(active, normed, strict=True)]
    N2, (y, y0) = norm(hidden, weights, "output.LayerNorm")
    return N2 @ M, y, y0


def logarithmic_mean(a, b):
    return (a - b) / (np.log(a) - np.log(b))


def norm(sides, weights, name, eps=1e-12):
    """LayerNorm as the product of c and r = v^-1/2, with v by c^2."""
    centre = np.eye(D) - 1 / D
    c = [side @ centre for side in sides]
    r = [((side**2).mean(1, keepdims=True) + eps) ** -0.5 for side in c]
    gain, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
    M = np.zeros((N * D, N * D))
    for i in range(N):
        r_mean, c_mean = (r[0][i] + r[1][i]) / 2, (c[0][i] + c[1][i]) / 2
        v, v0 = r[0][i] ** -2, r[1][i] ** -2
        slope = (r[0][i] - r[1][i]) / (v - v0)  # of r by v
        block = r_mean * centre + np.outer(c_mean, slope * 2 / D * c_mean @ centre)
        M[i * D : (i + 1) * D, i * D : (i + 1) * D] = np.diag(gain) @ block
    return M, [c[run] * r[run] * gain + shift for run in (0, 1)]


def test_many_segments_are_integrated_gradients(layer):
    x, x0 = (
        torch.randn(2, N, D, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (1, 2)
    )

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)[:, 0].tanh().sum(-1)

    head = Head()
    path = IntegratedGradients(head).attribute(
        x, x0, n_steps=4000, internal_batch_size=1000, method="riemann_middle"
    )
    off = []
    for n_steps in (1, 8, 64):
        found, delta = TransformerDeepLift(head).attribute(
            x, x0, n_steps=n_steps, return_convergence_delta=True
        )
        assert delta.abs().max() < 1e-11
        off.append((found - path).abs().max().item())
    assert off[0] > off[1] > 20 * off[2]
    assert off[2] < 0.01 * path.abs().max()
