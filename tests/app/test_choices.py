"""Names that are known before torch is imported equal the registered names; shell completion."""

import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from captum_globenc.app import choices
from captum_globenc.app.cli import app
from captum_globenc.decomposition.aggregation import AGGREGATIONS
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.evaluation import METRICS
from captum_globenc.media.explaining import METHODS as FILE_METHODS
from captum_globenc.metrics import REMOVALS
from captum_globenc.texts import BASELINES, METHODS
from checkpoints import ENVIRONMENT

LISTS = {
    "AGGREGATIONS": AGGREGATIONS,
    "BASELINES": BASELINES,
    "FILE_METHODS": FILE_METHODS,
    "METHODS": METHODS,
    "METRICS": METRICS,
    "MIXINGS": MIXINGS,
    "REMOVALS": REMOVALS,
}


@pytest.mark.parametrize("name", choices.__all__)
def test_the_choices_equal_the_registered_names(name):
    assert sorted(getattr(choices, name)) == sorted(LISTS[name])


COMPLETED = {
    "explain --method transf": [name for name in METHODS if name.startswith("transf")],
    "explain --method lime,fea": ["lime,feature-ablation"],
    "explain --mixing N-R": ["N-Res", "N-ResLN"],
    "explain --baseline ": ["mask", "mean", "pad", "zero"],
    "evaluate --metrics acc": ["accuracy"],
    "evaluate --removal d": ["delete"],
    "attribute --methods dee": ["deep-lift"],
    "explain --no-sp": ["--no-special"],
    "su": ["summarize"],
}


@pytest.mark.parametrize("typed", COMPLETED)
def test_a_shell_completes(typed):
    words = f"captum-globenc {typed}"
    asked = {
        "_CAPTUM_GLOBENC_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_TYPER_COMPLETE_ARGS": words,
    }
    result = CliRunner().invoke(app, [], env=asked, prog_name="captum-globenc")
    assert result.stdout.split() == COMPLETED[typed]


def test_a_script_for_the_shell_is_shown(monkeypatch):
    # Which shell a test runs in is not known: it is named.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="captum-globenc")
    assert "_CAPTUM_GLOBENC_COMPLETE" in result.stdout


@pytest.mark.parametrize("command", [it.name or it.callback.__name__ for it in app.registered_commands])
def test_every_command_has_a_short_help(command):
    result = CliRunner().invoke(app, [command, "-h"])
    assert result.exit_code == 0
    assert f" {command} [OPTIONS]" in result.stdout


@pytest.mark.parametrize("command", ["explain", "evaluate"])
def test_the_help_has_examples_that_parse(command):
    out = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    shown = [line.strip() for line in out.partition("Examples:")[2].splitlines() if line.strip()]
    assert len(shown) >= 2
    click = typer.main.get_command(app)
    for line in shown:
        program, name, *arguments = shlex.split(line.partition("<")[0])
        assert (program, name) == ("captum-globenc", command)
        click.commands[name].make_context(name, arguments)


MISTAKES = [
    ("explain good --method magic", "no method magic; known: globenc, transformer-deep-lift,"),
    ("explain good --mixing magic", "no mixing magic; known: W, "),
    ("explain good --baseline magic", "no baseline magic; known: mask, mean, pad, zero"),
    ("explain good --top 0", "--top"),
    ("explain good -o no/such/page.html", "cannot write no/such/page.html: no such folder"),
    ("explain ' '", "a text is empty"),
    ("evaluate --methods magic", "no method magic; known: globenc"),
    ("evaluate --metrics magic", "no metric magic; known: comprehensiveness"),
    ("evaluate --removal magic", "no removal magic; known: mask, delete, pad"),
    ("evaluate --batch-size 0", "--batch-size"),
    ("attribute --data x --out y --methods magic", "no method magic; known: globenc"),
]


def test_user_errors_are_reported_before_torch_is_imported():
    script = (
        "import sys\n"
        "from captum_globenc.app.cli import main\n"
        f"status = [main(arguments) for arguments in {[shlex.split(typed) for typed, _ in MISTAKES]!r}]\n"
        "print(set(status), {'torch', 'transformers', 'captum'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    for line, (typed, message) in zip(done.stderr.splitlines(), MISTAKES, strict=True):
        assert message in line, typed
    assert done.stdout == "{2} set()\n"


def test_every_name_can_be_listed(run):
    for command in (
        ("explain", "good", "--method"),
        ("evaluate", "--methods"),
        ("evaluate", "--method"),
        ("attribute", "--data", "x.csv", "--out", "y", "--methods"),
        ("attribute", "--data", "x.csv", "--out", "y", "--method"),
    ):
        lines = run(*command, "list")[0].splitlines()
        rows = [line.split() for line in lines if line.startswith("  ")]
        assert [row[0] for row in rows] == sorted(METHODS, key=[row[0] for row in rows].index)
        assert {row[0]: row[1] for row in rows} == {name: it.kind for name, it in METHODS.items()}
