"""`captum-globenc summarize` shows, writes and draws the result of `summarize`."""

import csv

import pytest

from captum_globenc.datasets import Attributor, attribute_files, summarize
from sentences import sentences, write_rows


@pytest.fixture(scope="module")
def attributed(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("texts")
    data = write_rows(place / "texts.jsonl", {"text": sentences(40, seed=13)})
    attribute_files(Attributor(folder, methods=["globenc", "decompx"]), data, place / "out")
    return place / "out"


def test_words_are_shown_with_mean_count_and_examples(run, attributed):
    out, err = run("summarize", attributed, "--method", "decompx", "--top", 3, "--min-count", 2)
    weights = summarize(attributed, "decompx", top=3, min_count=2)
    assert err == ""
    for it in weights:
        (line,) = [
            line for line in out.splitlines() if line.split()[:1] == [it.word] and f"{it.mean:.4f}" in line
        ]
        assert line.split()[1:3] == [f"{it.mean:.4f}", str(it.count)]
        assert f"{it.examples[0].idx}: " in line
    assert {line.strip() for line in out.splitlines()} >= {it.label for it in weights}
    assert max(map(len, out.splitlines())) <= 80


def test_a_table_and_a_figure_are_written(run, attributed, tmp_path):
    run("summarize", attributed, "--csv", tmp_path / "words.csv", "--figure", tmp_path / "words.png")
    with (tmp_path / "words.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["class"], row["word"], float(row["mean"])) for row in rows] == [
        (it.label, it.word, it.mean) for it in summarize(attributed)
    ]
    assert (tmp_path / "words.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "has no scores of magic, only of globenc, decompx"),
        (["--min-count", "1000"], "no word occurs 1000 times in texts of a class: lower --min-count"),
        (["--csv", "no/such/words.csv"], "cannot write no/such/words.csv: no such folder"),
        (["--top", "0"], "top is 0: at least 1 is needed"),
    ],
)
def test_user_errors_are_reported_in_one_line(options, message, failing, attributed):
    assert message in failing("summarize", attributed, *options)


def test_an_unknown_figure_format_is_reported(run, attributed, tmp_path):
    _, err = run("summarize", attributed, "--figure", tmp_path / "words.xyz", status=2)
    assert err.startswith(f"error: cannot write {tmp_path / 'words.xyz'}: Format 'xyz' is not supported")


def test_a_folder_without_attributions_is_reported(failing, tmp_path):
    assert f"{tmp_path} holds no attributions" in failing("summarize", tmp_path)
