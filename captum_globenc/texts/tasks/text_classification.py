"""Select the outputs of a sequence classifier: of the predicted class, or of the targets.

Shapes: B texts, R rows, C classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from captum_globenc.texts.classes import MULTI, class_names, probabilities, problem_of
from captum_globenc.texts.options import chosen_classes, several_classes
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
    side_by_side = several_classes(predictions.options.target, names) is not None
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
    config = predictions.loaded.model.config
    several = several_classes(predictions.options.target, names)
    if several is not None:
        return [several] * len(logits), None
    if (
        predictions.options.target is None
        and predictions.options.against is None
        and problem_of(config) == MULTI
    ):
        likely = (logits.sigmoid() >= predictions.options.threshold).tolist()
        best = logits.argmax(-1).tolist()
        return [
            [number for number, it in enumerate(row) if it] or [one]
            for row, one in zip(likely, best, strict=True)
        ], None
    target = cast("str | int | None", predictions.options.target)
    classes, other = chosen_classes(
        logits.argmax(-1), names, target, predictions.options.against, config, predictions.texts
    )
    return [[one] for one in classes.tolist()], other
