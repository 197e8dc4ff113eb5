"""The methods of evaluations give the same numbers in `explain`."""

import math

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from captum_globenc import explain
from captum_globenc.evaluation import METHODS, METRICS, Example, Subject
from captum_globenc.evaluation.subject import attribute
from captum_globenc.texts import load_classifier
from checkpoints import VOCABULARY

TEXTS = ["the plot is bad", "unhappy but not bad , great script !"]


@pytest.fixture(scope="module")
def loaded(folder):
    return load_classifier(folder)[:2]


def test_every_method_gives_the_numbers_of_an_evaluation(loaded):
    names = list(METHODS)
    found = explain(TEXTS, *loaded, pair="a film", methods=names, target="NEGATIVE")
    subject = Subject(*loaded, target="NEGATIVE")
    batch = subject.batch(0, [Example(i, text, None, "a film") for i, text in enumerate(TEXTS)])
    for i, it in enumerate(found):
        assert list(it.scores) == names
        kept = batch.mask[i][: len(it.tokens)]
        for name in names:
            expected = attribute(name, batch)[i][: len(it.tokens)].double()
            scores = torch.tensor(it.scores[name]).double()
            if it.kinds[name] == "sizes":
                assert math.fsum(it.scores[name]) == pytest.approx(1)
                assert min(it.scores[name]) >= 0
            if not METHODS[name].special:
                assert set(scores[~kept].tolist()) == {0.0}
            scores, expected = scores[kept], expected[kept]
            if it.kinds[name] == "sizes":
                scores, expected = scores / scores.sum(), expected / expected.sum()
            assert torch.allclose(scores, expected, atol=1e-6), name


def test_unsigned_scores_are_shown_as_shares(loaded):
    (it, _) = explain(TEXTS, *loaded, methods=["saliency", "W/max-flow", "lime"])
    assert [it.kinds[name] for name in ("saliency", "W/max-flow", "lime")] == ["sizes", "sizes", "signed"]
    assert it.units["saliency"] == "%"
    assert it.captions["saliency"] == "share of each token in the sum of magnitudes, without a sign"
    assert it.difference(it).kinds["saliency"] == "difference"


def test_some_methods_alone_in_their_order(loaded):
    (it, _) = explain(TEXTS, *loaded, methods=["globenc", "transformer-deep-lift", "lime"])
    assert list(it.by("lime", "globenc").scores) == ["lime", "globenc"]
    assert it.by("globenc").scores["globenc"] == it.scores["globenc"]
    with pytest.raises(ValueError, match="no scores of 'random'"):
        it.by("random")


@pytest.mark.parametrize("name", ["feature-ablation", "input-x-gradient", "transformer-deep-lift/2"])
def test_a_contrast_is_the_difference_of_two_classes(loaded, name):
    one, other = (
        explain(TEXTS[:1], *loaded, methods=[name], target=target)[0].scores[name]
        for target in ("POSITIVE", "NEGATIVE")
    )
    (both,) = explain(TEXTS[:1], *loaded, methods=[name], target="POSITIVE", against="NEGATIVE")
    assert both.scores[name] == pytest.approx([a - b for a, b in zip(one, other, strict=True)], abs=1e-5)


@pytest.mark.parametrize("baseline", ["mean", "zero", "pad"])
def test_ablation_replaces_words_by_the_baseline(loaded, baseline):
    """Computed by hand: the logit when a word has the embedding of the baseline."""
    model, tokenizer = loaded
    name = "feature-ablation"
    (it,) = explain(TEXTS[:1], model, tokenizer, methods=[name], target="NEGATIVE", baseline=baseline)
    table = model.get_input_embeddings().weight.detach()
    vector = {"mean": table.mean(0), "zero": 0 * table[0], "pad": table[tokenizer.pad_token_id]}[baseline]
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"][0]

    def logit(*replaced):
        rows = table[ids].clone()
        rows[list(replaced)] = vector
        with torch.no_grad():
            return model(inputs_embeds=rows[None]).logits[0, 0].item()

    losses = [logit() - logit(place) for place in range(1, len(ids) - 1)]
    assert it.scores[name] == pytest.approx([0, *losses, 0], abs=1e-5)


def gpt2(**config):
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24, "initializer_range": 0.6}
    return GPT2ForSequenceClassification(GPT2Config(vocab_size=len(VOCABULARY), **shape, **config))


def llama(**config):
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    shape = {**shape, "vocab_size": len(VOCABULARY), "initializer_range": 0.6}
    return LlamaForSequenceClassification(LlamaConfig(**shape, **config))


