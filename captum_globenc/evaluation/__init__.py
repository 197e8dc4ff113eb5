"""Comparison of attribution methods on a model and texts: `evaluate` and its registries."""

from captum_globenc.evaluation.data import SENTENCES, Example, read_examples, sample
from captum_globenc.evaluation.metrics import (
    ANSWER_METRICS,
    DEFAULT_METRICS,
    METRICS,
    Metric,
    register_metric,
)
from captum_globenc.evaluation.planted import SHORTCUTS, plant, without
from captum_globenc.evaluation.report import Evaluation
from captum_globenc.evaluation.run import ANSWER_METHODS, DEFAULT_METHODS, evaluate
from captum_globenc.evaluation.sanity import SanityChecks
from captum_globenc.evaluation.subject import Batch, Subject
from captum_globenc.evaluation.variants import redrawn, with_folded_gains, with_permuted_heads
from captum_globenc.texts.methods import METHODS, Method, register_method

__all__ = [
    "ANSWER_METHODS",
    "ANSWER_METRICS",
    "DEFAULT_METHODS",
    "DEFAULT_METRICS",
    "METHODS",
    "METRICS",
    "SENTENCES",
    "SHORTCUTS",
    "Batch",
    "Evaluation",
    "Example",
    "Method",
    "Metric",
    "SanityChecks",
    "Subject",
    "evaluate",
    "plant",
    "read_examples",
    "redrawn",
    "register_method",
    "register_metric",
    "sample",
    "with_folded_gains",
    "with_permuted_heads",
    "without",
]
