"""Evaluations of models that generate text: drops and rank correlations, against shorter prompts."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from captum_globenc import explain
from captum_globenc.evaluation import ANSWER_METHODS, ANSWER_METRICS, Example, evaluate
from language_models import language_model, word_tokenizer
from sentences import write_rows

METHOD = "transformer-deep-lift"
SENTENCES = ["the cat sat .", "a dog ran on the mat .", "the red dog is blue ."]
QUESTION = "what is the colour ?"
PROMPTS = [" ".join([*SENTENCES, QUESTION]), " ".join([SENTENCES[1], QUESTION])]
ANSWERS = ["red", "blue mat"]
EXAMPLES = [
    Example(number, *pair, answer=answer)
    for number, (pair, answer) in enumerate(zip([[it] for it in PROMPTS], ANSWERS, strict=True))
]
FAMILIES = ["gpt2", "llama", "bloom", "t5", "bart"]


def log_probability(loaded, sentences, answer):
    """The log-probability of the answer to the prompt that has only some sentences, by a call of its own."""
    prompt = " ".join([*sentences, QUESTION])
    return explain([prompt], *loaded, answer=answer, methods=["random"])[0].explained


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request):
    model = language_model(request.param)
    return (
        model if request.param == "bloom" else model.double(),
        word_tokenizer(),
    )  # its padding is inf in double


def test_drops_and_correlations_equal_prompts_without_the_sentences(loaded):
    evaluation = evaluate(*loaded, EXAMPLES, methods=[METHOD], metrics=ANSWER_METRICS)
    found = explain(PROMPTS, *loaded, answer=ANSWERS, methods=[METHOD])
    for row, it, sentences in zip(evaluation.rows, found, [SENTENCES, SENTENCES[1:2]], strict=True):
        scores = [score for _, score in it.sentences()][: len(sentences)]
        order = sorted(range(len(sentences)), key=lambda place: -scores[place])
        for k in (1, 3, 5):
            left = [sentence for place, sentence in enumerate(sentences) if place not in order[:k]]
            expected = it.explained - log_probability(loaded, left, it.answer.text)
            assert row[f"drop-{k}"] == pytest.approx(expected, abs=1e-5)
        assert row["prediction"] == it.answer.text
    kept = torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    scores = [score for _, score in found[0].sentences()][:3]
    sums = [math.fsum(s for s, there in zip(scores, row, strict=True) if there) for row in kept.tolist()]
    outputs = {
        row: log_probability(loaded, [s for s, there in zip(SENTENCES, row, strict=True) if there], "red")
        for row in {tuple(row) for row in kept.tolist()}
    }
    expected = spearmanr(sums, [outputs[tuple(row)] for row in kept.tolist()]).statistic
    assert evaluation.rows[0]["lds"] == pytest.approx(expected)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_the_rows_of_an_example_do_not_depend_on_its_batch(family):
    loaded = language_model(family).double(), word_tokenizer()
    metrics = [*ANSWER_METRICS, "drop-3/tokens", "lds/tokens", "comprehensiveness", "completeness-error"]
    one, other = (
        evaluate(*loaded, EXAMPLES, methods=[METHOD, "integrated-gradients"], metrics=metrics, batch_size=it)
        for it in (1, 2)
    )
    for row, its in zip(one.rows, other.rows, strict=True):
        assert [row[it] for it in metrics] == pytest.approx([its[it] for it in metrics], abs=1e-6)
        assert row["completeness-error"] < 1e-6 or row["method"] != METHOD


def test_the_drop_without_tokens_keeps_the_last_one():
    loaded = language_model("llama").double(), word_tokenizer()
    (row,) = evaluate(
        *loaded,
        [Example(0, "a red dog ran", answer="blue")],
        methods=[METHOD],
        metrics=["drop-5/tokens", "drop-1"],
    ).rows
    full, last = (
        explain([it], *loaded, answer="blue", methods=["random"])[0].explained
        for it in ("a red dog ran", "ran")
    )
    assert row["drop-5/tokens"] == pytest.approx(full - last, abs=1e-6)
    assert math.isnan(row["drop-1"])  # one sentence, which is the question


def test_files_have_a_column_of_answers_and_runs_are_resumed(tmp_path):
    loaded = language_model("gpt2"), word_tokenizer()
    data = write_rows(tmp_path / "asked.csv", {"text": PROMPTS, "answer": ANSWERS})
    first = evaluate(*loaded, data, out=tmp_path / "out")
    assert list(first.methods) == list(ANSWER_METHODS)
    assert list(first.metrics) == list(ANSWER_METRICS)
    assert first.settings["removal"] == "delete"
    assert evaluate(*loaded, data, out=tmp_path / "out").rows == first.rows  # from the folder, with seconds
    assert (tmp_path / "out/summary.png").exists()


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        (Example(7, "a dog"), {}, "example 7 has no answer: pass one"),
        (Example(7, "a dog", pair="a cat", answer="red"), {}, "example 7 has a second segment"),
        (EXAMPLES[0], {"metrics": ["infidelity"]}, "infidelity is not for models that generate text"),
        (EXAMPLES[0], {"removal": "mask"}, "removal is 'mask': for models that generate text"),
        (EXAMPLES[0], {"target": "red"}, "target is not for models that generate text"),
    ],
)
def test_arguments_that_do_not_apply_are_reported(example, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(language_model("gpt2"), word_tokenizer(), [example], **options)
