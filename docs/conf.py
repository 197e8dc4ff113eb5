"""The documentation site: pages and tutorials by MyST, the API from docstrings. Built without a network."""

import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "captum_globenc"
author = "The captum_globenc developers"
release = version = installed("captum_globenc")
html_title = f"{project} {release}"

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "code"  # docstrings mark code with single backquotes

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# `make tutorials` executes them, and saves what is shown here.
nb_execution_mode = "off"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = False  # metrics are made of functions with fewer arguments
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["outputs.css"]
html_show_sourcelink = False
html_show_copyright = False


def copy_tutorials(app):
    """Bring the notebooks into the source folder: Sphinx reads nothing outside of it.

    Their links to pages lose the folder that parts them in the repository.
    """
    target = HERE / "tutorials"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in sorted((ROOT / "tutorials").glob("*.ipynb")):
        text = notebook.read_text(encoding="utf-8").replace("](../docs/", "](../")
        (target / notebook.name).write_text(text, encoding="utf-8")


def write_commands(app):
    """Make the reference of the command line of its own help."""
    command = [sys.executable, "-m", "typer", "captum_globenc.app.cli", "utils", "docs"]
    text = subprocess.run(
        [*command, "--name", "captum-globenc"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    (HERE / "command-line.md").write_text(text.replace("# `captum-globenc`", "# The command line", 1))


def keep_links_inside(app, name, source):
    """Point links to the README of the data, outside of the folder, to the page that includes it."""
    source[0] = source[0].replace("](../captum_globenc/data/README.md", "](default-model.md")


def setup(app):
    """Hook both in ahead of reading."""
    app.connect("builder-inited", copy_tutorials)
    app.connect("builder-inited", write_commands)
    app.connect("source-read", keep_links_inside)
