"""Metrics by name: what an evaluation measures of every method's scores.

Letters: B batch, N tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from captum.metrics import infidelity
from torch import Tensor

from captum_globenc import metrics
from captum_globenc.evaluation.journal import COLUMNS
from captum_globenc.evaluation.subject import Batch, Subject, attribute
from captum_globenc.metrics.curve import fraction_counts, removal_curve
from captum_globenc.metrics.faithfulness import FRACTIONS
from captum_globenc.metrics.shapley import MOST_FEATURES, relative_error
from captum_globenc.texts.classes import MULTI
from captum_globenc.texts.methods.captums import TEXTS_AT_ONCE

PERTURBATIONS = 10
STEPS = 5
EXACT = "shapley-values"
"""Where a batch keeps its exact Shapley values."""


@dataclass(frozen=True)
class Metric:
    """A metric and what to make of it.

    Args:
        measure: makes one value per text `(B,)` of a subject, a batch and scores `(B, N)`.
        better: whether higher or lower values are better.
        of_values: whether it means something of a regression's values, which are no probabilities; where
            it does not, it is NaN.
    """

    measure: Callable[[Subject, Batch, Tensor], Tensor]
    better: Literal["higher", "lower"]
    of_values: bool = True


def faithfulness(
    subject: Subject, batch: Batch, scores: Tensor, metric: Callable[..., Tensor], **options: Any
) -> Tensor:
    """One of `captum_globenc.metrics` that remove tokens, for the class that is explained unless told."""
    return metric(
        batch.forward,
        batch.inputs,
        scores,
        subject.blank,
        batch.extra,
        **{"target": batch.target, **options},
        mask=batch.mask,
        removal=subject.removal,
        activation=subject.activation,
        max_examples_per_batch=128,
    )


def accuracy(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """How often the label is predicted as tokens go; the prediction stands in for a missing label.

    Where a text may have several labels: how often the class that is explained has a probability above
    1/2 if it is among them, and one of at most 1/2 if it is not.
    """
    if subject.problem == MULTI:
        return _accuracy_of_one_label(subject, batch, scores)
    labels = [
        predicted if label is None else label[0]
        for label, predicted in zip(batch.labels, batch.outputs.argmax(dim=1).tolist(), strict=True)
    ]
    target = torch.tensor(labels, device=batch.inputs.device)
    return faithfulness(subject, batch, scores, metrics.accuracy, target=target)


def _accuracy_of_one_label(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    counts = fraction_counts(batch.mask, FRACTIONS)

    def probabilities(forward: Any, inputs: Tensor, scores: Tensor, *rest: Any, **options: Any) -> Tensor:
        return removal_curve(forward, inputs, scores, counts, *rest, **options)

    holds = faithfulness(subject, batch, scores, probabilities) > 0.5
    right = torch.tensor(
        [
            whole if labels is None else target in labels
            for whole, labels, target in zip(
                holds[:, 0].tolist(), batch.labels, batch.target.tolist(), strict=True
            )
        ],
        device=holds.device,
    )
    values = (holds[:, 1:] == right[:, None]).float().mean(dim=1)
    return values.where(batch.mask.any(dim=1), torch.nan)


def agreement(
    subject: Subject, batch: Batch, scores: Tensor, statistic: Callable[..., Tensor], other: str
) -> Tensor:
    """Rank agreement with another method."""
    return statistic(scores, attribute(other, batch), batch.mask)


def token_infidelity(
    subject: Subject,
    batch: Batch,
    scores: Tensor,
    *,
    samples: int = PERTURBATIONS,
    normalize: bool = True,
    seed: int | None = None,
) -> Tensor:
    """Captum's infidelity where random tokens are masked, of any scale unless `normalize` is False."""
    kept = sorted({*subject.tokenizer.all_special_ids} - {subject.tokenizer.unk_token_id})
    generator = torch.Generator().manual_seed(subject.seed if seed is None else seed)
    values: Tensor = infidelity(
        batch.forward,
        metrics.infidelity_perturbation(subject.blank, kept, generator=generator),
        batch.inputs,
        scores,
        additional_forward_args=batch.extra,
        target=batch.target,
        n_perturb_samples=samples,
        normalize=normalize,
    )
    return values


