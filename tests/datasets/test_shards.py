"""Shards hold every row once; other settings are rejected, and errors are reported."""

import json
import math
import os
import re
import shutil
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import ProphetNetTokenizer

from captum_globenc.datasets import (
    Attributor,
    Counts,
    attribute_files,
    load_attributions,
    load_explanations,
    summarize,
)
from captum_globenc.datasets import run as runs
from captum_globenc.datasets.shards import read_about
from captum_globenc.texts import load_classifier
from captum_globenc.texts.provenance import tokenizer_digest
from checkpoints import LIMIT, save_classifier
from sentences import sentences, write_rows

TEXTS = sentences(25)
LABELS = [number % 2 for number in range(25)]


@pytest.fixture
def load(tmp_path):
    """Read attributions without leaving anything in a cache of the machine's."""
    return lambda folder: load_attributions(folder, cache_dir=tmp_path / "cache")


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path / "texts.jsonl", {"text": TEXTS, "label": LABELS})


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_rows_of_every_file_format_equal_the_attributors(suffix, folder, tmp_path, load):
    path = write_rows(tmp_path / f"texts{suffix}", {"text": TEXTS, "label": LABELS})
    attribute = Attributor(folder, methods=["globenc", "transformer-deep-lift"])
    counts = attribute_files(attribute, path, tmp_path / "out", rows_per_shard=10)
    assert counts == Counts(rows=25)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json"] != []
    found = load(tmp_path / "out")
    expected = attribute({"text": TEXTS})
    assert found["idx"][:] == list(range(25))
    assert found["text"][:] == TEXTS
    assert found["label"][:] == LABELS
    for name in ("input_ids", "tokens", "offsets", "word_ids", "words", "prediction", "windows", "error"):
        assert found[name][:] == expected[name]
    for name in ("logits", "globenc", "transformer-deep-lift"):
        for one, other in zip(found[name][:], expected[name], strict=True):
            assert one == pytest.approx(other, abs=1e-5)


def test_texts_of_csv_have_quotes_commas_and_lines(folder, tmp_path, load):
    texts = ['the "good" film,', "a\nplot", "007", ""]
    path = write_rows(tmp_path / "texts.csv", {"review": texts})
    attribute_files(Attributor(folder, text_column="review"), path, tmp_path / "out")
    assert load(tmp_path / "out")["text"][:] == texts


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ([1, 2], [1, 2]),
        ([1, None], [1, None]),
        ([1, 2.5], [1.0, 2.5]),
        (["good", 3], ["good", "3"]),
        ([True, ["a", "b"]], ["true", '["a", "b"]']),
        ([2**70, 1], [str(2**70), "1"]),
    ],
)
def test_labels_are_kept_in_the_one_type_that_holds_all(labels, kept, folder, tmp_path, load):
    path = write_rows(tmp_path / "texts.jsonl", {"text": ["good", "bad"], "label": labels})
    attribute_files(Attributor(folder), path, tmp_path / "out")
    assert load(tmp_path / "out")["label"][:] == kept


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (["007", "12"], ["007", "12"]),
        (["+1", "2"], ["+1", "2"]),
        (["-0", "0"], ["-0", "0"]),
        (["1.0", "2"], ["1.0", "2"]),
        (["1e3", "2"], ["1e3", "2"]),
        (["true", "NA"], ["true", "NA"]),
        (["2024-01-02", "null"], ["2024-01-02", "null"]),
        (["0", "-12"], [0, -12]),
        (["9" * 19, "1"], ["9" * 19, "1"]),
    ],
)
def test_labels_and_texts_of_tables_are_unchanged(suffix, labels, kept, folder, tmp_path, load):
    rows = [("text", "pair", "label"), *zip(["007", "1.0"], ["NA", "00"], labels, strict=True)]
    path = tmp_path / f"texts{suffix}"
    path.write_text("".join({".csv": ",", ".tsv": "\t"}[suffix].join(row) + "\n" for row in rows))
    attribute_files(Attributor(folder), path, tmp_path / "out")
    found = load(tmp_path / "out")
    assert found["label"][:] == kept
    assert (found["text"][:], found["pair"][:]) == (["007", "1.0"], ["NA", "00"])
    # Labels are written as text, as in the file.
    assert list(map(str, found["label"][:])) == labels


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV"])
def test_a_label_that_a_table_lacks_leaves_the_others_what_they_are(suffix, folder, tmp_path, load):
    path = write_rows(tmp_path / "texts.csv", {"text": ["good", "bad", "red"], "label": [1, "", 0]})
    path = path.rename(path.with_suffix(suffix))
    if suffix == ".tsv":
        path.write_text(path.read_text().replace(",", "\t"))
    attribute_files(Attributor(folder), path, tmp_path / "out")
    assert load(tmp_path / "out")["label"][:] == [1, None, 0]


