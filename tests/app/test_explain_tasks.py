"""`captum-globenc explain` for models of every task, and for long texts in windows."""

import json

import pytest
import torch
import transformers
from transformers import AutoTokenizer, BertConfig

from captum_globenc import explain
from checkpoints import VOCABULARY, save_classifier, save_tokenizer


@pytest.fixture
def model_for(tmp_path):
    """Save a tiny model of a class, its tokenizer with it; return the folder."""

    def save(kind):
        config = BertConfig(
            vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, initializer_range=0.6, id2label={0: "O", 1: "B-PER"},
            label2id={"O": 0, "B-PER": 1},
        )  # fmt: skip
        torch.manual_seed(0)
        getattr(transformers, kind)(config).save_pretrained(tmp_path)
        save_tokenizer(tmp_path)
        return tmp_path

    return save


@pytest.mark.parametrize(
    ("kind", "text", "options"),
    [
        ("BertForTokenClassification", "the plot is BAD", {}),
        ("BertForMaskedLM", "the [MASK] is bad", {"target": "good"}),
        ("BertForQuestionAnswering", "is the plot good ?", {"pair": "The plot: bad!", "target": "start"}),
    ],
)
def test_a_model_is_loaded_for_the_task_in_its_config(run, model_for, kind, text, options):
    folder = model_for(kind)
    chosen = [part for name, value in options.items() for part in (f"--{name}", value)]
    out, err = run("explain", text, "--model", folder, "--json", *chosen)
    model = getattr(transformers, kind).from_pretrained(folder)
    expected = explain([text], model, AutoTokenizer.from_pretrained(folder), **options)
    assert len(expected) > 0
    assert [json.loads(line) for line in out.splitlines()] == json.loads(json.dumps(expected.to_dict()))
    assert err == ""
    out, _ = run("explain", text, "--model", folder, *chosen)
    for it in expected:
        assert it.headline in out


def test_all_classes_are_shown_side_by_side(run, folder):
    out, _ = run("explain", "good film", "--model", folder, "--target", "all", "--layers")
    for name in ("NEGATIVE", "POSITIVE"):
        assert f"transformer-deep-lift: {name} \N{MIDDLE DOT} supports or opposes {name}" in out
        assert f"logit of {name}" in out


def test_a_long_text_is_shown_as_a_whole(run, failing, tmp_path):
    folder = save_classifier(tmp_path)
    text = "the plot is bad but great " * 9
    out, err = run("explain", text, "--model", folder, "--windows", "4", "--json")
    found = json.loads(out)
    assert (err, found["truncated"], len(found["tokens"])) == ("", False, 56)
    assert found["settings"]["windows"] == "4"
    assert "22 of 24 tokens to a window" in failing("explain", text, "--model", folder, "--windows", "30")
    assert "truncated at 24 tokens" in run("explain", text, "--model", folder)[1]
