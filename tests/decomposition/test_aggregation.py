"""Rollout against the product of matrices, and its scale; maximum flow against every cut."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition import flow
from captum_globenc.decomposition.aggregation import rollout
from captum_globenc.decomposition.flow import max_flow


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 3), st.integers(0, 10**6))
def test_rows_are_rows_of_the_product(layers, tokens, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    mixtures = [
        torch.rand(batch, tokens, tokens, generator=generator, dtype=torch.float64) for _ in range(layers)
    ]
    product = mixtures[0]
    for mixture in mixtures[1:]:
        product = mixture @ product
    start = torch.eye(tokens, dtype=torch.float64).expand(batch, -1, -1)
    rows, log_scale = rollout(mixtures, start)
    assert torch.allclose(rows * log_scale.exp()[..., None], product, rtol=1e-12, atol=0)


def test_scale_that_no_float_holds_is_kept_as_a_logarithm():
    mixtures = [torch.full((1, 2, 2), 1e30)] * 100
    rows, log_scale = rollout(mixtures, torch.tensor([[[1.0, 0.0]]]))
    assert torch.equal(rows, torch.ones(1, 1, 2))
    assert math.isclose(log_scale.item(), 100 * math.log(1e30) + 99 * math.log(2), rel_tol=1e-7)


def test_a_row_of_zeros_stays_zero():
    rows, log_scale = rollout([torch.zeros(1, 2, 2)], torch.tensor([[[1.0, 0.0]]]))
    assert torch.equal(rows, torch.zeros(1, 1, 2))
    assert log_scale.item() == 0


def narrowest_cut(layers, receiver, source):
    """Maximum flow by the theorem of Ford and Fulkerson: the least capacity of all cuts, one by one."""
    depth, tokens = len(layers), len(layers[0])
    nodes = [(layer, token) for layer in range(1, depth) for token in range(tokens)]
    edges = [
        ((layer + 1, i), (layer, j), layers[layer][i][j])
        for layer in range(depth)
        for i in range(tokens)
        for j in range(tokens)
    ]
    cuts = []
    for chosen in itertools.product((False, True), repeat=len(nodes)):
        side = {node for node, inside in zip(nodes, chosen, strict=True) if inside} | {(depth, receiver)}
        # The inputs but one, and the receivers but one, are dead ends: on the side that costs nothing.
        side |= {(0, j) for j in range(tokens) if j != source}
        cuts.append(sum(c for a, b, c in edges if a in side and b not in side))
    return min(cuts)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_flows_are_the_narrowest_cuts(depth, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    # Many zeros and few wide edges, so that cuts in the middle are the narrowest now and then.
    layers = torch.rand(depth, 1, tokens, tokens, generator=generator, dtype=torch.float64) ** 3
    layers *= torch.rand(layers.shape, generator=generator) < 0.7
    layers *= 10 ** torch.randint(-2, 3, (depth, 1, 1, 1), generator=generator).double()
    start = torch.eye(tokens, dtype=torch.float64)[None]
    rows, log_scale = max_flow(list(layers), start)
    flows = (rows * log_scale.exp()[..., None])[0]
    matrices = layers[:, 0].tolist()
    expected = [[narrowest_cut(matrices, i, j) for j in range(tokens)] for i in range(tokens)]
    assert torch.allclose(flows, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)
    assert ((rows.amax(dim=2) == 1) | (rows == 0).all(dim=2)).all()


def test_a_narrow_place_in_the_middle_decides():
    wide = torch.ones(1, 2, 2, dtype=torch.float64)
    narrow = torch.tensor([[[0.1, 0.0], [0.0, 0.2]]], dtype=torch.float64)
    rows, log_scale = max_flow([wide, narrow, wide], torch.tensor([[[1.0, 0.0]]], dtype=torch.float64))
    assert torch.allclose(rows * log_scale.exp(), torch.full((1, 1, 2), 0.3, dtype=torch.float64))


def test_a_start_of_several_tokens_is_their_weighted_sum():
    mixtures = list(torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    alone, scale = max_flow(mixtures, torch.eye(4, dtype=torch.float64).expand(2, -1, -1))
    weights = torch.tensor([[[0.5, 0.0, 0.3, 0.2]], [[0.0, 1.0, 0.0, 2.0]]], dtype=torch.float64)
    together, total = max_flow(mixtures, weights)
    assert torch.allclose(
        together * total.exp()[..., None], weights @ (alone * scale.exp()[..., None]), rtol=1e-9
    )


def test_texts_too_long_for_flows_are_rejected_and_padding_does_not_count(monkeypatch):
    monkeypatch.setattr(flow, "MOST_TOKENS", 3)
    mixture = torch.zeros(1, 6, 6)
    mixture[:, :3, :3] = 1
    start = torch.eye(6)[None, :1]
    assert max_flow([mixture], start)[0].tolist() == [[[1, 1, 1, 0, 0, 0]]]
    mixture[:, 5, 5] = 1
    with pytest.raises(ValueError, match="up to 3 tokens, and example 0 has 4"):
        max_flow([mixture], start)


def test_flow_is_an_aggregation_of_globenc(classifier, batch):
    forward = EncoderForward(classifier)
    inputs, extra = forward.arguments(batch)
    globenc = GlobEnc(forward, aggregation="max-flow")
    scores = globenc.attribute(inputs, 1, extra, normalize=False)
    matrices = globenc.mixing_matrices(inputs, extra)
    for text, length in enumerate((9, 6, 4)):
        alone, log_scale = max_flow(
            [layer[None, :length, :length] for layer in matrices[text]],
            torch.eye(length, dtype=torch.float64)[None, :1],
        )
        assert torch.allclose(scores[text, :length], (alone * log_scale.exp())[0, 0])
        assert (scores[text, length:] == 0).all()
    layers = globenc.attribute_layers(inputs, 1, extra)
    assert torch.allclose(layers.sum(dim=2), torch.ones(3, 3, dtype=torch.float64))
    assert torch.allclose(layers[:, -1], scores / scores.sum(dim=1, keepdim=True))