def test_rows_that_cannot_be_read_are_written_with_their_error(folder, tmp_path, load):
    path = tmp_path / "texts.jsonl"
    lines = [
        b'{"text": "good"}',
        b'{"text": ',
        b"[1]",
        b"\xff",
        b"",
        b'{"text": null}',
        b'{"text": "\\ud800"}',
    ]
    path.write_bytes(b"\n".join(lines))
    counts = attribute_files(Attributor(folder), path, tmp_path / "out")
    assert counts == Counts(rows=6, errors=5, first="line 2 of texts.jsonl is not valid JSON")
    found = load(tmp_path / "out")
    assert found["error"][:] == [
        "",
        "line 2 of texts.jsonl is not valid JSON",
        "line 3 of texts.jsonl is not a JSON object",
        "line 4 of texts.jsonl is not valid UTF-8",
        "the text is missing",
        "the text is not valid UTF-8",
    ]
    assert found["text"][:] == ["good", None, None, None, None, None]


def test_a_row_of_csv_with_invalid_bytes_affects_no_other_row(folder, tmp_path, load):
    (tmp_path / "texts.csv").write_bytes(b"text,label\ngood,1\nb\xe4d,0\nred,1\n")
    attribute_files(Attributor(folder), tmp_path / "texts.csv", tmp_path / "out")
    found = load(tmp_path / "out")
    assert found["error"][:] == ["", "line 3 of texts.csv is not valid UTF-8", ""]
    assert found["label"][:] == [1, None, 1]


def test_rows_are_counted_by_outcome(folder, tmp_path):
    long = "good " * 40
    path = write_rows(tmp_path / "texts.jsonl", {"text": ["good", long, None, long]})
    assert attribute_files(Attributor(folder), path, tmp_path / "cut") == Counts(
        rows=4, errors=1, cut=2, first="the text is missing"
    )
    assert attribute_files(Attributor(folder, windows=4), path, tmp_path / "windows") == Counts(
        rows=4, errors=1, windowed=2, first="the text is missing"
    )
    assert attribute_files(Attributor(folder, cut=False), path, tmp_path / "errors") == Counts(
        rows=4, errors=3, first=f"the text has 42 tokens, and the model takes {LIMIT}"
    )


def test_a_run_interrupted_anywhere_resumes_to_the_same_bytes(folder, data, tmp_path, monkeypatch):
    attribute_files(Attributor(folder), data, tmp_path / "whole", rows_per_shard=4)
    out = tmp_path / "out"
    written = []

    def stopping(self, number, *arguments, original=runs.Shards.write):
        if len(written) == 3:
            written.clear()
            (out / "000099.parquet.1.part").write_bytes(b"PAR1 and no more")
            raise KeyboardInterrupt
        written.append(number)
        original(self, number, *arguments)

    monkeypatch.setattr(runs.Shards, "write", stopping)
    for done in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            attribute_files(Attributor(folder), data, out, rows_per_shard=4)
        assert len(contents(out)) == done
        with pytest.raises(ValueError, match=f"has {done} of 7 shards"):
            load_attributions(out)
    attribute_files(Attributor(folder), data, out, rows_per_shard=4)
    assert written == [6]
    assert contents(out) == contents(tmp_path / "whole")
    assert list(out.glob("*.part")) == []


