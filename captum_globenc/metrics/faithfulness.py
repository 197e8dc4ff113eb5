"""Faithfulness: what happens to the prediction when the tokens go that the scores call important.

Every metric takes what Captum's own metrics take and returns one value per example, NaN where no token
may be removed. p(x) is
the probability of the target class, p(x - top k) that without the k most important tokens, and k(f) the
fraction f of the n tokens, rounded up.

Letters: B batch, K steps, N tokens, D embedding size.
"""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from captum._utils.typing import TargetType
from torch import Tensor

from captum_globenc.metrics.curve import (
    RemovalOptions,
    fraction_counts,
    removable,
    removal_curve,
    removal_outputs,
)
from captum_globenc.metrics.removal import Baseline, Forward, selected

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""ERASER's bins (DeYoung et al. 2020, section 4)."""


def comprehensiveness(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """How much the prediction loses without the most important tokens; higher is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(x - top k(f))`, averaged over the fractions.
    A single fraction gives the value at that fraction.

    Args:
        forward_func: as for :func:`removal_curve`, like all that is not named here.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
        fractions: of the tokens that may be removed; each removes one token at least.
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not above 0 and at most 1, and as :func:`removal_curve` does.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> comprehensiveness(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     baselines=0, activation=lambda output: output, fractions=(0.3, 0.6),
        ... )
        tensor([6.5000])
    """
    curve = _fraction_curve(
        forward_func, inputs, attributions, fractions, baselines, additional_forward_args, target, **options
    )
    return _where_defined((curve[:, :1] - curve[:, 1:]).mean(dim=1), inputs, options)


def sufficiency(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """How much the prediction loses with the most important tokens alone; lower is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(the top k(f))`, averaged over the fractions.

    Args:
        forward_func: as for :func:`removal_curve`, like all that is not named here.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
        fractions: of the tokens that may be removed; each keeps one token at least.
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not above 0 and at most 1, and as :func:`removal_curve` does.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> sufficiency(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     baselines=0, activation=lambda output: output, fractions=(0.3, 0.6),
        ... )
        tensor([2.5000])
    """
    curve = _fraction_curve(
        forward_func,
        inputs,
        attributions,
        fractions,
        baselines,
        additional_forward_args,
        target,
        order="others",
        **options,
    )
    return _where_defined((curve[:, :1] - curve[:, 1:]).mean(dim=1), inputs, options)


def aopc(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    steps: int = 10,
    order: str = "most",
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """Area over the perturbation curve: tokens go one by one.

    Samek et al. (2017), eq. 12, for text Nguyen (2018), section 3.1:
    `1/(K+1) sum_{k=1..K} p(x) - p(x - top k)`, with K = `steps`, or n where a text has fewer tokens.

    Args:
        forward_func: as for :func:`removal_curve`, like all that is not named here.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
        steps: how many tokens go, one after the other.
        order: "most" important first, where higher is better, or "least", where lower is.
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.

    Returns:
        `(B,)`.

    Raises:
        ValueError: as :func:`removal_curve` does, or `steps` is less than 1.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> aopc(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     baselines=0, activation=lambda output: output, steps=2,
        ... )
        tensor([4.3333])
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; at least one token has to go.")
    tokens = removable(inputs, options.get("mask")).sum(dim=1, keepdim=True)
    counts = torch.arange(1, steps + 1, device=tokens.device).expand(len(tokens), -1)
    curve = removal_curve(
        forward_func,
        inputs,
        attributions,
        counts.minimum(tokens),
        baselines,
        additional_forward_args,
        target,
        order=order,
        **options,
    )
    drop = (curve[:, :1] - curve[:, 1:]) * (counts <= tokens)
    return _where_defined(drop.sum(dim=1) / (tokens[:, 0].clamp(max=steps) + 1), inputs, options)


def log_odds(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    fractions: Sequence[float] = (0.2,),
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """Change of the log probability without the most important tokens; lower is better.

    Chen et al. (2020), section 4.2, after Shrikumar et al. (2017), section 4.1:
    `log p(x - top k(f)) - log p(x)`, averaged over the fractions.

    Args:
        forward_func: as for :func:`removal_curve`, like all that is not named here.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
        fractions: of the tokens that may be removed; each removes one token at least.
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.
            `activation` must give probabilities, not their logarithms; 0 counts as the smallest
            number that the dtype holds.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not above 0 and at most 1, a probability is negative, and as
            :func:`removal_curve` does.

    Example:
        >>> ids = torch.tensor([[1, 5, 2]])
        >>> log_odds(
        ...     lambda ids: ids.sum(1, keepdim=True) / 8, ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     baselines=0, activation=lambda output: output,
        ... ).exp()
        tensor([0.3750])
    """
    curve = _fraction_curve(
        forward_func, inputs, attributions, fractions, baselines, additional_forward_args, target, **options
    )
    if bool((curve < 0).any()):
        raise ValueError("log_odds needs probabilities, and activation gave a negative number.")
    logs = curve.clamp(min=torch.finfo(curve.dtype).tiny).log()
    return _where_defined((logs[:, 1:] - logs[:, :1]).mean(dim=1), inputs, options)


def accuracy(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    order: str = "most",
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """How often the target is still predicted as tokens go; lower is better for "most".

    The share of the fractions at which the class with the highest output is the target: with one
    fraction 0 or 1, whose mean over texts is the accuracy.

    Args:
        forward_func: as for :func:`removal_curve`, like all that is not named here; its output is
            `(B, C)` with C > 1.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: the right class: an int, or one for each example. Left out, the predicted one.
        fractions: of the tokens that may be removed; each removes one token at least.
        order: as for :func:`removal_curve`.
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.

    Returns:
        `(B,)`, between 0 and 1.

    Raises:
        ValueError: `forward_func` does not give `(B, C)`, and as :func:`removal_curve` does.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> accuracy(
        ...     lambda ids: torch.stack([ids.sum(1), ids.sum(1) * 0 + 2], dim=1).float(), ids,
        ...     torch.tensor([[0.1, 0.7, 0.2]]), baselines=0, target=0, fractions=(0.3, 0.6),
        ... )
        tensor([0.5000])
    """
    counts = fraction_counts(removable(inputs, options.get("mask")), fractions)
    outputs, target = removal_outputs(
        forward_func,
        inputs,
        attributions,
        counts,
        baselines,
        additional_forward_args,
        target,
        order=order,
        **options,
    )
    if outputs.ndim != 3 or outputs.shape[2] < 2:
        raise ValueError(f"accuracy needs outputs (B, C) with C > 1, got {tuple(outputs[:, 0].shape)}.")
    selected(outputs, target)  # refuses what Captum refuses
    right = torch.as_tensor(target, device=outputs.device).reshape(-1, 1) % outputs.shape[2]
    hits = (outputs[:, 1:].argmax(dim=2) == right).to(outputs.dtype).mean(dim=1)
    return _where_defined(hits, inputs, options)


def _where_defined(values: Tensor, inputs: Tensor | tuple[Tensor], options: RemovalOptions) -> Tensor:
    """Return NaN in place of the values `(B,)` of texts of which nothing may be removed."""
    return values.where(removable(inputs, options.get("mask")).any(dim=1), torch.nan)


def _fraction_curve(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    fractions: Sequence[float],
    *arguments: Any,
    order: str = "most",
    **options: Unpack[RemovalOptions],
) -> Tensor:
    """Return :func:`removal_curve` at fractions of the tokens, `(B, K + 1)`."""
    counts = fraction_counts(removable(inputs, options.get("mask")), fractions)
    return removal_curve(forward_func, inputs, attributions, counts, *arguments, order=order, **options)
