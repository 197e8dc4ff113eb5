"""Explain the predictions of text models: load models, compute scores, merge tokens into words."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.results.explanation import Explanation
    from captum_globenc.results.explanations import Explanations
    from captum_globenc.texts.default import load_default
    from captum_globenc.texts.explaining import explain
    from captum_globenc.texts.loading import load_classifier
    from captum_globenc.texts.methods import METHODS
    from captum_globenc.texts.pieces import readable_tokens
    from captum_globenc.texts.request import BASELINES
    from captum_globenc.texts.tasks.similarity import TokenMatrix, similarity_matrix
    from captum_globenc.texts.words import REDUCTIONS, Word, find_words, merge_scores, token_scores

__all__ = [
    "BASELINES",
    "METHODS",
    "REDUCTIONS",
    "Explanation",
    "Explanations",
    "TokenMatrix",
    "Word",
    "explain",
    "find_words",
    "load_classifier",
    "load_default",
    "merge_scores",
    "readable_tokens",
    "similarity_matrix",
    "token_scores",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "BASELINES": "request",
        "METHODS": "methods",
        "REDUCTIONS": "words",
        "Explanation": ".results.explanation",
        "Explanations": ".results.explanations",
        "TokenMatrix": "tasks.similarity",
        "Word": "words",
        "explain": "explaining",
        "find_words": "words",
        "load_classifier": "loading",
        "load_default": "default",
        "merge_scores": "words",
        "readable_tokens": "pieces",
        "similarity_matrix": "tasks.similarity",
        "token_scores": "words",
    },
)