def test_shards_of_versions_without_a_checksum_are_read(folder, data, tmp_path, monkeypatch, load):
    first = attribute_files(Attributor(folder), data, tmp_path / "out")
    path = tmp_path / "out" / "000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, compression="zstd")
    assert b"captum_globenc.sha256" not in pq.read_metadata(path).metadata
    assert load(tmp_path / "out").num_rows == first.rows
    monkeypatch.setattr(Attributor, "explain", lambda *_, **__: pytest.fail("it ran again"))
    assert attribute_files(Attributor(folder), data, tmp_path / "out") == first


def test_a_run_that_is_done_runs_nothing(folder, data, tmp_path, monkeypatch):
    first = attribute_files(Attributor(folder), data, tmp_path / "out")
    monkeypatch.setattr(Attributor, "explain", lambda *_, **__: pytest.fail("it ran again"))
    assert attribute_files(Attributor(folder), data, tmp_path / "out") == first
    assert read_about(tmp_path / "out")["finished"]["rows"] == 25


def flipped(place):
    """Flip a byte, `place` of the way through a file."""

    def damage(content):
        at = int(len(content) * place)
        return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:100],
        lambda _: b"",
        lambda _: b"PAR1PAR1",
        *map(flipped, (0.01, 0.1, 0.2, 0.3, 0.4)),
        lambda content: content[:1000] + content[1001:],
    ],
)
def test_a_damaged_shard_is_made_again(damage, folder, data, tmp_path):
    attribute_files(Attributor(folder), data, tmp_path / "out", rows_per_shard=10)
    before = contents(tmp_path / "out")
    path = tmp_path / "out" / "000001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    for read in (load_attributions, load_explanations, partial(summarize, min_count=1)):
        with pytest.raises(ValueError, match=r"000001\.parquet is damaged: repeat the command that wrote it"):
            read(tmp_path / "out")
    attribute_files(Attributor(folder), data, tmp_path / "out", rows_per_shard=10)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "others", "message"),
    [
        ({"methods": ["globenc", "decompx"]}, {}, 'methods ["globenc"], not ["globenc", "decompx"]'),
        ({"windows": 3}, {}, "windows null, not 3"),
        ({}, {"dtype": "float16"}, 'dtype "float32", not "float16"'),
        ({}, {"layout": "thermostat"}, 'layout "full", not "thermostat"'),
        ({}, {"rows_per_shard": 7}, "rows_per_shard 1000, not 7"),
    ],
)
def test_a_folder_holds_shards_of_one_run(options, others, message, folder, data, tmp_path):
    attribute_files(Attributor(folder), data, tmp_path / "out")
    message = f"{tmp_path / 'out'} holds attributions with {message}: choose another folder"
    with pytest.raises(ValueError, match=re.escape(message)):
        attribute_files(Attributor(folder, **options), data, tmp_path / "out", **others)


