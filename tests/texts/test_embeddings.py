"""Word embeddings can be replaced while the model reads the ids, as if it had read other words."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
)

from captum_globenc import EncoderForward
from captum_globenc.texts import embeddings
from captum_globenc.texts.embeddings import OnEmbeddings
from families import TEXT, VOCABULARY
from outsiders import OUTSIDERS

READERS = {name: it for name, it in OUTSIDERS.items() if not it.reads_images and name != "bart, decoder"}


@pytest.mark.parametrize("family", TEXT, ids=lambda family: family.label)
def test_every_text_family_reads_other_words_in_the_same_places(family):
    model = family.make()
    forward, batch = family.forward(model), family.batch("right")
    words = batch.real.bool() & (batch.inputs >= 5) & (batch.inputs < VOCABULARY - 1)
    words[:, 0] = False
    others = torch.where(words, batch.inputs + 1, batch.inputs)
    assert not torch.equal(others, batch.inputs)
    over = OnEmbeddings(forward, model)
    found = over(over.embed(others), batch.inputs, *batch.extra)
    expected = forward(others, *batch.extra)
    real = batch.real.bool() if found.dim() == 3 else slice(None)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", READERS)
def test_other_models_read_other_words_in_the_same_places(name):
    model = READERS[name].make()
    ids, others = READERS[name].inputs()
    forward = EncoderForward(model, ())
    over = OnEmbeddings(forward, model)
    torch.testing.assert_close(over(over.embed(others), ids), forward(others), rtol=0, atol=1e-12)


def test_a_decoder_that_reads_the_text_again_is_rejected_and_left_as_it_was():
    model = OUTSIDERS["bart, decoder"].make()
    ids, others = OUTSIDERS["bart, decoder"].inputs()
    forward = EncoderForward(model, ())
    before = forward(ids)
    over = OnEmbeddings(forward, model)
    with pytest.raises(ValueError, match="a decoder that reads the text again"):
        over(over.embed(others), ids)
    assert torch.equal(forward(ids), before)


def test_embeddings_that_are_never_looked_up_are_reported(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    over = OnEmbeddings(lambda ids: torch.zeros(1, 2), model)
    ids = tokenizer("good", return_tensors="pt")["input_ids"]
    with pytest.raises(ValueError, match="embedded the ids of the text 0 times"):
        over(over.embed(ids), ids)
    with pytest.raises(ValueError, match="no word embeddings are found in Linear"):
        OnEmbeddings(nn.Linear(2, 2), nn.Linear(2, 2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_mean_averages_the_outputs_of_the_layer(monkeypatch, dtype):
    """Gemma's layer scales what it looks up; the table is averaged in parts, and not in half precision."""
    monkeypatch.setattr(embeddings, "TABLE_ROWS_AT_ONCE", 7)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Gemma3TextConfig(vocab_size=40, head_dim=8, num_key_value_heads=1, **shape)
    model = Gemma3TextForSequenceClassification(config).eval().to(dtype)
    mean = OnEmbeddings(EncoderForward(model), model).mean
    table = model.get_input_embeddings().weight
    scaled = (table * torch.tensor(16**0.5, dtype=dtype)).double()
    torch.testing.assert_close(mean.double(), scaled.mean(0), rtol=1e-5, atol=1e-7)
    assert not mean.requires_grad


def test_without_a_table_of_words_there_is_no_mean(folder, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    monkeypatch.setattr(type(model), "get_input_embeddings", lambda self: nn.Identity())
    with pytest.raises(ValueError, match="BertFor.* has no table of word embeddings to average"):
        _ = OnEmbeddings(EncoderForward(model), model).mean
