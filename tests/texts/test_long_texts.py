"""Texts longer than the model's limit are explained in windows, whose scores are merged."""

from itertools import pairwise

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from captum_globenc import explain
from captum_globenc.datasets import Attributor
from captum_globenc.texts.tokenizing import encode
from checkpoints import LIMIT, VOCABULARY
from sentences import sentences

(DOCUMENT,) = sentences(1, seed=3, shortest=50, longest=50)
SIGNED = "transformer-deep-lift"
OVERLAP = 6


def load(folder, kind=AutoModelForSequenceClassification):
    torch.manual_seed(5)
    return kind.from_pretrained(folder).double(), AutoTokenizer.from_pretrained(folder)


def windows_of(count):
    """Positions of the windows of a document without a pair, written out."""
    room, inside = LIMIT - 2, count - 2
    starts = [*range(0, inside - room, room - OVERLAP), inside - room]
    return [[0, *range(start + 1, start + room + 1), count - 1] for start in starts]


@pytest.mark.parametrize("batch", [[DOCUMENT], ["a bad film", DOCUMENT, "good"]])
def test_a_document_is_explained_as_in_a_data_set(folder, batch):
    methods = ["globenc", SIGNED, "decompx", "integrated-gradients"]
    found = explain(batch, *load(folder), methods=methods, windows=OVERLAP)
    made = Attributor(*load(folder), methods=methods, windows=OVERLAP)({"text": batch})
    for index, it in enumerate(found):
        long = it.text == DOCUMENT
        assert it.tokens == made["tokens"][index]
        assert it.prediction == made["prediction"][index]
        assert it.value == pytest.approx(max(made["logits"][index]))
        for name in methods:
            assert it.scores[name] == pytest.approx(made[name][index], abs=1e-9)
        assert it.settings.get("windows") == (str(OVERLAP) if long else None)
        assert it.kinds[SIGNED] == ("signed" if long else "contributions")
        assert (SIGNED in it.sums) == (not long)
        assert not it.truncated
        assert sum(it.scores["globenc"]) == pytest.approx(1)
        assert "".join(text for text, _ in it.words(special=False)) == it.text.replace(" ", "")


def test_each_depth_of_a_document_is_merged_over_windows(folder):
    (it,) = explain([DOCUMENT], *load(folder), windows=OVERLAP, layers=True)
    assert it.layers["globenc"][-1] == pytest.approx(it.scores["globenc"])
    assert it.layers[SIGNED][0] == pytest.approx(it.scores[SIGNED], abs=1e-6)
    assert all(sum(row) == pytest.approx(1) for row in it.layers["globenc"])


def test_the_longer_segment_is_split(folder):
    model, tokenizer = load(folder)
    encoded = encode(["the plot ?"], [DOCUMENT], model, tokenizer, OVERLAP)
    ids = tokenizer("the plot ?", DOCUMENT, verbose=False)["input_ids"]
    assert encoded.whole["input_ids"].tolist() == [ids]
    question = [0, 1, 2, 3, 4]
    for places, row in zip(encoded.positions, encoded.batch["input_ids"].tolist(), strict=True):
        assert places[:5] == question
        assert (places[-1], len(places)) == (len(ids) - 1, LIMIT)
        assert row == [ids[place] for place in places]
    assert sorted({place for places in encoded.positions for place in places}) == list(range(len(ids)))
    assert encoded.batch["token_type_ids"].tolist() == [[0] * 5 + [1] * (LIMIT - 5)] * len(encoded.positions)
    assert encode([DOCUMENT], ["the plot ?"], model, tokenizer, OVERLAP).positions[0][-4:] == [
        len(ids) - 4, len(ids) - 3, len(ids) - 2, len(ids) - 1,
    ]  # fmt: skip


def test_options_that_windows_do_not_support_are_rejected(folder):
    model, tokenizer = load(folder)
    with pytest.raises(ValueError, match="windows have no position in common"):
        explain([DOCUMENT], model, tokenizer, windows=OVERLAP, position=2)
    assert explain(["a bad film"], model, tokenizer, windows=OVERLAP, position=2)[0].position == 2
    with pytest.raises(
        ValueError, match="leave 22 of 24 tokens to a window, too few for neighboring windows"
    ):
        explain([DOCUMENT], model, tokenizer, windows=22)


