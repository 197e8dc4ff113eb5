"""Recurrent layers: the numbers of torch, and multipliers that sum to the difference."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captum_globenc.differences import compare
from completeness import assert_complete, random

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN, "relu": nn.RNN}
OPTIONS = {
    "plain": {},
    "both directions": {"bidirectional": True},
    "two layers": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without bias": {"bias": False, "num_layers": 2},
    "projected": {"proj_size": 2, "bidirectional": True},
}


def layer(kind, options):
    torch.manual_seed(0)
    further = {"nonlinearity": kind} if kind in ("tanh", "relu") else {}
    return LAYERS[kind](5, 3, **further, **OPTIONS[options]).double().eval()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind, options):
    if options == "projected" and kind != "lstm":
        return
    module = layer(kind, options)
    x, x0 = random(4, 6, 5), random(4, 6, 5, seed=1)
    assert_complete(lambda x: module(x)[0], [x], [x0])
    last = (lambda x: module(x)[1][1]) if kind == "lstm" else (lambda x: module(x)[1])
    assert_complete(last, [x], [x0])


@pytest.mark.parametrize("kind", LAYERS)
def test_the_first_state_may_depend_on_the_input(kind):
    module = layer(kind, "plain")
    x, x0 = random(4, 6, 5), random(4, 6, 5, seed=1)

    def run(x):
        state = x[:1, :, :3].contiguous()
        return module(x, (state, 2 * state) if kind == "lstm" else state)[0]

    assert_complete(run, [x], [x0])


@pytest.mark.parametrize("options", ["plain", "two layers"])
@pytest.mark.parametrize("kind", LAYERS)
def test_packed_sequences(kind, options):
    """Padding gets nothing, and every sequence the numbers that it has alone."""
    module = layer(kind, options)
    lengths = torch.tensor([3, 6, 1, 6])
    first = module.batch_first
    x, x0 = random(4, 6, 5), random(4, 6, 5, seed=1)

    def run(x):
        packed = pack_padded_sequence(x if first else x.transpose(0, 1), lengths, first, False)
        output, state = module(packed)
        state = state[0] if kind == "lstm" else state
        padded, _ = pad_packed_sequence(output, first)
        return (padded if first else padded.transpose(0, 1)).sum((1, 2)) + state.sum((0, 2))

    assert_complete(run, [x], [x0])
    (found,) = (both := compare(run, [x], [x0])).contributions(both.output.sum())
    for row, length in enumerate(lengths):
        assert not found[row, length:].any()

        def alone(x):
            output, state = module(x if first else x.transpose(0, 1))
            return output.sum() + (state[0] if kind == "lstm" else state).sum()

        both = compare(alone, [x[row : row + 1, :length]], [x0[row : row + 1, :length]])
        torch.testing.assert_close(
            found[row, :length], both.contributions(both.output)[0][0], rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(
    "cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lambda *it: nn.RNNCell(*it, nonlinearity="relu")]
)
def test_cells(cell):
    torch.manual_seed(0)
    module = cell(5, 3).double()

    def run(x):
        state = module(x)
        return torch.cat(module(2 * x, state)) if isinstance(state, tuple) else module(2 * x, state)

    assert_complete(run, [random(4, 5)], [random(4, 5, seed=1)])
