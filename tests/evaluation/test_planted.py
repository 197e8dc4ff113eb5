"""Planted shortcuts: planted words determine the label, decoys do not, and marks find their tokens."""

from collections import Counter

import pytest
import torch

from captum_globenc.evaluation import (
    METHODS,
    SENTENCES,
    SHORTCUTS,
    Example,
    Method,
    Subject,
    evaluate,
    plant,
    read_examples,
    without,
)
from captum_globenc.evaluation.planted import CONTEXT, DECOYS, WORDS
from captum_globenc.texts import load_classifier
from sentences import write_rows

PLAIN = [Example(number, f"a film of {number} reels , not dull", str(number % 2)) for number in range(400)]


def words_at(example, spans):
    return [example.text[start:end] for start, end in spans]


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_removing_planted_words_restores_the_text(kind):
    for plain, planted in zip(PLAIN, plant(PLAIN, kind), strict=True):
        words = planted.text.split()
        assert [it for it in words if it not in {*WORDS, CONTEXT, *DECOYS}] == plain.text.split()
        assert planted.number == plain.number
        [decoy] = words_at(planted, planted.decoys)
        assert decoy in DECOYS
        if planted.marked or kind != "context":
            bare = without(planted, [*planted.marked, *planted.decoys])
            assert (bare.text, bare.marked, bare.decoys) == (plain.text, (), ())
            assert bare.label == planted.label
        if not planted.marked:
            assert planted.label == plain.label


def test_the_label_follows_from_the_words_by_the_rule_of_its_kind():
    for planted in plant(PLAIN, "token", share=1):
        [word] = words_at(planted, planted.marked)
        assert word == WORDS[planted.label]
    for planted in plant(PLAIN, "pair", share=1):
        found = words_at(planted, planted.marked)
        assert found == [WORDS[planted.label], WORDS[1 - planted.label]]
    contexts = plant(PLAIN, "context", share=1)
    for planted in contexts:
        here = [word for word in planted.text.split() if word in {*WORDS, CONTEXT}]
        assert sorted(here) == sorted(words_at(planted, planted.marked) or here)
        assert (CONTEXT in here) == bool(planted.marked)
        assert len(here) == 1 + bool(planted.marked)
        if planted.marked:
            assert WORDS[planted.label] in here
    # Half of 400, within five deviations of 10.
    assert abs(sum(bool(planted.marked) for planted in contexts) - 200) < 50


@pytest.mark.parametrize("kind", SHORTCUTS)
def test_labels_and_decoys_are_independent_of_the_text(kind):
    found = plant(PLAIN, kind, share=0.75)
    planted = [it for it in found if it.marked]
    expected = 0.75 * 400 * (0.5 if kind == "context" else 1)
    assert abs(len(planted) - expected) < 50
    cells = Counter((int(PLAIN[it.number].label), it.label, words_at(it, it.decoys)[0]) for it in planted)
    assert len(cells) == 8
    # A cell has an eighth of them: five deviations.
    assert all(abs(count - len(planted) / 8) < 5 * (len(planted) / 8) ** 0.5 for count in cells.values())


def test_the_same_seed_plants_the_same():
    assert plant(PLAIN, "pair", seed=3) == plant(PLAIN, "pair", seed=3)
    assert plant(PLAIN, "pair", seed=3) != plant(PLAIN, "pair", seed=4)


def test_no_shipped_sentence_holds_a_word_that_is_planted():
    text = SENTENCES.read_text(encoding="utf-8").lower()
    assert not [word for word in (*WORDS, CONTEXT, *DECOYS) if word in text]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plant(PLAIN, "triple"), "known: token, context, pair"),
        (lambda: plant(PLAIN, "token", share=1.5), "pass a probability, 0 to 1"),
        (lambda: plant([Example(4, "A lantern, lit.")], "token"), "text 4 already contains lantern"),
        (lambda: Example(0, "dull", marked=((2, 9),)), "empty or outside"),
        (lambda: Example(0, "dull", decoys=((2, 2),)), "empty or outside"),
    ],
)
def test_invalid_arguments_of_plant_are_rejected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_marks_find_every_token_of_a_word_and_nothing_that_was_cut_off(folder):
    subject = Subject(*load_classifier(folder)[:2])
    text = "the unhappy plot is " + "bad " * 30
    last = len(text) - 4
    batch = subject.batch(0, [Example(0, text, marked=((4, 11), (last, last + 3)), decoys=((0, 3),))])
    # [CLS] the un ##happy plot ...: the last word lies behind the limit of 24 tokens.
    assert batch.inputs.shape == (1, 24)
    assert batch.marked.nonzero().tolist() == [[0, 2], [0, 3]]
    assert batch.decoys.nonzero().tolist() == [[0, 1]]


def test_a_tokenizer_without_offsets_is_rejected(folder, monkeypatch):
    model, tokenizer = load_classifier(folder)[:2]
    monkeypatch.setattr("transformers.BatchEncoding.is_fast", False)
    with pytest.raises(ValueError, match="fast"):
        Subject(model, tokenizer).batch(0, [Example(0, "the plot", marked=((0, 3),))])
    assert not Subject(model, tokenizer).batch(0, [Example(0, "the plot")]).marked.any()


def test_an_evaluation_measures_marks_by_score_and_by_size(folder, monkeypatch):
    # the plot is bad, scored 1 -5 3 2: "is" and "bad" lead by score, "plot" and "is" by size.
    scores = torch.tensor([[9.0, 1, -5, 3, 2, 9]])
    fixed = Method(lambda request: scores.expand(request.inputs.shape).clone())
    monkeypatch.setitem(METHODS, "fixed", fixed)
    text = Example(0, "the plot is bad", marked=((4, 8), (9, 11)), decoys=((12, 15),))
    metrics = ["marked-precision", "marked-rank", "decoy-named"]
    names = [*metrics, *(f"{name}/size" for name in metrics)]
    found = evaluate(*load_classifier(folder)[:2], [text], methods=["fixed"], metrics=names)
    assert [found.rows[0][name] for name in names] == [0.5, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_marks_are_read_from_files(tmp_path, ending):
    spans = [[[2, 6]], []] if ending == "jsonl" else ["[[2, 6]]", ""]
    path = write_rows(
        tmp_path / f"marked.{ending}",
        {"text": ["a dull film", "good"], "label": [0, 1], "marked_spans": spans, "decoy_spans": spans},
    )
    assert [(it.marked, it.decoys) for it in read_examples(path)] == [(((2, 6),), ((2, 6),)), ((), ())]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("[[2, 60]]", r"line 2: span \(2, 60\) is empty or outside a text of 11 characters"),
        ("[2, 6]", "line 2: .*not a list of spans"),
        ("yes", "line 2: .*not a list of spans"),
        ("[[0.5, 2]]", "line 2: .*not a list of spans"),
    ],
)
def test_invalid_spans_are_rejected_with_their_line(tmp_path, spans, message):
    path = write_rows(tmp_path / "marked.csv", {"text": ["a dull film"], "marked_spans": [spans]})
    with pytest.raises(ValueError, match=message):
        read_examples(path)
