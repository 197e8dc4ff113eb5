"""The project's pages, and the Python that they show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)
