"""What the README and the pages in docs/ show runs as it stands."""

import doctest
import re

import pytest

from captum_globenc import Explanations
from captum_globenc.encoders.audio import AUDIO_ENCODERS
from captum_globenc.encoders.text import TEXT_ENCODERS
from captum_globenc.encoders.vision import VISION_ENCODERS
from captum_globenc.evaluation import METHODS
from captum_globenc.texts import load_default
from pages import ROOT, python_blocks


def test_the_quickstart_runs_and_says_what_it_claims(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in python_blocks(ROOT / "README.md"):
        exec(block, names)
    assert Explanations.load("found.jsonl.gz") == names["found"]
    assert names["first"].top(1)[0][0] == "wonderful"
    assert names["first"].spans([(0, 17)])[0][0] == "The plot is thin,"
    assert names["contrast"].headline.endswith("explained: POSITIVE, less NEGATIVE")
    assert len(names["table"]) == 2 * sum(len(it.tokens) for it in names["found"])
    assert "wonderful" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert names["scores"].shape == names["compared"].shape == names["inputs"].shape
    assert names["scores"].sum(1).tolist() == pytest.approx([1, 1])
    tokens = names["batch"].tokens(0)
    assert tokens[names["scores"][0].argmax()] == "wonderful"


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


def test_the_guide_on_choosing_a_method_is_what_comes_out():
    found = doctest.testfile(str(ROOT / "docs/choosing.md"), module_relative=False)
    assert found.attempted > 30
    assert found.failed == 0


def test_the_supported_families_are_the_ones_it_lists():
    section = (ROOT / "README.md").read_text().split("## Supported models")[1].split("##")[0]
    table = " ".join(line for line in section.splitlines() if line.startswith("| "))
    ours = {spec.model_type for spec in (*TEXT_ENCODERS, *VISION_ENCODERS, *AUDIO_ENCODERS)}
    assert {name for name in ours if not re.search(rf"[ ,]{re.escape(name)}[ ,;]", table)} == set()


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\((?!http|#)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