GRADIENTS = ["saliency", "input-x-gradient", "gradient-shap", "deep-lift", "gim"]
BLANKS = ["feature-ablation", "occlusion", "lime", "transformer-deep-lift/2"]


@pytest.fixture(params=[gpt2, llama])
def decoder(request, folder):
    """A decoder that finds the end of a text by the padding behind it, and its tokenizer."""
    torch.manual_seed(0)
    return request.param(pad_token_id=0).eval().double(), load_classifier(folder).tokenizer


@pytest.mark.parametrize("mask_token", ["[MASK]", None])
def test_padding_changes_nothing_of_a_text_beside_a_longer_one(decoder, mask_token):
    model, tokenizer = decoder
    tokenizer.mask_token = mask_token
    names = [*GRADIENTS, *BLANKS]
    (beside, _), (alone,) = (explain(texts, model, tokenizer, methods=names) for texts in (TEXTS, TEXTS[:1]))
    for name in names:
        assert beside.scores[name] == pytest.approx(alone.scores[name], abs=1e-6), name
        assert max(map(abs, alone.scores[name])) > 1e-3


@pytest.mark.parametrize("text", [TEXTS[0], "the zebra is bad"])
@pytest.mark.parametrize("pad_token", ["[PAD]", None])
def test_without_a_mask_token_words_are_replaced_by_the_mean(decoder, text, pad_token):
    """Computed by hand: the output at the last token when all words have the mean embedding."""
    model, tokenizer = decoder
    tokenizer.mask_token, tokenizer.pad_token = None, pad_token
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # GPT-2 would add types of tokens
    (it,) = explain([text], model, tokenizer, methods=BLANKS)
    table, ids = model.get_input_embeddings().weight, tokenizer(text, return_tensors="pt")["input_ids"][0]
    target = list(it.probabilities).index(it.target)

    def value(*blanked):
        rows = table[ids].clone()
        rows[list(blanked)] = table.mean(0)
        return model(inputs_embeds=rows[None]).logits[0, target].item()

    inside = range(1, len(ids) - 1)
    losses = [value() - value(place) for place in inside]
    assert it.scores["feature-ablation"] == pytest.approx([0, *losses, 0], abs=1e-6)
    assert sum(it.scores["transformer-deep-lift/2"]) == pytest.approx(value() - value(*inside), abs=1e-3)
    subject = Subject(model, tokenizer, target=target)
    batch = subject.batch(0, [Example(0, text, None)])
    scores = attribute("transformer-deep-lift", batch)
    assert METRICS["completeness-error"].measure(subject, batch, scores).item() < 1e-3


def test_a_decoder_without_a_padding_token_runs_texts_one_by_one(folder):
    torch.manual_seed(0)
    model, tokenizer = gpt2().eval().double(), load_classifier(folder).tokenizer
    tokenizer.pad_token = None
    names = ["saliency", "feature-ablation", "lime"]
    found = explain(TEXTS, model, tokenizer, methods=names)
    (alone,) = explain(TEXTS[1:], model, tokenizer, methods=names)
    assert found[1] == alone


def test_a_classifier_whose_decoder_reads_the_text_again_is_compared_with_padding(folder):
    torch.manual_seed(0)
    tokenizer = load_classifier(folder).tokenizer
    tokenizer.mask_token, tokenizer.eos_token = None, "[SEP]"
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    ends = {"pad_token_id": 0, "decoder_start_token_id": 0, "eos_token_id": tokenizer.sep_token_id}
    config = T5Config(vocab_size=len(VOCABULARY), **shape, **ends)
    model = T5ForSequenceClassification(config).eval().double()
    names = ["transformer-deep-lift", "feature-ablation"]
    (it,) = explain(TEXTS[:1], model, tokenizer, methods=names, target=1)
    batch = tokenizer(TEXTS[0], return_tensors="pt")

    def logit(*replaced):
        ids = batch["input_ids"].clone()
        ids[0, list(replaced)] = 0
        with torch.no_grad():
            return model(ids, attention_mask=batch["attention_mask"]).logits[0, 1].item()

    inside = range(1, batch["input_ids"].shape[1] - 1)
    assert it.settings["baseline"] == "pad"
    assert sum(it.scores[names[0]]) == pytest.approx(logit() - logit(*inside), abs=1e-6)
    losses = [logit() - logit(place) for place in inside]
    assert it.scores[names[1]] == pytest.approx([0, *losses, 0], abs=1e-6)
    with pytest.raises(ValueError, match="embeds other ids than the text's"):
        explain(TEXTS[:1], model, tokenizer, methods=names, baseline="mean")
