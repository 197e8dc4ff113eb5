"""The page on adding a family runs, its tables say what the code does, and the API pages hold all of it."""

import doctest
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from captum_globenc.encoders import registry
from captum_globenc.encoders.refused import REFUSED

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "adding-a-family.md"


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


@pytest.mark.parametrize(
    "module", ["", ".datasets", ".encoders", ".evaluation", ".metrics", ".proofs", ".texts", ".visualization"]
)
def test_the_api_pages_hold_every_public_function_and_class(module):
    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    public = import_module(f"captum_globenc{module}")
    described = {name.rpartition(".")[2] for name in re.findall(r":: ([\w.]+)", pages)}
    objects = {name: getattr(public, name) for name in public.__all__}
    ours = {name for name, it in objects.items() if inspect.isfunction(it) or inspect.isclass(it)}
    assert ours
    assert ours - described == set()
