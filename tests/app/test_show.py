"""`captum-globenc show` draws saved explanations as before, without their model."""

import gzip
import json
import os

import pytest

from captum_globenc import Explanations

TEXTS = ("the plot is bad", "unhappy but [red] good , great")


@pytest.mark.parametrize("name", ["saved.jsonl", "saved.jsonl.gz"])
def test_a_saved_file_is_drawn_again_as_it_was(run, folder, tmp_path, name):
    saved, page = tmp_path / name, tmp_path / "page.html"
    command = ("explain", *TEXTS, "--model", folder, "--layers", "--pair", "a film")
    out, err = run(*command, "--save", saved)
    assert err == f"wrote {saved}\n"
    assert run("show", saved) == (out, "")
    assert run(*command, "--html", page)[1] == f"wrote {page}\n"
    again = tmp_path / "again.html"
    assert run("show", saved, "--html", again) == ("", f"wrote {again}\n")
    assert again.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


def test_json_lines_equal_the_saved_file(run, folder, tmp_path):
    saved = tmp_path / "saved.jsonl.gz"
    out, _ = run("explain", *TEXTS, "--model", folder, "--json", "--save", saved)
    printed = tmp_path / "printed"
    printed.write_text(out, encoding="utf-8")
    assert Explanations.load(printed) == Explanations.load(saved)
    lines = gzip.decompress(saved.read_bytes()).decode().splitlines()
    assert list(map(json.loads, lines)) == list(map(json.loads, out.splitlines()))


def test_unreadable_and_unwritable_files_are_reported_in_one_line(failing, run, folder, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "a"}\n')
    assert failing("show", tmp_path / "none") == f"error: cannot read {tmp_path / 'none'}: {os.strerror(2)}\n"
    assert failing("show", other).startswith(f"error: {other}, line 1: not an explanation")
    lost = tmp_path / "no" / "file"
    assert failing("explain", "good", "--model", folder, "--save", lost) == (
        f"error: cannot write {lost}: no such folder\n"
    )
    saved = tmp_path / "saved"
    run("explain", "good", "--model", folder, "--save", saved)
    assert failing("show", saved, "--html", lost) == f"error: cannot write {lost}: {os.strerror(2)}\n"
