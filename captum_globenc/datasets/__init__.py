"""Attributions of whole data sets: a callable for `datasets` and Ray Data, shards on disk, summaries."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.datasets.attributor import Attributor
    from captum_globenc.datasets.explanations import load_attributions, load_explanations
    from captum_globenc.datasets.run import attribute_files
    from captum_globenc.datasets.shards import Counts
    from captum_globenc.datasets.summary import WordWeight, summarize
    from captum_globenc.texts.methods import METHODS

__all__ = [
    "METHODS",
    "Attributor",
    "Counts",
    "WordWeight",
    "attribute_files",
    "load_attributions",
    "load_explanations",
    "summarize",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "METHODS": ".texts.methods",
        "Attributor": "attributor",
        "Counts": "shards",
        "WordWeight": "summary",
        "attribute_files": "run",
        "load_attributions": "explanations",
        "load_explanations": "explanations",
        "summarize": "summary",
    },
)