def test_an_entity_is_explained_by_the_window_that_it_is_found_in(folder):
    model, tokenizer = load(folder, AutoModelForTokenClassification)
    model.config.id2label = {0: "O", 1: "B-PER"}
    found = explain([DOCUMENT], model, tokenizer, methods=["globenc", SIGNED], windows=OVERLAP)
    ids = tokenizer(DOCUMENT, return_tensors="pt", verbose=False)["input_ids"]
    windows = windows_of(ids.shape[1])
    assert len(windows) > 2
    assert len(found) > 5
    spans = [it.span for it in found]
    assert spans == sorted(spans)
    assert all(one.stop <= other.start for one, other in pairwise(spans))
    which = set()
    for it in found:
        place = next(index for index, at in enumerate(it.offsets) if at and at.start == it.span.start)
        held = [index for index, score in enumerate(it.scores["globenc"]) if score]
        assert held in windows
        which.add(windows.index(held))
        blank = ids[:, held].clone()
        blank[:, 1:-1] = tokenizer.mask_token_id
        with torch.no_grad():
            one, base = (model(row).logits[0, held.index(place), 1] for row in (ids[:, held], blank))
        assert it.explained == pytest.approx(one.item())
        assert (it.kinds[SIGNED], it.position) == ("contributions", place)
        assert sum(it.scores[SIGNED]) == pytest.approx((one - base).item(), abs=1e-6)
    assert len(which) == len(windows)


def test_an_answer_is_the_most_likely_of_all_windows(folder):
    model, tokenizer = load(folder, AutoModelForQuestionAnswering)
    (found,) = explain(["the plot ?"], model, tokenizer, pair=[DOCUMENT], windows=OVERLAP, methods=[SIGNED])
    spans = found.offsets
    chances = {}
    for places in encode(["the plot ?"], [DOCUMENT], model, tokenizer, OVERLAP).positions:
        start, stop = spans[places[5]].start, spans[places[-2]].stop
        (alone,) = explain(["the plot ?"], model, tokenizer, pair=[DOCUMENT[start:stop]], methods=[SIGNED])
        chances[alone.probability] = (
            start + alone.span.start,
            alone.prediction,
            alone.scores[SIGNED],
            places,
        )
    first, answer, scores, places = chances[max(chances)]
    assert found.probability == pytest.approx(max(chances))
    assert (found.span.start, found.prediction) == (first, answer)
    assert [found.scores[SIGNED][place] for place in places] == pytest.approx(scores, abs=1e-9)
    assert sum(found.scores[SIGNED]) == pytest.approx(sum(scores))
    assert len(chances) > 2


def test_a_mask_token_is_predicted_by_the_window_with_the_most_context(folder):
    model, tokenizer = load(folder, AutoModelForMaskedLM)
    words = DOCUMENT.split()
    words[21] = "[MASK]"
    (found,) = explain([" ".join(words)], model, tokenizer, windows=OVERLAP, methods=["globenc"])
    windows = windows_of(len(found.tokens))
    held = [index for index, score in enumerate(found.scores["globenc"]) if score]
    around = {
        index: min(row.index(found.position), LIMIT - 1 - row.index(found.position))
        for index, row in enumerate(windows)
        if found.position in row
    }
    assert found.tokens[found.position] == "[MASK]"
    assert len(around) == 2
    assert held == windows[max(around, key=around.get)]


def test_a_model_without_padding_takes_windows_one_by_one(folder):
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=LIMIT, n_embd=16, n_layer=1, n_head=2, pad_token_id=None
    )
    torch.manual_seed(0)
    model, tokenizer = GPT2ForSequenceClassification(config).eval().double(), load(folder)[1]
    (found,) = explain([DOCUMENT], model, tokenizer, windows=OVERLAP, methods=[SIGNED])
    ids = tokenizer(DOCUMENT, return_tensors="pt", verbose=False)["input_ids"]
    with torch.no_grad():
        parts = [ids[:, places] for places in windows_of(ids.shape[1])]
        rows = [model(it, token_type_ids=torch.zeros_like(it)).logits[0] for it in parts]
    assert found.value == pytest.approx(torch.stack(rows).mean(0).max().item())
    every = explain(["a bad film"], model, tokenizer, methods=[SIGNED], target="all")[0]
    assert len(every.scores) == 2
