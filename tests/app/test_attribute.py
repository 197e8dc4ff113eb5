"""`captum-globenc attribute` writes every row once, and reports errors and truncated texts."""

import signal
import subprocess
import sys

import pytest
import torch

from captum_globenc.datasets import Attributor, load_attributions
from checkpoints import ENVIRONMENT, save_classifier
from language_models import language_model, word_tokenizer
from sentences import sentences, write_rows

TEXTS = sentences(30, seed=11)


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "texts.csv", {"text": TEXTS, "label": [0, 1] * 15})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


DYING = """
import os, signal, sys
from captum_globenc.app.cli import main
from captum_globenc.datasets import shards

open_writer, number, last = shards.pq.ParquetWriter, iter(range(9)), int(sys.argv.pop(1))

def dying(file, *args, **options):
    if next(number) == last:
        file.write(b"PAR1, and no more")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return open_writer(file, *args, **options)

shards.pq.ParquetWriter = dying
sys.exit(main(sys.argv[1:]))
"""
"""The command, killed while it writes a shard."""


def test_a_killed_run_resumes_to_the_same_bytes(run, folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": sentences(120, seed=11)})
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = ["attribute", "--model", folder, "--data", data, "--rows-per-shard", 20, "--out"]
    dead = subprocess.run(
        [sys.executable, "-c", DYING, "3", *map(str, command), str(out)],
        env=ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL
    killed = contents(out)
    assert list(killed) == ["000000.parquet", "000001.parquet", "000002.parquet"]
    assert [path.name.partition(".parquet.")[0] for path in out.glob("*.part")] == ["000003"]
    assert run(*command, out)[0] == f"120 rows in {out}\n"
    run(*command, whole)
    assert killed.items() <= contents(out).items()
    assert contents(out) == contents(whole)
    assert len(contents(out)) == 6
    assert list(out.glob("*.part")) == []
    assert load_attributions(out, cache_dir=tmp_path / "cache")["idx"][:] == list(range(120))


def test_answers_of_a_language_model_are_read_or_generated(run, tmp_path):
    model, tokenizer = language_model("llama"), word_tokenizer()
    for it in (model, tokenizer):
        it.save_pretrained(tmp_path / "model")
    rows = {"text": ["the cat sat", "a dog"], "reply": ["red", "the mat"]}
    command = ("attribute", "--model", tmp_path / "model", "--data", write_rows(tmp_path / "rows.csv", rows))
    for name, options in {"replies": {}, "generated": {"answer_column": None, "max_new_tokens": 3}}.items():
        more = ("--max-new-tokens", 3) if options else ("--answer-column", "reply")
        run(*command, *more, "--out", tmp_path / name)
        found = load_attributions(tmp_path / name, cache_dir=tmp_path / "cache")
        expected = Attributor(model, tokenizer, **{"answer_column": "reply", **options})(rows)
        assert found["prediction"][:] == expected["prediction"]
        for one, other in zip(
            found[:]["transformer-deep-lift"], expected["transformer-deep-lift"], strict=True
        ):
            assert one == pytest.approx(other, abs=1e-5)


def test_options_reach_the_scores(run, folder, data, tmp_path):
    out = tmp_path / "out"
    run(
        *("attribute", "--model", folder, "--data", data, "--out", out),
        *("--methods", "decompx,transformer-deep-lift", "--target", "POSITIVE", "--batch-tokens", 100),
    )
    found = load_attributions(out, cache_dir=tmp_path / "cache")
    # The same batches, as others round otherwise.
    methods = ["decompx", "transformer-deep-lift"]
    made = Attributor(folder, methods=methods, target="POSITIVE", batch_tokens=100)
    expected = made({"text": TEXTS})
    assert found["label"][:] == [0, 1] * 15
    assert set(found["explained"][:]) == {"POSITIVE"}
    for name in ("decompx", "transformer-deep-lift"):
        for one, other in zip(found[name][:], expected[name], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_truncated_texts_and_errors_are_reported(run, folder, tmp_path):
    data = write_rows(tmp_path / "texts.jsonl", {"text": ["good", None, "bad " * 40, "film " * 30]})
    command = ("attribute", "--model", folder, "--data", data, "--out")
    assert run(*command, tmp_path / "cut")[1].splitlines() == [
        "note: 2 of 4 texts truncated at the limit of the model; --windows explains them whole",
        "note: 1 of 4 rows not explained; the column error has the reasons. The first: the text is missing",
    ]
    assert run(*command, tmp_path / "windows", "--windows", 3)[1].splitlines()[0] == (
        "note: 2 of 4 texts explained in windows"
    )
    assert run(*command, tmp_path / "errors", "--no-cut")[1].splitlines() == [
        "note: 3 of 4 rows not explained; the column error has the reasons. The first: the text is missing"
    ]


def test_a_model_without_a_trained_head_is_noted(run, data, tmp_path):
    from transformers import BertForSequenceClassification

    folder = save_classifier(tmp_path / "model")
    BertForSequenceClassification.from_pretrained(folder).bert.save_pretrained(folder)
    err = run("attribute", "--model", folder, "--data", data, "--out", tmp_path / "out")[1]
    assert err == f"note: {folder} lacks classifier.bias, classifier.weight: its predictions are random\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "magic"], "no method magic; known: globenc, transformer-deep-lift"),
        (["--engine", "steam"], "no engine 'steam'; known: local, ray"),
        (["--workers", "3"], "the local engine is one process on all cores"),
        (["--position", "first"], "position must be a whole number or mean, not 'first'"),
        (["--windows", "-2"], "windows is -2: pass the number of tokens that they share"),
        (
            ["--layout", "thermostat", "--methods", "all"],
            "thermostat supports one method, and 42 are",
        ),
        (["--text-column", "review"], "has no column review; it has text, label"),
        (["--target", "SIDEWAYS"], "target 'SIDEWAYS' is not a class of the model: NEGATIVE, POSITIVE"),
        (["--model", "no/such"], "cannot load no/such: no such folder"),
    ],
)
def test_user_errors_are_reported_in_one_line(options, message, failing, folder, data, tmp_path):
    model = [] if "--model" in options else ["--model", folder]
    assert message in failing("attribute", *model, "--data", data, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_another_run_in_the_same_folder_is_rejected(run, failing, folder, data, tmp_path):
    command = ("attribute", "--model", folder, "--data", data, "--out", tmp_path / "out")
    run(*command)
    assert "holds attributions with windows null, not 2: choose another folder" in failing(
        *command, "--windows", 2
    )


def test_an_interrupt_prints_how_to_resume(run, folder, data, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Attributor, "explain", stop)
    err = run("attribute", "--model", folder, "--data", data, "--out", tmp_path / "out", status=130)[1]
    assert err == f"note: stopped; repeat the command to resume from {tmp_path / 'out'}\n"


def test_a_bar_shows_rows_a_second_and_the_time_left(run, folder, data, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    err = run("attribute", "--model", folder, "--data", data, "--out", tmp_path / "out")[1]
    assert "rows/s" in err
    assert "left" in err
    assert "30/30" in err


def test_too_little_gpu_memory_is_reported_with_advice(run, folder, data, tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Attributor, "explain", full)
    err = run("attribute", "--model", folder, "--data", data, "--out", tmp_path / "out", status=2)[1]
    assert err == "error: the GPU has too little memory: lower --batch-tokens\n"
