"""The explained position: custom heads, several positions at once, several texts per example."""

from functools import partial

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMultipleChoice

from captum_globenc import EncoderForward, GlobEnc
from models import SMALL, randomize, state_of

READS = {
    "the first token": lambda answer: answer.last_hidden_state[:, 0],
    "an average without the first token": lambda answer: answer.last_hidden_state[:, 1:].mean(1),
    "the maximum": lambda answer: answer.last_hidden_state.amax(1),
    "layer 2": lambda answer: answer.hidden_states[2][:, 0],
    "four layers": lambda answer: torch.cat(answer.hidden_states, dim=-1)[:, 0],
}


class Reader(nn.Module):
    """A module of the user's own around a bare encoder."""

    def __init__(self, encoder, read):
        super().__init__()
        self.encoder, self.read = encoder, read

    def forward(self, ids, mask):
        return self.read(self.encoder(ids, attention_mask=mask, output_hidden_states=True))


@pytest.mark.parametrize("wrapped", ["module", "function", "module in EncoderForward's place"])
@pytest.mark.parametrize("read", READS)
def test_a_custom_head_needs_a_position(bare, batch, read, wrapped):
    reader = Reader(bare, READS[read])
    globenc = {
        "module": lambda: GlobEnc(reader),
        "function": lambda: GlobEnc(lambda ids, mask: reader(ids, mask), bare),
        "module in EncoderForward's place": lambda: GlobEnc(reader, bare),
    }[wrapped]()
    inputs, mask = batch["input_ids"], batch["attention_mask"]
    reader(inputs, mask)  # transformers puts hooks of its own where hidden states are first asked for
    before = state_of(reader)
    with pytest.raises(ValueError, match=r"BertModel .*pass position="):
        globenc.attribute(inputs, 0, mask)
    with pytest.raises(ValueError, match=r"BertModel .*pass position="):
        globenc.attribute_layers(inputs, 0, mask)
    assert state_of(reader) == before
    known = GlobEnc(EncoderForward(bare, output="pooler_output")).attribute(inputs, 0, mask)
    assert torch.equal(globenc.attribute(inputs, 0, mask, position=0), known)


@pytest.mark.parametrize("wrap", [lambda bare: bare, partial(EncoderForward, output="pooler_output")])
def test_the_pooled_token_is_known_if_the_head_reads_the_encoder_directly(bare, batch, wrap):
    globenc = GlobEnc(wrap(bare), bare)
    inputs, mask = batch["input_ids"], batch["attention_mask"]
    found = globenc.attribute(inputs, additional_forward_args=mask)
    assert torch.equal(found, globenc.attribute(inputs, additional_forward_args=mask, position=0))


@pytest.fixture
def setting(classifier, batch):
    forward = EncoderForward(classifier)
    return GlobEnc(forward), *forward.arguments(batch)


@pytest.mark.parametrize("aggregation", ["rollout", "max-flow"])
@pytest.mark.parametrize("mixing", ["N-Enc", "W-FixedRes"])
def test_all_positions_at_once_are_those_one_by_one(setting, classifier, mixing, aggregation):
    globenc, inputs, extra = setting
    globenc = GlobEnc(globenc.forward_func, mixing=mixing, aggregation=aggregation)
    found = globenc.rollout_matrices(inputs, extra)
    assert found.shape == (3, 9, 9)
    for example, length in enumerate((9, 6, 4)):
        assert (found[example, length:] == 0).all()
        assert (found[example, :, length:] == 0).all()
        for position in range(length):
            alone = globenc.attribute(
                inputs[example : example + 1],
                None,
                tuple(it[example : example + 1] for it in extra),
                position=position,
            )
            torch.testing.assert_close(found[example, position], alone[0], rtol=1e-9, atol=1e-12)


def test_all_positions_on_the_raw_scale_are_the_product_of_the_layers(setting):
    globenc, inputs, extra = setting
    product = torch.eye(9).double()
    for matrix in globenc.mixing_matrices(inputs, extra).unbind(1):
        product = matrix @ product
    found = globenc.rollout_matrices(inputs, extra, normalize=False)
    torch.testing.assert_close(found, product, rtol=1e-10, atol=0)


