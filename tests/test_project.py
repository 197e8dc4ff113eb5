"""The version, the CI workflow and the templates of the repository."""

import re
import subprocess
import sys
import tomllib

import yaml

import captum_globenc
from pages import ROOT


def test_the_version_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert captum_globenc.__version__ == project["version"]


def test_the_version_is_looked_up_lazily():
    program = (
        "import sys; before = set(sys.modules); import captum_globenc;"
        "made = set(sys.modules) - before; print('importlib.metadata' in made, 'torch' in made);"
        "captum_globenc.__version__; print('importlib.metadata' in set(sys.modules) - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert ran.stdout.split() == ["False", "False", "True"]


def test_the_workflow_runs_every_part_of_the_ci_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["check"]
    parts = re.findall("^make .*$", (ROOT / ".ci/run").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert job["strategy"]["matrix"]["part"] == parts
    assert job["steps"][-1]["run"] == "${{ matrix.part }}"
    assert len(parts) > 5


def test_every_issue_form_has_what_github_requires():
    forms = [it for it in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if it.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= form.keys()
        assert all(it["type"] in ("input", "textarea") and it["attributes"]["label"] for it in form["body"])


def test_the_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0][
        "hooks"
    ]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    tools = {it.partition("$(BIN)/")[2].split()[0] for it in lint.splitlines() if "$(BIN)/" in it}
    assert {it["entry"].removeprefix(".venv/bin/").split()[0] for it in hooks} == tools
