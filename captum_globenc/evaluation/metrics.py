"""The registry of metrics that an evaluation computes on the scores of each method.

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

DROPS = (1, 3, 5)
"""The numbers of sentences or tokens that are removed."""
PERTURBATIONS = 10
STEPS = 5
EXACT = "shapley-values"
"""The key of a batch's exact Shapley values in `Batch.scores`."""


@dataclass(frozen=True)
class Metric:
    """A metric of the registry.

    Args:
        measure: function from a subject, a batch and scores `(B, N)` to one value per text, `(B,)`.
        better: whether higher or lower values are better.
        of_values: whether the metric is defined for regressions; if False, it is NaN for them.
        of_answers: whether the metric is defined for models that generate text.
    """

    measure: Callable[[Subject, Batch, Tensor], Tensor]
    better: Literal["higher", "lower"]
    of_values: bool = True
    of_answers: bool = True


def faithfulness(
    subject: Subject, batch: Batch, scores: Tensor, metric: Callable[..., Tensor], **options: Any
) -> Tensor:
    """Compute a metric that removes tokens, by default for the explained class."""
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


def of_features(
    subject: Subject, batch: Batch, scores: Tensor, *, by_sentence: bool, **options: Any
) -> Tensor:
    """Compute a metric of sentences or tokens: of probabilities, or of the log-probability of an answer.

    It is NaN for texts without sentences to remove, and if the tokenizer has no character offsets.
    """
    mask = batch.sentences if by_sentence else None
    return faithfulness(subject, batch, scores, feature_mask=mask, **options)


def accuracy(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """Return how often the label is predicted as tokens are removed.

    The model's prediction replaces a missing label. For multi-label models: how often the probability of
    the explained class is above 1/2 if the text has that label, and at most 1/2 if it has not.
    """
    if subject.problem == MULTI:
        return _multi_label_accuracy(subject, batch, scores)
    labels = [
        predicted if label is None else label[0]
        for label, predicted in zip(batch.labels, batch.outputs.argmax(dim=1).tolist(), strict=True)
    ]
    target = torch.tensor(labels, device=batch.inputs.device)
    return faithfulness(subject, batch, scores, metrics.accuracy, target=target)


def _multi_label_accuracy(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
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
    """Return the rank agreement with another method."""
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
    """Return Captum's infidelity when random tokens are masked, by default independent of scale."""
    assert subject.blank is not None
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
    """Compute a metric of texts with known important tokens, on absolute scores if `by_size`."""
    return metric(scores.abs() if by_size else scores, batch)


def completeness_error(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """Return the absolute difference between the sum of the scores and the change of the output, in logits.

    The change is the output minus its value for the fully masked text. The error is 0 for methods with the
    completeness property (Sundararajan et al. 2017); other methods do not have to satisfy it.
    """
    return (scores.double().sum(dim=1) - batch.difference).abs()


def shapley_distance(subject: Subject, batch: Batch, scores: Tensor) -> Tensor:
    """Return the relative error to the exact Shapley values of logits; NaN above 12 tokens.

    Absent tokens are masked. The exact values are computed once per batch.
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
"""Metrics of texts with known important tokens; NaN for texts without marks."""

METRICS: dict[str, Metric] = {
    "comprehensiveness": Metric(partial(faithfulness, metric=metrics.comprehensiveness), "higher"),
    "sufficiency": Metric(partial(faithfulness, metric=metrics.sufficiency), "lower"),
    "aopc-most": Metric(partial(faithfulness, metric=metrics.aopc, steps=STEPS), "higher"),
    "aopc-least": Metric(partial(faithfulness, metric=metrics.aopc, steps=STEPS, order="least"), "lower"),
    "log-odds": Metric(
        partial(faithfulness, metric=metrics.log_odds), "lower", of_values=False, of_answers=False
    ),
    "accuracy": Metric(accuracy, "lower", of_values=False, of_answers=False),
    "infidelity": Metric(token_infidelity, "lower", of_answers=False),
    "spearman-saliency": Metric(partial(agreement, statistic=metrics.spearman, other="saliency"), "higher"),
    "kendall-ablation": Metric(
        partial(agreement, statistic=metrics.kendall, other="feature-ablation"), "higher"
    ),
    "completeness-error": Metric(completeness_error, "lower"),
    "shapley-distance": Metric(shapley_distance, "lower"),
    **{
        f"drop-{k}{suffix}": Metric(
            partial(of_features, metric=metrics.top_k_drop, by_sentence=by_sentence, k=k), "higher"
        )
        for suffix, by_sentence in (("", True), ("/tokens", False))
        for k in DROPS
    },
    **{
        f"lds{suffix}": Metric(
            partial(of_features, metric=metrics.linear_datamodeling_score, by_sentence=by_sentence), "higher"
        )
        for suffix, by_sentence in (("", True), ("/tokens", False))
    },
    **{
        name + suffix: Metric(partial(known_truth, metric=metric, by_size=by_size), better)
        for suffix, by_size in (("", False), ("/size", True))
        for name, (metric, better) in KNOWN_TRUTH.items()
    },
}
"""Metrics by name; :func:`register_metric` adds to the registry."""

ANSWER_METRICS = (*(f"drop-{k}" for k in DROPS), "lds")
"""The default metrics of models that generate text."""

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
    """Add a metric to the registry.

    Args:
        name: the name of the metric.
        metric: the metric.

    Raises:
        ValueError: the name is taken.
    """
    if name in METRICS:
        raise ValueError(f"a metric {name!r} is registered already")
    if name in COLUMNS:
        raise ValueError(f"results have a column {name!r} already: choose another name")
    METRICS[name] = metric
