"""The layout of the package: few top-level modules, no circular imports, a page that names every folder."""

import importlib
import re
import tomllib
from graphlib import TopologicalSorter

import grimp
import pytest
import yaml

from pages import ROOT

PACKAGE = ROOT / "captum_globenc"
MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_first_docstring_line(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert re.match(r'r?"""[A-Z`].', lines[0])


@pytest.mark.parametrize("folder", ["benchmarks", "scripts"])
def test_scripts_find_what_they_import(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / folder))
    paths = sorted((ROOT / folder).glob("*.py"))
    ours = {"captum_globenc", *(path.stem for path in paths)}
    for path in paths:
        try:
            importlib.import_module(path.stem)
        except ModuleNotFoundError as error:
            # Some packages come with an extra, such as the extra of the tutorials.
            if error.name.partition(".")[0] in ours:
                raise


def test_few_modules_are_directly_in_the_package():
    assert len([path for path in MODULES if path.parent == PACKAGE]) <= 8


def test_no_modules_import_each_other_in_a_circle():
    # The linter compares siblings; a module that imports through its own wing's door goes in a circle, too.
    graph = grimp.build_graph("captum_globenc", cache_dir=None)
    assert len(graph.modules) == len(MODULES)
    # Raises CycleError, which names the circle.
    TopologicalSorter({it: graph.find_modules_directly_imported_by(it) for it in graph.modules}).prepare()


def test_one_module_alone_imports_the_private_modules_of_captum():
    found = {path.name for path in MODULES if "captum._utils" in path.read_text(encoding="utf-8")}
    assert found == {"captum_api.py"}


WINGS = {
    path.parent.relative_to(PACKAGE).as_posix()
    for path in MODULES
    if path.name == "__init__.py" and path.parent != PACKAGE
}


def test_the_page_names_every_folder_and_only_existing_files():
    page = (ROOT / "docs/house.md").read_text(encoding="utf-8")
    assert {wing for wing in WINGS if f"| `{wing}/` |" not in page} == set()
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", page)
    assert len(named) > 10
    assert {name for name in named if not any((root / name).exists() for root in (ROOT, PACKAGE))} == set()


def test_the_tests_mirror_the_package():
    assert {wing for wing in WINGS if not list((ROOT / "tests" / wing).glob("test_*.py"))} == set()


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    shared = {"title": "name", "version": "version", "license": "license"}
    assert {name: citation[name] for name in shared} == {name: project[of] for name, of in shared.items()}
    assert citation["references"][0]["url"] in (ROOT / "README.md").read_text(encoding="utf-8")