def test_a_folder_takes_no_shards_of_another_tokenizer(folder, data, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    attribute_files(Attributor(str(model)), data, tmp_path / "out")
    moved = shutil.move(model, tmp_path / "moved")
    attribute_files(Attributor(str(moved)), data, tmp_path / "out")
    path = moved / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": true', '"lowercase": false'))
    with pytest.raises(ValueError, match="holds attributions of another tokenizer: choose another folder"):
        attribute_files(Attributor(str(moved)), data, tmp_path / "out")


def test_settings_of_a_tokenizer_in_python_count(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[SEP]", "[MASK]", "[X_SEP]", "a", "A"]))
    made = [ProphetNetTokenizer(path, do_lower_case=lower) for lower in (False, True, True)]
    made[2].name_or_path = "moved"
    made[2](["a", "a A"], padding=True)
    cased, lower, again = map(tokenizer_digest, made)
    assert cased != lower == again


def test_a_folder_takes_no_shards_of_other_texts_or_weights(folder, data, tmp_path):
    model = str(shutil.copytree(folder, tmp_path / "model"))
    attribute_files(Attributor(model), data, tmp_path / "out")
    save_classifier(tmp_path / "model", initializer_range=0.5)
    with pytest.raises(ValueError, match="of a model with other weights: choose another folder"):
        attribute_files(Attributor(model), data, tmp_path / "out")
    shutil.copytree(folder, model, dirs_exist_ok=True)
    write_rows(data, {"text": TEXTS[::-1], "label": LABELS})
    with pytest.raises(ValueError, match="of other texts: choose another folder"):
        attribute_files(Attributor(model), data, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(folder, data, tmp_path):
    write_rows(tmp_path / "mine.parquet", {"text": ["good"]})
    with pytest.raises(ValueError, match="contains other .parquet files"):
        attribute_files(Attributor(folder), data, tmp_path)
    out = tmp_path / "damaged"
    out.mkdir()
    (out / "attributions.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        attribute_files(Attributor(folder), data, out)
    (out / "attributions.json").write_text("{}")
    with pytest.raises(ValueError, match="written by another program or another version"):
        load_attributions(out)
    with pytest.raises(ValueError, match="there is no attributions.json"):
        load_attributions(tmp_path / "nowhere")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written_to_is_reported(folder, data, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(ValueError, match="cannot use .*Permission denied"):
        attribute_files(Attributor(folder), data, tmp_path / "out")


def test_a_full_disk_is_reported_and_leaves_no_partial_shard(folder, data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("captum_globenc.datasets.shards.os.fsync", full)
    with pytest.raises(ValueError, match="No space left on device"):
        attribute_files(Attributor(folder), data, tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_float16_holds_the_scores_to_its_precision(folder, data, tmp_path, load):
    for dtype in ("float32", "float16"):
        attribute_files(Attributor(folder, methods="decompx"), data, tmp_path / dtype, dtype=dtype)
    kind = pq.read_schema(tmp_path / "float16" / "000000.parquet").field("decompx").type
    assert kind == pa.list_(pa.float16())
    precise, rounded = (load(tmp_path / dtype)["decompx"][:] for dtype in ("float32", "float16"))
    for one, other in zip(precise, rounded, strict=True):
        assert other == pytest.approx(one, rel=1e-3, abs=1e-6)


def test_thermostats_columns(folder, tmp_path, load):
    texts, labels = [*TEXTS[:4], None], ["POSITIVE", "negative", None, "sideways", "POSITIVE"]
    path = write_rows(tmp_path / "texts.jsonl", {"text": texts, "label": labels})
    attribute = Attributor(folder, methods="decompx")
    counts = attribute_files(attribute, path, tmp_path / "out", layout="thermostat")
    found = load(tmp_path / "out")
    assert set(found.column_names) == {
        "idx",
        "input_ids",
        "attributions",
        "label",
        "predictions",
        "error",
    }
    assert found.features["label"].names == ["NEGATIVE", "POSITIVE"]
    assert found["label"][:] == [1, 0, -1, -1, 1]
    expected = attribute({"text": texts})
    assert found["input_ids"][:] == expected["input_ids"]
    for one, other in zip(found["attributions"][:], expected["decompx"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert found["predictions"][0] == pytest.approx(expected["logits"][0], abs=1e-6)
    assert found["error"][3] == "label 'sideways' is not a class of the model: NEGATIVE, POSITIVE"
    assert counts.errors == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "steam"}, "no engine 'steam'; known: local, ray"),
        ({"workers": 0}, "workers is 0"),
        ({"workers": 2}, "the local engine is one process"),
        ({"dtype": "int8"}, "no dtype 'int8'; known: float32, float16"),
        ({"layout": "round"}, "no layout 'round'; known: full, thermostat"),
        ({"rows_per_shard": 0}, "rows_per_shard is 0"),
        ({"layout": "thermostat"}, "the layout thermostat supports one method, and 2 are chosen"),
        (
            {"layout": "thermostat", "methods": ["globenc"], "id_column": "id"},
            "the layout thermostat has no column for ids: leave id_column out, or use full",
        ),
        ({"label_column": "stars"}, "texts.jsonl: it has no column stars; it has text"),
    ],
)
def test_options_and_data_are_checked_before_a_model_is_loaded(options, message, data, tmp_path):
    options = {"methods": ["globenc", "decompx"], **options}
    attribute = Attributor("no/such/model", methods=options.pop("methods"))
    with pytest.raises(ValueError, match=re.escape(message)):
        attribute_files(attribute, data, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_progress_ends_with_all_rows(folder, data, tmp_path):
    told = []
    attribute_files(
        Attributor(folder, methods=["globenc", "decompx"]),
        data,
        tmp_path / "out",
        rows_per_shard=10,
        progress=lambda done, rows: told.append((done, rows)),
    )
    assert told[0] == (0, 25)
    assert told[-1] == (pytest.approx(25), 25)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_description_says_what_the_scores_depend_on(folder, data, tmp_path):
    attribute_files(Attributor(folder), data, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "attributions.json").read_text())
    assert about["model"]["name"] == folder
    assert about["model"]["labels"] == ["NEGATIVE", "POSITIVE"]
    assert about["data"]["files"][0] | {"sha256": ""} == {"name": "texts.jsonl", "rows": 25, "sha256": ""}
    assert set(about["versions"]) == {"captum_globenc", "captum", "torch", "transformers"}


def test_scores_that_half_precision_does_not_hold_are_an_error_of_their_row(folder, tmp_path, load):
    model, tokenizer, _ = load_classifier(folder)
    texts = ["good film", "not bad", "a the"]
    attribute = Attributor(model, tokenizer, methods=["globenc", "decompx"])
    largest = [max(map(abs, row)) for row in attribute({"text": texts})["decompx"]]
    large = [it >= sorted(largest)[1] for it in largest]
    with torch.no_grad():
        model.classifier.weight *= 1.01 * 65504 / sorted(largest)[1]
    data = write_rows(tmp_path / "texts.jsonl", {"text": texts})
    counts = attribute_files(attribute, data, tmp_path / "out", dtype="float16")
    assert counts.errors == sum(large) == 2
    found = load(tmp_path / "out")
    for row, whole in zip(found, large, strict=True):
        said = "decompx gave scores too large for float16: choose a wider dtype" if whole else ""
        assert row["error"] == said
        assert (row["decompx"] == []) == (row["globenc"] == []) == whole
    weights = summarize(tmp_path / "out", "decompx", min_count=1)
    assert {it.word for it in weights} == set(texts[large.index(False)].split())
    assert attribute_files(attribute, data, tmp_path / "wide").errors == 0


def test_a_label_that_is_no_number_of_a_class_is_an_error_of_its_row(folder, tmp_path, load):
    data = write_rows(tmp_path / "x.parquet", {"text": ["good"] * 3, "label": [math.inf, 1.0, math.nan]})
    attribute_files(Attributor(folder), data, tmp_path / "out", layout="thermostat")
    found = load(tmp_path / "out")
    assert found["label"][:] == [-1, 1, -1]
    assert [error.partition(" is")[0] for error in found["error"][:]] == ["label inf", "", "label nan"]


def test_an_output_folder_with_the_data_is_rejected(folder, tmp_path):
    data = write_rows(tmp_path / "texts.csv", {"text": TEXTS})
    with pytest.raises(ValueError, match="contains the data: choose another folder"):
        attribute_files(Attributor(folder), data.parent, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["texts.csv"]


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_cannot_be_used_is_reported(device, folder, data, tmp_path):
    with pytest.raises(ValueError, match=f"cannot use device '{device}': "):
        attribute_files(Attributor(folder, device=device), data, tmp_path / "out")
