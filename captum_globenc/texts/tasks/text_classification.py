"""Select the outputs of a sequence classifier: of the predicted class, or of the targets.

Shapes: B texts, R rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from typing import cast

import torch
from torch import Tensor

from captum_globenc.texts.classes import MULTI, VALUE, class_names, class_of, probabilities, problem_of
from captum_globenc.texts.options import ALL, Target
from captum_globenc.texts.outputs import ExplainedOutput, OutputWeights, Predictions

__all__ = ["select_classes"]


def select_classes(predictions: Predictions) -> list[ExplainedOutput]:
    """Select the logit of the predicted class of each text, or of the targets.

    For multi-label models, select all labels above the threshold, or the most likely one if there are none.
    Logits are averaged over the windows of a text.

    Args:
        predictions: logits `(R, C)`.

    Returns:
        One output for each text, for each of its labels, or for each of several targets.

    Raises:
        ValueError: the outputs are not (R, C), or a class is unknown or contrasted with itself.
    """
    if predictions.outputs.dim() != 2:
        shape = tuple(predictions.outputs.shape)
        raise ValueError(f"a sequence classifier gives logits (B, C), this model gives {shape}")
    config = predictions.loaded.model.config
    logits = torch.stack([predictions.outputs[rows].mean(0) for rows in predictions.encoded.rows])
    names = class_names(config, logits.shape[1])
    shares = probabilities(logits, config)
    chosen, other = _chosen(predictions, logits, names)
    labels = predictions.options.target is None and problem_of(config) == MULTI
    side_by_side = _several(predictions.options.target, names) is not None
    explained = []
    for text, (classes, best) in enumerate(zip(chosen, logits.argmax(-1).tolist(), strict=True)):
        for one in classes:
            terms: OutputWeights = {(one,): 1.0} if other is None else {(one,): 1.0, (other,): -1.0}
            predicted = one if labels else best
            explained.append(
                ExplainedOutput(
                    text=text,
                    rows=predictions.encoded.rows[text],
                    terms=terms,
                    prediction=names[predicted],
                    probability=None if shares is None else shares[text, predicted].item(),
                    value=logits[text, predicted].item(),
                    probabilities={}
                    if shares is None
                    else dict(zip(names, shares[text].tolist(), strict=True)),
                    target=names[one],
                    against=None if other is None else names[other],
                    explained=predictions.sum_of(predictions.encoded.rows[text], terms),
                    side_by_side=side_by_side,
                )
            )
    return explained


def _chosen(predictions: Predictions, logits: Tensor, names: list[str]) -> tuple[list[list[int]], int | None]:
    """Return the explained classes of each text, and the contrast class."""
    options, config = predictions.options, predictions.loaded.model.config
    several = _several(options.target, names)
    if several is not None:
        return [several] * len(logits), None
    best = logits.argmax(-1).tolist()
    if options.target is None and options.against is None and problem_of(config) == MULTI:
        likely = (logits.sigmoid() >= options.threshold).tolist()
        return [
            [number for number, it in enumerate(row) if it] or [one]
            for row, one in zip(likely, best, strict=True)
        ], None
    target = None if options.target is None else class_of(cast("str | int", options.target), names, "target")
    chosen = best if target is None else [target] * len(best)
    if options.against is None:
        return [[one] for one in chosen], None
    if problem_of(config) == VALUE or len(names) == 1:
        raise ValueError("the model is a regression: there is no contrast class")
    other = class_of(options.against, names, "against")
    if target == other:
        raise ValueError(f"{names[other]} is contrasted with itself: choose two classes")
    for text, one in zip(predictions.texts, chosen, strict=True):
        if one == other:
            raise ValueError(
                f"{names[other]} is the predicted class of {shorten(text, 40)!r} and would be contrasted "
                "with itself: choose a target as well"
            )
    return [[one] for one in chosen], other


def _several(target: Target | None, names: Sequence[str]) -> list[int] | None:
    """Return the classes of a list of targets, or of "all" if no class has this name; None for one target."""
    if target == ALL and ALL not in map(str.lower, names):
        return list(range(len(names)))
    if target is None or isinstance(target, str | int):
        return None
    return list(dict.fromkeys(class_of(it, names, "target") for it in target))
