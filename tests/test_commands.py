"""The commands of README and guides run as shown; exceptions are listed with the reason.

scripts/commands.py has the lists, and also runs commands that take too long for the suite.
"""

import io
import re
import shlex
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

from captum_globenc.app.cli import main
from pages import ROOT, load_script

commands = load_script("commands")
PAGES = [page for page in (*commands.PAGES, commands.HELP) if list(commands.shown(page))]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in commands.PAGES}
ALL = [command for page in PAGES for command in commands.shown(page)]
WRITES = {"--html", "-o", "--out", "--save", "--csv", "--figure", "--picture"}
BLOCKS = {"python", "shell", "toml", "bibtex", "{include}", "{toctree}"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the files that the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    commands.prepare(folder)
    commands.prepare_media(folder)
    return folder


def parsed(command):
    """Each program's arguments in a command, as a shell reads them, and the file of its standard input."""
    words = shlex.shlex(command, posix=True, punctuation_chars="<>|&;")
    words.whitespace_split = True
    programs = [[]]
    for word in words:
        if word == "&&":
            programs.append([])
        else:
            programs[-1].append(word)
    for name, *arguments in programs:
        source = arguments[-1] if "<" in arguments[-2:] else ""
        arguments = arguments[:-2] if source else arguments
        assert name == "captum-globenc"
        assert not set(arguments) & set("<>|&;")
        yield arguments, source


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    for command in commands.shown(page):
        if commands.left_out(command, commands.SETS_UP | commands.TAKES_LONG):
            continue
        for arguments, source in parsed(command):
            given = Path(source).read_bytes() if source else b""
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
            files = [Path(path) for option, path in pairwise(arguments) if option in WRITES]
            for file in filter(Path.is_file, files):
                file.unlink()  # what a command before it wrote
            assert main(arguments) == 0, capsys.readouterr()
            written = capsys.readouterr()
            assert all(file.exists() for file in files)
            assert written.out or files
            # What was written is said on standard error; nothing else is.
            assert [it for it in written.err.splitlines() if not it.startswith("wrote ")] == []


def test_the_first_command_prints_the_sum_that_the_readme_shows(run):
    arguments = next(it for it in commands.shown("README.md") if it.startswith("captum-globenc explain"))
    out, _ = run(*shlex.split(arguments)[1:])
    (said,) = re.findall(r'sum of the contributions: "([^"]+)"', TEXTS["README.md"])
    assert said in out


@pytest.mark.parametrize("reasons", ["SETS_UP", "TAKES_LONG"])
def test_only_shown_commands_are_omitted(reasons):
    listed = getattr(commands, reasons)
    assert {commands.left_out(command, listed) for command in ALL} - {""} == set(listed.values())


@pytest.mark.parametrize("page", commands.PAGES)
def test_no_page_hides_a_command_from_these_tests(page):
    fences = re.findall(r"^```(\S*).*?^```$", TEXTS[page], re.MULTILINE | re.DOTALL)
    assert set(fences) <= BLOCKS
    assert not re.findall(r"^ {4}(?:\$ |pip|make|python3?|captum-globenc) .*", TEXTS[page], re.MULTILINE)


@pytest.mark.parametrize("page", commands.PAGES)
def test_targets_extras_and_scripts_of_a_page_exist(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r'pip install "\.\[([\w,]+)\]"', TEXTS[page])
    assert {extra for them in named for extra in them.split(",")} <= set(extras)
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"(?:^|`)(?:[A-Z_]+=\S+ )?make ([a-z-]+)", TEXTS[page], re.MULTILINE)
    assert [it for it in targets if f"\n{it}:" not in makefile] == []
    for script, options in re.findall(r"python ((?:scripts|benchmarks)/\w+\.py)([^`\n]*)", TEXTS[page]):
        source = (ROOT / script).read_text(encoding="utf-8")
        assert [it for it in re.findall(r"--[a-z-]+", options) if f'"{it}"' not in source] == []
