"""Run what proves the package at the corners of the versions that it takes, and print a table.

    python scripts/versions.py              every corner; one that cannot be had is told with the reason
    python scripts/versions.py old-models   some; one that cannot be had is a failure

Each corner has an environment of its own, which is removed when it is done. pip gets its packages from where
it is told to: `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` keeps torch small.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
SUITES = {
    "proofs": "tests/proofs/test_families.py",
    "Captum's contract": "tests/attr/test_captum.py",
    "command line": "tests/app/test_cli.py",
}
ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}


@dataclass(frozen=True)
class Corner:
    """A version of each."""

    python: str
    torch: str
    transformers: str
    captum: str
    numpy: str


CORNERS = {
    "oldest": Corner("3.11", torch="2.6.0", transformers="4.57.6", captum="0.8.0", numpy="1.26.4"),
    "old-models": Corner("3.11", torch="2.13.0", transformers="4.57.6", captum="0.9.0", numpy="2.4.6"),
    "old-numbers": Corner("3.11", torch="2.13.0", transformers="5.24.0", captum="0.8.0", numpy="1.26.4"),
    "python-3.12": Corner("3.12", torch="2.8.0", transformers="5.0.0", captum="0.8.0", numpy="1.26.4"),
    "python-3.13": Corner("3.13", torch="2.11.0", transformers="5.10.1", captum="0.9.0", numpy="2.1.3"),
    "newest": Corner("3.14", torch="2.15.0", transformers="5.24.0", captum="0.9.0", numpy="2.5.5"),
}


class NotToBeHadError(Exception):
    """Why an environment cannot be made."""


def interpreter(version: str) -> str:
    """Return the path of a Python of a version, as `python3.12` or from pyenv."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for path in (shutil.which(f"python{version}"), *pyenv):
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return str(path)
    raise NotToBeHadError(f"no Python {version} on this machine")


def make(corner: Corner, folder: Path) -> str:
    """Make the environment of a corner, and return its Python."""
    python = str(folder / "bin/python")
    pins = [f"{name}=={version}" for name, version in asdict(corner).items() if name != "python"]
    ours = ["--editable", f"{ROOT}[demo,evaluate]", "ipython", "pytest"]
    for command in (
        [interpreter(corner.python), "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "--quiet", "--no-compile", *pins, *ours],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            reason = (reasons or [f"{command[2]} failed"])[-1]
            raise NotToBeHadError(reason.removeprefix("ERROR: "))
    return python


def prove(python: str, suite: str) -> str:
    """Run the tests of a suite, and return how they went."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={report.name}",
            suite,
        ]
        status = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, stdout=sys.stderr).returncode
        counts = (
            {} if os.path.getsize(report.name) == 0 else ElementTree.parse(report.name).getroot()[0].attrib
        )
    if status:
        return (
            f"✗ {int(counts.get('failures', 0)) + int(counts.get('errors', 0))} of {counts.get('tests', 0)}"
        )
    return f"✓ {int(counts['tests']) - int(counts['skipped'])}"


def absent(python: str) -> str:
    """Return the families that the version of transformers does not have."""
    command = [python, "-c", "import families; print(', '.join(families.ABSENT))"]
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stdout.strip()


def run(corner: Corner) -> list[str]:
    """Return a corner's cells: how its suites went, or why it cannot be had, and the families it lacks."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            python = make(corner, Path(folder))
        except NotToBeHadError as error:
            return [f"not run: {error}", *[""] * len(SUITES)]
        return [*(prove(python, suite) for suite in SUITES.values()), absent(python)]


def main() -> int:
    """Print the table, a row a corner as soon as it is done; fail where something does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corner", nargs="*", choices=[*CORNERS, []], help="left out: all")
    chosen = parser.parse_args().corner
    head = ["", "Python", "torch", "transformers", "captum", "numpy", *SUITES, "families that it lacks"]
    print(f"| {' | '.join(head)} |", "|---" * len(head) + "|", sep="\n", flush=True)
    failed = False
    for name in chosen or CORNERS:
        cells = run(CORNERS[name])
        print(f"| {' | '.join([name, *asdict(CORNERS[name]).values(), *cells])} |", flush=True)
        failed |= any(cell.startswith("✗") or (chosen and cell.startswith("not run")) for cell in cells)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
