"""The examples of README and the pages in docs/ run as shown."""

import doctest
import inspect
import re

import pytest

import captum_globenc
from captum_globenc import Explanations
from captum_globenc.encoders.audio import AUDIO_ENCODERS
from captum_globenc.encoders.text import TEXT_ENCODERS
from captum_globenc.encoders.vision import VISION_ENCODERS
from captum_globenc.evaluation import METHODS
from captum_globenc.texts import load_default
from pages import ROOT, python_blocks

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = python_blocks(ROOT / "README.md")
    for block in blocks:
        exec(block, names)
    shown = re.findall(r"^print\(.*\)  # (.*)", "".join(blocks), re.MULTILINE)
    assert len(shown) == 4
    assert shown == capsys.readouterr().out.splitlines()
    assert Explanations.load("found.jsonl.gz") == names["found"]
    assert names["contrast"].headline == "POSITIVE minus NEGATIVE"
    assert len(names["table"]) == 2 * sum(len(it.tokens) for it in names["found"])
    assert "wonderful" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert names["scores"].shape == names["signed"].shape == names["summed"].shape == names["inputs"].shape
    assert names["scores"].sum(1).tolist() == pytest.approx([1, 1])
    tokens = names["batch"].tokens(0)
    assert tokens[names["scores"][0].argmax()] == "wonderful"


def test_the_first_screen_has_purpose_installation_example_and_picture():
    screen = "\n".join(README.splitlines()[:45])
    places = [
        screen.index(it) for it in ("Explain predictions", "pip install", "```python", "](docs/explain.svg)")
    ]
    assert places == sorted(places)
    (first, *_) = python_blocks(ROOT / "README.md")
    statements = [line for line in first.splitlines() if line]
    assert len(statements) <= 6
    assert len(README.split()) <= 1500


def test_the_calls_for_assistants_run(tmp_path, monkeypatch):
    page = ROOT / "llms.txt"
    numbered = re.findall(r"^(\d+)\. ", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert numbered == [str(number) for number in range(1, 11)]
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks(page):
        exec(block, names)
    assert names["delta"].abs().max() < 1e-3
    assert names["shares"].sum(1).tolist() == pytest.approx([1, 1])


def test_the_guide_on_evaluation_runs(capsys):
    with_methods_of_ones_own, over_ids, planted, *_ = python_blocks(ROOT / "docs/evaluation.md")
    try:
        exec(with_methods_of_ones_own, {})
    finally:
        METHODS.pop("rare-words", None)
    table = capsys.readouterr().out
    assert [line.split()[1] for line in table.splitlines() if "±" in line] == ["globenc", "rare-words"]
    exec(over_ids, {})
    exec(planted, dict(zip(("model", "tokenizer"), load_default(), strict=True)))


def test_the_guide_on_choosing_a_method_prints_the_shown_results():
    found = doctest.testfile(str(ROOT / "docs/choosing.md"), module_relative=False)
    assert found.attempted > 30
    assert found.failed == 0


def test_the_supported_families_are_the_ones_that_are_listed():
    page = (ROOT / "docs/supported-models.md").read_text(encoding="utf-8")
    table = " ".join(line for line in page.splitlines() if line.startswith("| "))
    ours = {spec.model_type for spec in (*TEXT_ENCODERS, *VISION_ENCODERS, *AUDIO_ENCODERS)}
    assert {name for name in ours if not re.search(rf"[ ,]{re.escape(name)}[ ,;]", table)} == set()
    assert f"supports [{len(ours)} families of encoders]" in README


def test_the_api_has_the_signatures_that_it_lists():
    section = (ROOT / "docs/api/overview.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"`(\.?)(\w+)\((.*?)\)`", re.sub(r"^\| ([^|]*) \|.*", r"\1", section, flags=re.MULTILINE)
    )
    owner, checked = None, 0
    for method, name, arguments in listed:
        if not method:
            owner = getattr(captum_globenc, name)
        called = getattr(owner, name) if method else owner
        known = [it for it in inspect.signature(called).parameters.values() if it.name != "self"]
        plain = inspect.Signature([it.replace(annotation=it.empty) for it in known])
        if arguments:
            begin = arguments.removesuffix("...").rstrip(", ")
            assert str(plain).replace("'", '"')[1:].startswith(begin), (name, str(plain))
            assert arguments.endswith("...") or len(begin) == len(str(plain)) - 2, (name, str(plain))
            checked += 1
    assert checked > 10
