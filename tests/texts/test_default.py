import importlib.util
from importlib.machinery import ModuleSpec

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedTokenizerBase

from captum_globenc.texts.default import ENCODER_PACKAGE, TRAINED_PART, load_default, merge

Default = tuple[BertForSequenceClassification, PreTrainedTokenizerBase]

SENTENCES = [
    ("A wonderful film with a superb cast.", "POSITIVE"),
    ("The food was delicious and the service was friendly.", "POSITIVE"),
    ("I love this phone.", "POSITIVE"),
    ("Works great, highly recommended.", "POSITIVE"),
    ("A dull, tedious waste of two hours.", "NEGATIVE"),
    ("The food was cold and the waiter was rude.", "NEGATIVE"),
    ("The battery died after a week.", "NEGATIVE"),
    ("Not good at all.", "NEGATIVE"),
]


@pytest.fixture(scope="module")
def default() -> Default:
    return load_default()


@torch.no_grad()
def predict(default: Default, texts: list[str]) -> list[str]:
    model, tokenizer = default
    # One by one: padding all to the longest would cost more than it saves.
    logits = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
    return [model.config.id2label[int(each.argmax())] for each in logits]


def test_is_the_stock_two_label_classifier_in_eval_mode(default: Default) -> None:
    model, _ = default
    assert type(model) is BertForSequenceClassification
    assert not any(module.training for module in model.modules())
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("text", "label"), SENTENCES)
def test_plain_sentences_are_classified_right(default: Default, text: str, label: str) -> None:
    assert predict(default, [text]) == [label]


def test_the_shipped_file_is_the_trained_one(default: Default) -> None:
    path = TRAINED_PART.with_name("sentiment_sentences.tsv")
    rows = [line.split("\t") for line in path.read_text("utf-8").split("\n")[1:] if line]
    sample = rows[::40]
    expected = [default[0].config.id2label[int(label)] for _, label, _ in sample]
    found = predict(default, [text for _, _, text in sample])
    right = sum(a == b for a, b in zip(found, expected, strict=True))
    assert right / len(sample) > 0.93


def test_trained_part_fits_in_two_megabytes() -> None:
    assert TRAINED_PART.stat().st_size <= 2_000_000


def test_second_load_gives_equal_weights_of_its_own(default: Default) -> None:
    first, second = default[0].state_dict(), load_default()[0].state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name])
        assert value.data_ptr() != second[name].data_ptr()


def test_loading_is_quiet_and_leaves_the_random_stream(capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.get_rng_state()
    load_default()
    assert torch.equal(before, torch.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec

    def hide(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == ENCODER_PACKAGE else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(ImportError, match=r'pip install "\.\[embedded\]"'):
        load_default()


def test_merge_adds_pairs_replaces_the_rest_and_leaves_its_input() -> None:
    state = {"a.weight": torch.ones(2, 3), "b.bias": torch.zeros(2), "c.bias": torch.zeros(1)}
    trained = {
        "a.up": torch.ones(2, 1).half(),
        "a.down": torch.tensor([[0.0, 1.0, 2.0]]).half(),
        "b.bias": torch.ones(2).half(),
    }
    merged = merge(state, trained)
    assert merged["a.weight"].tolist() == [[1.0, 2.0, 3.0]] * 2
    assert merged["b.bias"].tolist() == [1.0, 1.0]
    assert merged["c.bias"] is state["c.bias"]
    assert merged.keys() == state.keys()
    assert state["a.weight"].tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize("half", ["up", "down"])
def test_merge_rejects_half_a_pair(half: str) -> None:
    with pytest.raises(KeyError):
        merge({"a.weight": torch.ones(1, 1)}, {f"a.{half}": torch.ones(1, 1)})


def test_merge_rejects_an_update_without_its_weight() -> None:
    with pytest.raises(KeyError):
        merge({}, {"a.up": torch.ones(1, 1), "a.down": torch.ones(1, 1)})
