"""Adapters to ferret and interpreto: the methods of `explain` as explainers that these evaluate."""

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
        tokenizer: its tokenizer.
        method: one of the methods of :func:`captum_globenc.explain`.
        **options: of :func:`captum_globenc.explain`, such as `baseline`.

    Returns:
        An instance of a `ferret.explainers.BaseExplainer`, called as any other with a text and a target.

    Raises:
        ImportError: ferret is not installed, or lacks what it imports.
    """
    try:
        kinds: Any = import_module("ferret.explainers")
        explanations: Any = import_module("ferret.explainers.explanation")
    except ImportError as error:
        raise ImportError(
            f"ferret cannot be imported ({error}). It asks for older versions of transformers and captum "
            "than this package, and runs with these: pip install --no-deps ferret-xai, and what is missing."
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
    """Return an explainer that is called as those of interpreto are, whose output its metrics take.

    Args:
        model: a sequence classifier.
        tokenizer: its tokenizer, one that tells where tokens stand.
        method: one of the methods of :func:`captum_globenc.explain`.
        **options: of :func:`captum_globenc.explain`, such as `baseline`.

    Returns:
        A function of a text or several, and of classes, one for all or one for each (left out, the predicted
        ones), that returns an `AttributionOutput` for each text: scores of all tokens, for one class.

    Raises:
        ImportError: interpreto is not installed.
        ValueError: when it is called: there are not as many classes as texts.
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
    """Explain a class by its number, whatever the names of classes are; left out, the likeliest."""
    names = class_names(model.config)
    # A number that is none of a class is told to be none.
    target = names[number] if number is not None and 0 <= number < len(names) else number
    found = explain([text], model, tokenizer, methods=[method], target=target, **options)
    return max(found, key=lambda it: it.value)
