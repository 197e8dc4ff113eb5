"""The saved tutorials ran from top to bottom without errors, are small, and name no local folders.

That they run, and give what is saved, is what `make check-tutorials` holds.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
LARGEST = 400_000


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_ten_tutorials():
    assert [path.name[:2] for path in TUTORIALS] == [f"{number:02d}" for number in range(1, 11)]


def test_cells_ran_once_and_in_order(cells):
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_outputs_hold_no_errors_and_no_warnings(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_outputs_name_no_folder_of_a_machine(cells):
    saved = json.dumps([cell.get("outputs") for cell in cells if cell["cell_type"] == "code"])
    images = re.sub(r'"image/png": "[^"]*"', "", saved)
    assert not re.search(r"/(tmp|home|root|Users|opt|usr)/|site-packages|[A-Z]:\\\\", images)


def test_a_tutorial_is_small(path):
    assert path.stat().st_size < LARGEST


def test_every_link_to_a_file_leads_somewhere(path, cells):
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\((?!http|#)([^)#]+)", prose)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_layers_of_exact_differences_are_numbered_from_the_embeddings(path, cells):
    # They have a row more than the model has layers: without first=0 the figure has a layer too many.
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    method = re.findall(r"(\w+) = TransformerDeepLift\(", "".join(sources))
    rows = [
        name for it in method for name in re.findall(rf"(\w+) = {it}\.attribute_layers", "".join(sources))
    ]
    drawn = [line for it in sources for line in it.splitlines() if "plot_layers(" in line]
    for line in drawn:
        assert ("first=0" in line) == any(f"plot_layers({name}" in line for name in rows)
    assert not path.name.startswith("07") or (rows and drawn)


def test_each_tells_how_to_use_a_model_from_the_hub(cells):
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "hub" in prose
    assert "from_pretrained" in prose
