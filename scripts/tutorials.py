"""Execute the tutorials, each from top to bottom in a fresh kernel, and save what they put out.

    python scripts/tutorials.py                     all, in place
    python scripts/tutorials.py tutorials/01*.ipynb some
    python scripts/tutorials.py --check             leave the files; fail where saved outputs are out of date

A cell that raises, says anything on stderr or names a folder of this machine is an error.
"""

import argparse
import base64
import io
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TUTORIALS = ROOT / "tutorials"
CELL_SECONDS = 600
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.(\d+))?(?:e[-+]?\d+)?(%?)")
COLOURS = 256
"""Colours of a saved figure: charts need no more, and take half the space."""
FOLDERS = {str(ROOT), sys.prefix, str(Path.home()), tempfile.gettempdir()} - {"/"}


def execute(path: Path) -> NotebookNode:
    """Run a notebook in a kernel of its own and return it with its outputs, tidied."""
    notebook = nbformat.read(path, as_version=4)
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index:02d}"
        cell.metadata = {}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    # What cells say on stderr comes as an output; this is the kernel's own, on its sockets.
    client.execute(stderr=subprocess.DEVNULL)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            tidy(output)
    return notebook


def tidy(output: NotebookNode) -> None:
    """Drop what a reader of the saved notebook does not need, and make figures small."""
    output.pop("metadata", None)
    if output.output_type != "stream":
        output.metadata = {}
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = small(data["image/png"])
    if len(data) > 1:  # "<Figure size ...>" and "<IPython.core.display.HTML object>" say nothing
        data.pop("text/plain", None)


def small(encoded: str) -> str:
    """Return a figure with few colours."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    buffer = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def texts(notebook: NotebookNode) -> Iterator[tuple[int, str, str]]:
    """Yield every text that a notebook has put out: the cell, the stream or type, the text."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                yield index, output.name, output.text
            for kind, text in output.get("data", {}).items():
                if kind.startswith("text/"):
                    yield index, kind, text


def faults(notebook: NotebookNode) -> Iterator[str]:
    """Say what a tutorial must not show."""
    for index, kind, text in texts(notebook):
        if kind == "stderr":
            yield f"cell {index} says on stderr: {text.strip()}"
        for folder in FOLDERS:
            if folder in text:
                yield f"cell {index} names a folder of this machine: {folder}"


def close(saved: re.Match[str], new: re.Match[str]) -> bool:
    """Whether two numbers are within 2 %, or one step of the last digit shown; counts are equal."""
    values = [float(number[0].rstrip("%")) for number in (saved, new)]
    digits, percent = saved.groups(default="")
    step = 10.0 ** -len(digits) if digits or percent else 0.0
    return math.isclose(*values, rel_tol=0.02, abs_tol=1.01 * step)


def changes(saved: NotebookNode, new: NotebookNode) -> Iterator[str]:
    """Say which texts differ by more than the arithmetic of another machine would make them."""
    before, after = list(texts(saved)), list(texts(new))
    if [text[:2] for text in before] != [text[:2] for text in after]:
        yield "other cells have outputs"
        return
    for (index, _, old), (*_, now) in zip(before, after, strict=True):
        same = NUMBER.sub("0", old).split() == NUMBER.sub("0", now).split()
        pairs = zip(NUMBER.finditer(old), NUMBER.finditer(now), strict=False)
        if not (same and all(close(a, b) for a, b in pairs)):
            yield f"cell {index} is saved with\n{old}\nand gives\n{now}"


def main() -> int:
    """Execute the notebooks that are asked for; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(TUTORIALS.glob("*.ipynb")))
    parser.add_argument("--check", action="store_true", help="compare with the saved outputs, write nothing")
    arguments = parser.parse_args()
    # The kernels inherit these: nothing is loaded from the network, and no progress bars.
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm would like ipywidgets, for bars
    }
    failed = 0
    for path in arguments.notebooks:
        began = time.perf_counter()
        try:
            notebook = execute(path)
            found = [*faults(notebook)]
            if arguments.check:
                found += changes(nbformat.read(path, as_version=4), notebook)
        except CellExecutionError as error:
            found = [re.sub(r"\x1b\[[0-9;]*m", "", str(error))]
        if not found and not arguments.check:
            nbformat.write(notebook, path)
        failed += bool(found)
        print(f"{path.name}: {'FAILED' if found else 'ok'}, {time.perf_counter() - began:.0f} s", flush=True)
        print(*found, sep="\n", end="\n" if found else "")
    return failed


if __name__ == "__main__":
    sys.exit(main())
