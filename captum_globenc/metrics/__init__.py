"""Metrics for token attributions that Captum lacks, with the signatures of `captum.metrics`."""

from captum_globenc.metrics.agreement import kendall, spearman
from captum_globenc.metrics.curve import removal_curve
from captum_globenc.metrics.faithfulness import (
    accuracy,
    aopc,
    comprehensiveness,
    log_odds,
    sufficiency,
)
from captum_globenc.metrics.features import linear_datamodeling_score, top_k_drop
from captum_globenc.metrics.perturbation import infidelity_perturbation, sensitivity_perturbation
from captum_globenc.metrics.plausibility import (
    auprc,
    first_rank,
    names_decoy,
    precision_at,
    token_f1,
    token_iou,
)
from captum_globenc.metrics.removal import REMOVALS, outputs_without
from captum_globenc.metrics.shapley import shapley_distance, shapley_values

__all__ = [
    "REMOVALS",
    "accuracy",
    "aopc",
    "auprc",
    "comprehensiveness",
    "first_rank",
    "infidelity_perturbation",
    "kendall",
    "linear_datamodeling_score",
    "log_odds",
    "names_decoy",
    "outputs_without",
    "precision_at",
    "removal_curve",
    "sensitivity_perturbation",
    "shapley_distance",
    "shapley_values",
    "spearman",
    "sufficiency",
    "token_f1",
    "token_iou",
    "top_k_drop",
]