def known_truth(
    subject: Subject, batch: Batch, scores: Tensor, metric: Callable[[Tensor, Batch], Tensor], by_size: bool
) -> Tensor:
    """A metric of tokens that are known to decide; of absolute values where they are ranked `by_size`."""
    return metric(scores.abs() if by_size else scores, batch)


def completeness_error(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """By how much scores miss the difference of the output, no probability, to that of the text all masked.

    0 for a method that adds up to it (Sundararajan et al. 2017, "completeness"); others need not.
    """
    return (scores.double().sum(dim=1) - batch.difference).abs()


def shapley_distance(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """The relative error to the exact Shapley values of logits; NaN for texts of more than 12 tokens.

    Masked tokens stand where others are absent. The exact values are computed once for each batch.
    """
    counts = batch.mask.sum(dim=1)
    if EXACT not in batch.scores:
        exact = torch.zeros_like(batch.mask, dtype=batch.outputs.dtype)
        for row, one in enumerate(batch.request.singles()):
            if counts[row] <= MOST_FEATURES:
                exact[row] = metrics.shapley_values(
                    one.of.blanked,
                    one.inputs,
                    one.baselines,
                    one.beside,
                    mask=~one.special,
                    max_examples_per_batch=TEXTS_AT_ONCE,
                )[0]
        batch.scores[EXACT] = exact
    short = (counts > 0) & (counts <= MOST_FEATURES)
    return relative_error(scores, batch.scores[EXACT], batch.mask).where(short, torch.nan)


KNOWN_TRUTH: dict[str, tuple[Callable[[Tensor, Batch], Tensor], Literal["higher", "lower"]]] = {
    "marked-precision": (lambda it, batch: metrics.precision_at(it, batch.marked, batch.mask), "higher"),
    "marked-rank": (lambda it, batch: metrics.first_rank(it, batch.marked, batch.mask), "lower"),
    "decoy-named": (
        lambda it, batch: metrics.names_decoy(it, batch.decoys, batch.marked, batch.mask),
        "lower",
    ),
}
"""Metrics of texts with marks; NaN where nothing is marked."""

METRICS: dict[str, Metric] = {
    "comprehensiveness": Metric(partial(faithfulness, metric=metrics.comprehensiveness), "higher"),
    "sufficiency": Metric(partial(faithfulness, metric=metrics.sufficiency), "lower"),
    "aopc-most": Metric(partial(faithfulness, metric=metrics.aopc, steps=STEPS), "higher"),
    "aopc-least": Metric(partial(faithfulness, metric=metrics.aopc, steps=STEPS, order="least"), "lower"),
    "log-odds": Metric(partial(faithfulness, metric=metrics.log_odds), "lower", of_values=False),
    "accuracy": Metric(accuracy, "lower", of_values=False),
    "infidelity": Metric(token_infidelity, "lower"),
    "spearman-saliency": Metric(partial(agreement, statistic=metrics.spearman, other="saliency"), "higher"),
    "kendall-ablation": Metric(
        partial(agreement, statistic=metrics.kendall, other="feature-ablation"), "higher"
    ),
    "completeness-error": Metric(completeness_error, "lower"),
    "shapley-distance": Metric(shapley_distance, "lower"),
    **{
        name + suffix: Metric(partial(known_truth, metric=metric, by_size=by_size), better)
        for suffix, by_size in (("", False), ("/size", True))
        for name, (metric, better) in KNOWN_TRUTH.items()
    },
}
"""Metrics by name; :func:`register_metric` adds to them."""

DEFAULT_METRICS = (
    "comprehensiveness",
    "sufficiency",
    "aopc-most",
    "aopc-least",
    "log-odds",
    "accuracy",
    "spearman-saliency",
    "kendall-ablation",
)


def register_metric(name: str, metric: Metric) -> None:
    """Add a metric, to be chosen by its name.

    Args:
        name: what to call it.
        metric: the metric.

    Raises:
        ValueError: the name is taken.
    """
    if name in METRICS:
        raise ValueError(f"a metric {name!r} is registered already")
    if name in COLUMNS:
        raise ValueError(f"results have a column {name!r} already: choose another name")
    METRICS[name] = metric
