"""Attributions of a data set load as the explanations of `explain`."""

from dataclasses import fields

import pytest

from captum_globenc import explain
from captum_globenc.datasets import (
    Attributor,
    attribute_files,
    load_attributions,
    load_explanations,
    summarize,
)
from captum_globenc.texts.loading import load_classifier
from checkpoints import LIMIT
from sentences import sentences, write_rows

METHODS = ["globenc", "transformer-deep-lift", "decompx"]
CLOSE = {"scores", "probabilities", "probability", "value", "explained"}


def attributed(folder, tmp_path, columns, name="out", **options):
    path = write_rows(tmp_path / f"{name}.jsonl", columns)
    run = {key: options.pop(key) for key in ("dtype", "layout") if key in options}
    attribute_files(
        Attributor(folder, methods=METHODS, **options), path, tmp_path / name, rows_per_shard=4, **run
    )
    return tmp_path / name


def same(found, expected, within):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for it in fields(other):
            if it.name not in CLOSE | {"versions", "layers"}:
                assert getattr(one, it.name) == getattr(other, it.name), it.name
        for method in METHODS:
            assert one.scores[method] == pytest.approx(other.scores[method], abs=within)
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert (one.probability, one.value, one.explained) == pytest.approx(
            (other.probability, other.value, other.explained), abs=1e-5
        )


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-5), ("float16", 2e-3)])
def test_loaded_explanations_equal_explain(folder, tmp_path, paired, dtype, within):
    texts = [*sentences(8), "the [SEP] plot", "🙂🙂 Unhappy"]
    pairs = ["a film", "good"] * 5 if paired else None
    columns = {"text": texts} | ({"pair": pairs} if paired else {})
    out = attributed(folder, tmp_path, columns, dtype=dtype)
    model, tokenizer, _ = load_classifier(str(folder))
    expected = explain(texts, model, tokenizer, pair=pairs, methods=METHODS)
    found = load_explanations(out)
    same(found, expected, within)
    same(load_explanations(out, [9, 2, 3], limit=2), [expected[9], expected[2]], within)
    assert [it.words("globenc") for it in found[:2]] == [
        [(word, pytest.approx(score, abs=within)) for word, score in it.words("globenc")]
        for it in expected[:2]
    ]


def test_rows_with_an_error_are_skipped_and_windows_are_signed(folder, tmp_path):
    out = attributed(folder, tmp_path, {"text": ["good", None, "plot " * (LIMIT + 5)]}, windows=2)
    short, long = load_explanations(out)
    assert (short.settings.get("windows"), long.settings.get("windows")) == (None, "2")
    assert short.kinds["transformer-deep-lift"] == "contributions"
    assert long.kinds["transformer-deep-lift"] == "signed"
    assert sum(long.scores["globenc"]) == pytest.approx(1, abs=1e-5)


def test_unknown_rows_and_folders_are_rejected(folder, tmp_path):
    out = attributed(folder, tmp_path, {"text": ["good", "bad"]})
    with pytest.raises(IndexError, match=r"no row 2: .* has 2"):
        load_explanations(out, [0, 2])
    with pytest.raises(ValueError, match="holds no attributions"):
        load_explanations(tmp_path)
    (tmp_path / "attributions.json").write_text('{"format": 1}')
    for read in (load_explanations, load_attributions, summarize):
        with pytest.raises(ValueError, match="attributions.json was written by another program"):
            read(tmp_path)
    path = write_rows(tmp_path / "more.jsonl", {"text": ["good"]})
    attribute_files(Attributor(folder), path, tmp_path / "thermostat", layout="thermostat")
    with pytest.raises(ValueError, match="layout thermostat, without the texts"):
        load_explanations(tmp_path / "thermostat")


def test_the_terminal_shows_them_as_it_shows_saved_ones(run, folder, tmp_path):
    texts = sentences(6)
    out = attributed(folder, tmp_path, {"text": texts})
    saved = tmp_path / "saved.jsonl"
    load_explanations(out).save(saved)
    assert run("show", out) == run("show", saved)
    assert run("show", out, "--limit", 2) == run("show", saved, "-n", 2)
