"""Names that options accept, for shell completion and for checks before torch is imported.

The modules that define them take seconds to import; a test compares these lists with them.
"""

from __future__ import annotations

__all__ = [
    "AGGREGATIONS",
    "BASELINES",
    "FILE_METHODS",
    "METHODS",
    "METRICS",
    "MIXINGS",
    "REMOVALS",
]

MIXINGS = ("W", "W-FixedRes", "W-Res", "N", "N-FixedRes", "N-Res", "N-ResLN", "N-Enc")
"""Kinds of GlobEnc's mixing matrix."""

AGGREGATIONS = ("rollout", "max-flow")
"""How the matrices of all layers are aggregated."""

BASELINES = ("mask", "mean", "pad", "zero")
"""Baselines."""

FILE_METHODS = ("globenc", "transformer-deep-lift")
"""Methods for images and sounds."""

METHODS = (
    "globenc",
    "transformer-deep-lift",
    "transformer-deep-lift/2",
    "transformer-deep-lift/restore-2",
    "transformer-deep-lift/restore-4",
    "decompx",
    "attn-lrp",
    "conservative-propagation",
    "libragrad",
    "gim",
    "attention-rollout",
    "value-zeroing",
    "alti",
    "integrated-gradients",
    "input-x-gradient",
    "saliency",
    "gradient-shap",
    "deep-lift",
    "feature-ablation",
    "occlusion",
    "first-last",
    "lime",
    "kernel-shap/16",
    "kernel-shap/32",
    "kernel-shap/64",
    *(mixing if it == "rollout" else f"{mixing}/{it}" for it in AGGREGATIONS for mixing in MIXINGS),
    "random",
)
"""Methods for texts, data sets and evaluations."""

METRICS = (
    "comprehensiveness",
    "sufficiency",
    "aopc-most",
    "aopc-least",
    "log-odds",
    "accuracy",
    "infidelity",
    "spearman-saliency",
    "kendall-ablation",
    "completeness-error",
    "shapley-distance",
    "drop-1",
    "drop-3",
    "drop-5",
    "drop-1/tokens",
    "drop-3/tokens",
    "drop-5/tokens",
    "lds",
    "lds/tokens",
    "marked-precision",
    "marked-rank",
    "decoy-named",
    "marked-precision/size",
    "marked-rank/size",
    "decoy-named/size",
)
"""Metrics of an evaluation."""

REMOVALS = ("mask", "delete", "pad")
"""How metrics remove a token."""
