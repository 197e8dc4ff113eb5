"""What is asked of a sequence classifier: the class that it predicts, or those that are chosen.

Shapes: B texts, R rows, C classes.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from captum_globenc.texts.asked import Asked, Given, Picks
from captum_globenc.texts.classes import MULTI, class_names, probabilities, problem_of
from captum_globenc.texts.options import chosen_classes, several_classes

__all__ = ["ask_classes"]


def ask_classes(given: Given) -> list[Asked]:
    """Ask why a text is of the predicted class, or of the one that is chosen.

    Of the labels of a multi-label model every one that is likely enough is explained, or the likeliest. What
    is predicted for a text in windows goes by the mean of their logits.

    Args:
        given: logits `(R, C)`.

    Returns:
        One for each text, or for each of its labels, or for each class where several are chosen.

    Raises:
        ValueError: the outputs are not (R, C), or a class is not known or held against itself.
    """
    if given.outputs.dim() != 2:
        shape = tuple(given.outputs.shape)
        raise ValueError(f"a sequence classifier gives logits (B, C), this model gives {shape}")
    config = given.subject.model.config
    logits = torch.stack([given.outputs[rows].mean(0) for rows in given.encoded.rows])
    names = class_names(config, logits.shape[1])
    shares = probabilities(logits, config)
    chosen, other = _chosen(given, logits, names)
    labels = given.options.target is None and problem_of(config) == MULTI
    beside = several_classes(given.options.target, names) is not None
    asked = []
    for text, (classes, best) in enumerate(zip(chosen, logits.argmax(-1).tolist(), strict=True)):
        for one in classes:
            picks: Picks = {(one,): 1.0} if other is None else {(one,): 1.0, (other,): -1.0}
            predicted = one if labels else best
            asked.append(
                Asked(
                    text=text,
                    rows=given.encoded.rows[text],
                    picks=picks,
                    prediction=names[predicted],
                    probability=None if shares is None else shares[text, predicted].item(),
                    value=logits[text, predicted].item(),
                    probabilities={}
                    if shares is None
                    else dict(zip(names, shares[text].tolist(), strict=True)),
                    target=names[one],
                    against=None if other is None else names[other],
                    explained=given.sum_of(given.encoded.rows[text], picks),
                    beside=beside,
                )
            )
    return asked


def _chosen(given: Given, logits: Tensor, names: list[str]) -> tuple[list[list[int]], int | None]:
    """Return the classes of each text that are explained, and the one that they are held against."""
    config = given.subject.model.config
    several = several_classes(given.options.target, names)
    if several is not None:
        return [several] * len(logits), None
    if given.options.target is None and given.options.against is None and problem_of(config) == MULTI:
        likely = (logits.sigmoid() >= given.options.threshold).tolist()
        best = logits.argmax(-1).tolist()
        return [
            [number for number, it in enumerate(row) if it] or [one]
            for row, one in zip(likely, best, strict=True)
        ], None
    target = cast("str | int | None", given.options.target)
    classes, other = chosen_classes(
        logits.argmax(-1), names, target, given.options.against, config, given.texts
    )
    return [[one] for one in classes.tolist()], other
