"""The words with the highest scores equal a plain computation, for all methods and precisions."""

import csv
import re
from collections import defaultdict

import pytest
import torch

from captum_globenc.datasets import Attributor, attribute_files, load_attributions, summarize
from captum_globenc.datasets.summary import write_csv
from captum_globenc.texts import load_classifier
from sentences import sentences, write_rows

TEXTS = [text.title() if number % 3 else text for number, text in enumerate(sentences(60, seed=5))]
METHODS = ("globenc", "transformer-deep-lift")


@pytest.fixture(scope="module")
def classifier(folder):
    """The tiny classifier, its bias such that half of the texts are of either class."""
    model, tokenizer, _ = load_classifier(folder)
    logits = torch.tensor(Attributor(model, tokenizer)({"text": TEXTS})["logits"])
    with torch.no_grad():
        model.classifier.bias[1] -= (logits[:, 1] - logits[:, 0]).median()
    return model, tokenizer


@pytest.fixture(scope="module", params=["float32", "float16"])
def attributed(request, classifier, tmp_path_factory):
    """A folder whose name has special characters of SQL and of file patterns."""
    place = tmp_path_factory.mktemp("texts") / f"it's [{request.param}]*"
    data = write_rows(place.parent / "texts.jsonl", {"text": [*TEXTS, None]})
    attribute = Attributor(*classifier, methods=METHODS)
    attribute_files(attribute, data, place, rows_per_shard=16, dtype=request.param)
    return place


def plainly(folder, method, cache):
    """Scores of words by class and word, each with its row."""
    found = defaultdict(list)
    for row in load_attributions(folder, cache_dir=cache):
        words = defaultdict(float)
        for place, score in zip(row["word_ids"], row[method], strict=True):
            if place is not None:
                words[place] += score
        for place, score in words.items():
            found[row["prediction"], row["words"][place].lower()].append((score, -row["idx"]))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_means_counts_and_examples_equal_a_plain_computation(method, attributed, tmp_path):
    expected = plainly(attributed, method, tmp_path)
    weights = summarize(attributed, method, top=100, min_count=3, examples=2)
    assert {(it.label, it.word) for it in weights} == {
        key for key, scores in expected.items() if len(scores) >= 3
    }
    assert any(it.word == "unhappy" for it in weights)
    for it in weights:
        scores = expected[it.label, it.word]
        assert it.count == len(scores)
        assert it.mean == pytest.approx(sum(score for score, _ in scores) / len(scores), abs=1e-6)
        best = {row: max(score for score, of in scores if of == row) for _, row in scores}
        rows = sorted(best, key=lambda row: (best[row], row), reverse=True)[:2]
        assert [example.idx for example in it.examples] == [-row for row in rows]
        assert [example.text for example in it.examples] == [TEXTS[-row] for row in rows]


def test_words_are_sorted_by_class_and_mean_score(attributed):
    weights = summarize(attributed, top=3, min_count=2)
    assert [it.label for it in weights] == ["NEGATIVE"] * 3 + ["POSITIVE"] * 3
    for number in (0, 3):
        means = [it.mean for it in weights[number : number + 3]]
        assert means == sorted(means, reverse=True)
    assert weights == [
        it
        for label in ("NEGATIVE", "POSITIVE")
        for it in [it for it in summarize(attributed, top=100, min_count=2) if it.label == label][:3]
    ]


def test_words_count_for_the_target(classifier, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": TEXTS})
    attribute_files(Attributor(*classifier, METHODS, target="POSITIVE"), data, tmp_path / "out")
    assert {it.label for it in summarize(tmp_path / "out", "transformer-deep-lift")} == {"POSITIVE"}
    assert {it.label for it in summarize(tmp_path / "out", "globenc")} == {"POSITIVE", "NEGATIVE"}


def test_little_memory_is_enough(attributed):
    assert summarize(attributed, memory="100MB") == summarize(attributed)


def test_memory_does_not_grow_with_the_length_of_a_text(classifier, tmp_path):
    long = "good film " * 50_000  # its tokens fill the model's limit: 500 kB for each would be 20 MB a row
    texts = ["bad film", "good plot"] * 5 + [long] * 20
    data = write_rows(tmp_path / "texts.jsonl", {"text": texts})
    methods = ["globenc", "transformer-deep-lift"]
    attribute_files(Attributor(*classifier, methods=methods), data, tmp_path / "out")
    for method in methods:
        found = summarize(tmp_path / "out", method, min_count=1, memory="100MB")
        assert {it.word for it in found} == {"bad", "film", "good", "plot"}
        assert long in {example.text for it in found for example in it.examples}


def test_a_table_holds_the_numbers_and_the_rows(attributed, tmp_path):
    weights = summarize(attributed, top=2, min_count=2)
    write_csv(weights, tmp_path / "words.csv")
    with (tmp_path / "words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["word"]) for row in rows] == [(it.label, it.word) for it in weights]
    assert [float(row["mean"]) for row in rows] == [it.mean for it in weights]
    assert rows[0]["examples"].split() == [str(example.idx) for example in weights[0].examples]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "decompx"}, "has no scores of decompx, only of globenc, transformer-deep-lift"),
        ({"top": 0}, "top is 0: at least 1 is needed"),
        ({"min_count": 0}, "min_count is 0"),
        ({"examples": -1}, "examples is -1"),
        ({"memory": "much"}, "memory is 'much': pass a size such as 500MB"),
    ],
)
def test_invalid_options_are_reported(options, message, attributed):
    with pytest.raises(ValueError, match=re.escape(message)):
        summarize(attributed, **options)


def test_a_layout_without_words_is_rejected(folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": ["good"]})
    attribute_files(Attributor(folder), data, tmp_path / "out", layout="thermostat")
    with pytest.raises(ValueError, match="the layout thermostat, which has no words: write"):
        summarize(tmp_path / "out")


def test_damaged_files_and_too_little_memory_are_reported(folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": TEXTS})
    attribute_files(Attributor(folder), data, tmp_path / "out", rows_per_shard=30)
    with pytest.raises(ValueError, match="cannot summarize .*: Out of Memory Error"):
        summarize(tmp_path / "out", memory="1KB")
    shard = tmp_path / "out" / "000001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(ValueError, match="cannot summarize .*000001.parquet"):
        summarize(tmp_path / "out")