ROWS = [[1, 3], [0, 2], [1, 1]]
SEVERAL = {
    "a slice": (slice(1, 4), [[1, 2, 3]] * 3),
    "a slice that reaches into padding": (slice(3, None), [[3, 4, 5, 6, 7, 8], [3, 4, 5], [3]]),
    "a list for each text": (ROWS, ROWS),
    "ranges": ([range(2), range(1, 4), range(1)], [[0, 1], [1, 2, 3], [0]]),
}


@pytest.mark.parametrize("how", SEVERAL)
def test_several_positions_are_the_average_of_their_rows(setting, how):
    globenc, inputs, extra = setting
    position, rows = SEVERAL[how]
    raw = globenc.rollout_matrices(inputs, extra, normalize=False)
    expected = torch.stack([raw[example, row].mean(0) for example, row in enumerate(rows)])
    found = globenc.attribute(inputs, 1, extra, position=position, normalize=False)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_weights_are_shares_of_the_average(setting):
    globenc, inputs, extra = setting
    weights = torch.rand(3, 9, generator=torch.Generator().manual_seed(0)) * extra[0]
    raw = globenc.rollout_matrices(inputs, extra, normalize=False)
    expected = torch.einsum("bi,bij->bj", (weights / weights.sum(1, keepdim=True)).double(), raw)
    found = globenc.attribute(inputs, 1, extra, position=weights, normalize=False)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        (slice(7, 9), "no real token of example 1"),
        (torch.ones(3, 9), "gives weight to padding"),
        (-torch.ones(3, 9), "negative"),
        (torch.full((3, 9), torch.nan), "not finite"),
        (torch.zeros(3, 9), "no real token of example 0"),
        ([[0], [1]], "lists for 2 texts, the batch has 3"),
        ([[0], [9], [0]], "position 9 of example 1 is out of range"),
        ([[0], [-1], [0]], "out of range"),
        ([[0], [5], [4]], "padding"),
        ([[0], [], [0]], "no real token of example 1"),
        ([[0], [True], [0]], "out of range"),
    ],
)
def test_bad_positions_raise(setting, position, message):
    globenc, inputs, extra = setting
    with pytest.raises(ValueError, match=message):
        globenc.attribute(inputs, 1, extra, position=position)


@pytest.mark.parametrize("shape", [(3, 2, 9), (1, 6, 9), (2, 3, 9), (1, 2, 3, 9)])
def test_several_texts_an_example_are_answered_in_the_inputs_shape(shape):
    """As multiple choice, and documents of sentences, have them: each part is a text of its own."""
    model = randomize(BertForMultipleChoice(BertConfig(**SMALL)).double())
    ids = torch.randint(5, 60, shape, generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask.view(-1, 9)[1, 6:] = 0

    def forward(ids, mask):
        *leading, tokens = ids.shape
        logits = model(ids.reshape(1, -1, tokens), attention_mask=mask.reshape(1, -1, tokens)).logits
        return logits.reshape(leading[0], -1)

    globenc = GlobEnc(EncoderForward(model, ("attention_mask",)) if len(shape) == 3 else forward, model)
    found = globenc.attribute(ids, 0, mask)
    layers = globenc.attribute_layers(ids, 0, mask)
    alone = GlobEnc(lambda ids, mask: model.bert(ids, attention_mask=mask)[1], model)
    flat, flat_mask = ids.reshape(-1, 9), mask.reshape(-1, 9)
    expected = alone.attribute(flat, None, flat_mask)
    assert found.shape == shape
    torch.testing.assert_close(found.reshape(-1, 9), expected, rtol=1e-10, atol=0)
    assert layers.shape == (*shape[:-1], 3, 9)
    torch.testing.assert_close(layers[..., -1, :], found, rtol=1e-10, atol=0)
    assert globenc.mixing_matrices(ids, mask).shape == (*shape[:-1], 3, 9, 9)
    assert globenc.rollout_matrices(ids, mask).shape == (*shape[:-1], 9, 9)
