"""The page on adding a family runs, and its tables say what the code does."""

import doctest
import re
from pathlib import Path

import pytest

from captum_globenc.encoders import registry
from captum_globenc.encoders.refused import REFUSED

PAGE = Path(__file__).parent.parent / "docs/adding-a-family.md"


def rows(columns):
    """The rows of that many columns of the page's tables, each a tuple of cells."""
    cells = [
        re.split(r" *\| *", line.strip("| ")) for line in PAGE.read_text().split("\n") if line[:1] == "|"
    ]
    return {tuple(row) for row in cells if len(row) == columns}


def test_the_page_on_adding_a_family_runs(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    found = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 15
    assert found.failed == 0


def test_the_page_lists_every_refused_family_with_its_reason():
    assert rows(2) >= set(REFUSED.items())


def test_the_page_lists_every_refused_setting_with_its_reason():
    refused = {
        (spec.model_type, setting, reason)
        for spec in registry._REGISTRY.values()
        for setting, reason in spec.refuses.items()
    }
    assert rows(3) >= refused
    assert refused


def test_the_page_leaves_no_family_behind():
    with pytest.raises(KeyError):
        registry._REGISTRY["our-bert"]
