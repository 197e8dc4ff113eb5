"""What is asked of an explanation: options that are known, classes that the model has, whose model it is.

Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts.classes import VALUE, class_of, problem_of
from captum_globenc.texts.methods import BASELINES, METHODS

if TYPE_CHECKING:
    from transformers import Pipeline

__all__ = ["check_options", "chosen_classes", "model_and_tokenizer"]


def check_options(
    methods: Sequence[str] | None = None,
    *,
    mixing: str = "N-Enc",
    baseline: str = "mask",
    target: str | int | None = None,
    against: str | int | None = None,
) -> None:
    """Check what can be checked before there is a model: see `explain`.

    Raises:
        ValueError: A name is not known, no method is chosen, or a class is held against itself.
    """
    if isinstance(methods, str) or (methods is not None and not methods):
        raise ValueError(f"methods is {methods!r}: a list of one or more of {', '.join(METHODS)}")
    for what, names, known in (
        ("method", methods or (), METHODS),
        ("mixing", [mixing], MIXINGS),
        ("baseline", [baseline], BASELINES),
    ):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"no {what} {', '.join(map(str, unknown))}; known: {', '.join(known)}")
    if None not in (target, against) and str(target).lower() == str(against).lower():
        raise ValueError(f"{against} is held against itself: choose two classes")


def chosen_classes(
    highest: Tensor,
    names: Sequence[str],
    target: str | int | None,
    against: str | int | None,
    config: PretrainedConfig,
    texts: Sequence[str],
) -> tuple[Tensor, int | None]:
    """Return the class of each text that is explained, `(B,)`, and the one that it is held against."""
    chosen = highest if target is None else torch.full_like(highest, class_of(target, names, "target"))
    if against is None:
        return chosen, None
    if problem_of(config) == VALUE or len(names) == 1:
        raise ValueError("the model gives a value: there is no class to hold against another")
    other = class_of(against, names, "against")
    if target is not None and int(chosen[0]) == other:
        raise ValueError(f"{names[other]} is held against itself: choose two classes")
    for text, one in zip(texts, chosen.tolist(), strict=True):
        if one == other:
            raise ValueError(
                f"{names[other]} is what is predicted for {shorten(text, 40)!r}, and would be held against "
                "itself: choose a target as well"
            )
    return chosen, other


def model_and_tokenizer(
    model: PreTrainedModel | Pipeline, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a model and its tokenizer, of a pipeline those that it has.

    Raises:
        TypeError: There is no tokenizer, or one next to a pipeline's own, or something else than a model.
    """
    found: Any = model
    # Told by what it has: the module of its class imports all kinds of pipelines.
    if not isinstance(found, torch.nn.Module) and hasattr(found, "model") and hasattr(found, "tokenizer"):
        if tokenizer is not None and tokenizer is not found.tokenizer:
            raise TypeError("a pipeline has a tokenizer of its own: leave the other out")
        found, tokenizer = found.model, found.tokenizer
    if not isinstance(found, torch.nn.Module):
        raise TypeError(
            f"model is a {type(model).__name__}: pass a model and its tokenizer, or a text-classification "
            "pipeline of transformers"
        )
    if tokenizer is None:
        raise TypeError("no tokenizer: pass explain(texts, model, tokenizer), or explain(texts, pipeline)")
    return found, tokenizer  # type: ignore[return-value]  # any module that is called as they are
