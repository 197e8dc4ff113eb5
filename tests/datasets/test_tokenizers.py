"""Tokens, words and windows of all kinds of tokenizers; slow tokenizers have no offsets."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.datasets import Attributor
from captum_globenc.texts.tokenizing import pad
from models import SMALL, randomize
from vocabularies import TOKENIZERS, goes_on

LIMIT = 12
TEXT = "the fox the fox"


def classifier(tokenizer):
    """A BERT of twelve positions over the tokenizer's vocabulary."""
    config = BertConfig(
        **{**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": LIMIT}, num_labels=2
    )
    return randomize(BertForSequenceClassification(config))


@pytest.fixture(params=[*TOKENIZERS, "goes-on"])
def tokenizer(request, tmp_path):
    return TOKENIZERS[request.param]() if request.param in TOKENIZERS else goes_on(tmp_path)


def test_tokens_words_and_scores_belong_together(tokenizer):
    model = classifier(tokenizer)
    rows = Attributor(model, tokenizer)({"text": ["the", TEXT]})
    ids = tokenizer(TEXT)["input_ids"]
    assert rows["error"] == ["", ""]
    assert rows["input_ids"][1] == ids
    assert [word.replace("@@", "") for word in rows["words"][1]] == TEXT.split()
    assert [place for place in rows["word_ids"][1] if place is not None] == sorted(
        place for place in rows["word_ids"][1] if place is not None
    )
    mask = torch.ones(1, len(ids), dtype=torch.long)
    alone = GlobEnc(EncoderForward(model)).attribute(torch.tensor([ids]), additional_forward_args=(mask,))
    assert rows["globenc"][1] == pytest.approx(alone[0].tolist(), abs=1e-5)


def test_long_texts_are_windowed(tokenizer):
    rows = Attributor(classifier(tokenizer), tokenizer, windows=2)({"text": [" ".join([TEXT] * 5)]})
    assert rows["error"] == [""]
    assert rows["windows"][0] >= 2
    assert len(rows["globenc"][0]) == len(rows["input_ids"][0]) > LIMIT
    assert sum(rows["globenc"][0]) == pytest.approx(1)


def test_a_slow_tokenizer_has_no_offsets_and_no_segments(tmp_path):
    tokenizer = goes_on(tmp_path)
    rows = Attributor(classifier(tokenizer), tokenizer, windows=2)(
        {"text": [TEXT, " ".join([TEXT] * 5)], "pair": ["the", "the"]}
    )
    assert rows["offsets"] == [None, []]
    assert rows["error"] == ["", "this tokenizer does not mark segments: use a fast tokenizer"]


def test_without_a_padding_token_no_text_is_padded():
    tokenizer = TOKENIZERS[next(iter(TOKENIZERS))]()
    model, texts = classifier(tokenizer), ["the", TEXT, "fox the"]
    tokenizer.pad_token = None
    ids = [tokenizer(text)["input_ids"] for text in texts]
    with pytest.raises(ValueError, match="no padding token: explain the texts one by one"):
        pad([{"input_ids": row} for row in ids], tokenizer)
    lengths = []
    model.register_forward_pre_hook(
        lambda _, args, given: lengths.append({len(row) for row in (args or [given["input_ids"]])[0]}),
        with_kwargs=True,
    )
    rows = Attributor(model, tokenizer, ["transformer-deep-lift"])({"text": texts})
    assert rows["error"] == [""] * 3
    assert set().union(*lengths) == set(map(len, ids))
    for row, text in zip(rows["transformer-deep-lift"], texts, strict=True):
        alone = Attributor(model, tokenizer, ["transformer-deep-lift"])({"text": [text]})
        assert row == pytest.approx(alone["transformer-deep-lift"][0], abs=1e-6)
