"""Adapters to ferret and interpreto: the methods of `explain` as explainers for both libraries."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.extras import optional
from captum_globenc.results.explanation import Explanation
from captum_globenc.texts import explain
from captum_globenc.texts.classes import class_names

__all__ = ["ferret_explainer", "interpreto_explainer"]


def ferret_explainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: str = "transformer-deep-lift",
    **options: Any,
) -> Any:
    """Return an explainer for ferret's `Benchmark(model, tokenizer, explainers=[...])`.

    Args:
        model: a sequence classifier.
        tokenizer: the model's tokenizer.
        method: the name of a method of :func:`captum_globenc.explain`.
        **options: further options of :func:`captum_globenc.explain`, such as `baseline`.

    Returns:
        A `ferret.explainers.BaseExplainer`.

    Raises:
        ImportError: ferret or one of its dependencies is not installed.
    """
    try:
        kinds: Any = import_module("ferret.explainers")
        explanations: Any = import_module("ferret.explainers.explanation")
    except ImportError as error:
        raise ImportError(
            f"ferret cannot be imported ({error}). It requires older versions of transformers and captum "
            "than this package but runs with these: pip install --no-deps ferret-xai, then what is missing."
        ) from error

    class Explainer(kinds.BaseExplainer):  # type: ignore[misc]
        NAME = method

        def compute_feature_importance(self, text: str, target: int = 1, **_: Any) -> Any:
            found = _explained(text, model, tokenizer, method, target, options)
            return explanations.Explanation(
                text, found.tokens, np.array(found.scores[method]), self.NAME, target
            )

    return Explainer(model, tokenizer)


def interpreto_explainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: str = "transformer-deep-lift",
    **options: Any,
) -> Callable[..., list[Any]]:
    """Return a function with the signature of interpreto's explainers, for interpreto's metrics.

    Args:
        model: a sequence classifier.
        tokenizer: the model's tokenizer, with character offsets (a fast tokenizer).
        method: the name of a method of :func:`captum_globenc.explain`.
        **options: further options of :func:`captum_globenc.explain`, such as `baseline`.

    Returns:
        A function `explainer(inputs, targets=None)` that returns an `AttributionOutput` for each text: the
        scores of all tokens for one class. `inputs` is a text or a list of texts, `targets` one class index
        for all texts or one for each, by default the predicted classes. It raises `ValueError` if the
        numbers of targets and texts differ.

    Raises:
        ImportError: interpreto is not installed.
    """
    base: Any = optional("interpreto.attributions.base", "interpreto")

    def explainer(inputs: str | Sequence[str], targets: Any = None) -> list[Any]:
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        classes = [None] * len(texts) if targets is None else torch.as_tensor(targets).flatten().tolist()
        classes = classes * len(texts) if len(classes) == 1 else classes
        if len(classes) != len(texts):
            raise ValueError(f"there are {len(classes)} targets for {len(texts)} texts")
        names = class_names(model.config)
        outputs = []
        for text, number in zip(texts, classes, strict=True):
            found = _explained(text, model, tokenizer, method, number, options)
            encoded = tokenizer(
                text, return_tensors="pt", return_offsets_mapping=True, truncation=found.truncated,
                max_length=len(found.tokens),
            )  # fmt: skip
            outputs.append(
                base.AttributionOutput(
                    attributions=torch.tensor([found.scores[method]]),
                    elements=found.tokens,
                    model_inputs_to_explain=encoded.to(model.device),
                    targets=torch.tensor([names.index(found.target)]),
                    model_task=base.ModelTask.CLASSIFICATION,
                )
            )
        return outputs

    return explainer


def _explained(
    text: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: str,
    number: int | None,
    options: Any,
) -> Explanation:
    """Explain the class with the index `number`, or the predicted class if `number` is None."""
    names = class_names(model.config)
    # `explain` rejects an index that is out of range.
    target = names[number] if number is not None and 0 <= number < len(names) else number
    found = explain([text], model, tokenizer, methods=[method], target=target, **options)
    return max(found, key=lambda it: it.value)
