"""The prediction as tokens go, in the order of their scores: what the faithfulness metrics read.

Letters: B batch, K steps, N tokens, D embedding size, C classes.
"""

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType
from captum_globenc.metrics.removal import (
    Activation,
    Baseline,
    Forward,
    activated,
    outputs_without,
    selected,
)


class RemovalOptions(TypedDict, total=False):
    """What all metrics of this module have in common, by keyword; :func:`removal_curve` explains it."""

    mask: Tensor | None
    removal: str
    activation: str | Activation
    attention_mask: int
    max_examples_per_batch: int | None


def removal_curve(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    counts: Tensor,
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    order: str = "most",
    mask: Tensor | None = None,
    removal: str = "mask",
    activation: str | Activation = "softmax",
    attention_mask: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    """Return the probability of the target as tokens are removed.

    Args:
        forward_func: the forward function, as for every Captum metric.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings, or a tuple of one of these.
        attributions: scores in the shape of `inputs`, or `(B, N)`; embeddings' are summed over D.
            Higher is more important; the sign counts.
        counts: `(B, K)` integers, how many tokens each step removes. More than there are: all.
        baselines: what stands where a token was: a number, or a tensor that broadcasts to `inputs`.
        additional_forward_args: further arguments of `forward_func`.
        target: the output that is watched, as for every Captum metric. Left out, the class that
            `forward_func` predicts on the whole input, where it gives `(B, C)` with C > 1.
        order: which tokens go: "most" removes the highest scores first, "least" the lowest, and
            "others" keeps the highest `counts` and removes all others. Of equal scores the first
            token counts as the higher.
        mask: `(B, N)`, True at the tokens that may be removed: False for special tokens and padding.
            Left out, every token may; what a model says of a text without any is its own affair.
        removal: "mask" puts `baselines` there, "delete" closes the gap, "pad" hides the token from
            attention; see :func:`~captum_globenc.metrics.removal.outputs_without`.
        activation: makes probabilities of what `forward_func` returns: "softmax" where it gives
            `(B, C)` with C > 1, "sigmoid" for several labels, "none", or any function. One number for
            each example, `(B,)` or `(B, 1)`, is taken as it is unless "sigmoid" or a function is given.
        attention_mask: which of `additional_forward_args` is the attention mask; "delete" and "pad"
            need it.
        max_examples_per_batch: how many texts run at once; left out, all B (K + 1).

    Returns:
        `(B, K + 1)`: the first column is the whole text's.

    Raises:
        ValueError: shapes do not match, scores are not finite, or `order` or `removal` is not known.
        AssertionError, IndexError: `target` has the wrong length or is out of range.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> removal_curve(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     counts=torch.tensor([[1, 2]]), baselines=0, activation=lambda output: output,
        ... )
        tensor([[9., 4., 1.]])
    """
    outputs, target = removal_outputs(
        forward_func,
        inputs,
        attributions,
        counts,
        baselines,
        additional_forward_args,
        target,
        order=order,
        mask=mask,
        removal=removal,
        activation=activation,
        attention_mask=attention_mask,
        max_examples_per_batch=max_examples_per_batch,
    )
    return selected(outputs, target)


def fraction_counts(mask: Tensor, fractions: Sequence[float]) -> Tensor:
    """Return how many tokens each fraction is, rounded up.

    Args:
        mask: `(B, N)`, True at the tokens that count.
        fractions: K numbers above 0 and at most 1.

    Returns:
        `(B, K)`.

    Raises:
        ValueError: there are no fractions, or one is out of range.

    Example:
        >>> fraction_counts(torch.ones(1, 30).bool(), (0.01, 0.1, 0.5))
        tensor([[ 1,  3, 15]])
    """
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions are {tuple(fractions)}; give some, each above 0 and at most 1.")
    # 0.07 * 100 is a little more than 7 in binary, and must not count as 8.
    rows = [[math.ceil(round(f * int(n), 9)) for f in fractions] for n in mask.sum(dim=1)]
    return torch.tensor(rows, device=mask.device)


def removal_outputs(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    counts: Tensor,
    baselines: Baseline | tuple[Baseline],
    additional_forward_args: object | None,
    target: TargetType,
    *,
    order: str = "most",
    mask: Tensor | None = None,
    activation: str | Activation = "softmax",
    **options: Any,
) -> tuple[Tensor, TargetType]:
    """Return what the model says at each step, and the target it is read at.

    Args:
        forward_func: as for :func:`removal_curve`, like everything else here.
        inputs: likewise.
        attributions: likewise.
        counts: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
        order: likewise.
        mask: likewise.
        activation: likewise.
        **options: `removal`, `attention_mask` and `max_examples_per_batch`.

    Returns:
        `(B, K + 1, ...)`, the whole text first, and `target`, or the predicted class in its place.

    Raises:
        ValueError: as :func:`removal_curve` does.
    """
    tensor, scores = _single("inputs", inputs), _single("attributions", attributions)
    baseline = baselines[0] if isinstance(baselines, tuple) else baselines
    gone = removal_masks(token_scores(scores, tensor), removable(tensor, mask), counts, order)
    whole = torch.zeros_like(gone[:, :1])
    raw = outputs_without(
        forward_func, tensor, torch.cat([whole, gone], dim=1), baseline, additional_forward_args, **options
    )
    # Differences of probabilities are small next to the steps of half precision.
    outputs = activated(raw.to(torch.promote_types(raw.dtype, torch.float32)), activation)
    if bool(outputs.isnan().any()):
        raise ValueError("forward_func returned NaN, for a whole text or for one with tokens removed.")
    if target is None and outputs.ndim == 3 and outputs.shape[2] > 1:
        target = outputs[:, 0].argmax(dim=1)
    return outputs, target


def removal_masks(scores: Tensor, mask: Tensor, counts: Tensor, order: str) -> Tensor:
    """Return which tokens each step removes.

    Args:
        scores: `(B, N)`.
        mask: `(B, N)`, True at the tokens that may go.
        counts: `(B, K)`.
        order: as for :func:`removal_curve`.

    Returns:
        `(B, K, N)`.

    Raises:
        ValueError: `order` is not known.
    """
    if order not in ("most", "least", "others"):
        raise ValueError(f"order {order!r} is not known; choose from most, least, others.")
    # The first of equal scores ranks higher, so the last of them ranks lower.
    ranked = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(ranked)
    rank = torch.zeros_like(ranked).scatter(1, ranked, places)
    if order == "least":
        rank = mask.sum(dim=1, keepdim=True) - 1 - rank
    top = rank[:, None, :] < counts[:, :, None].to(rank.device)
    return (~top if order == "others" else top) & mask[:, None, :]


def token_scores(attributions: Tensor, inputs: Tensor) -> Tensor:
    """Return one score per token, `(B, N)`: embeddings' are summed.

    Args:
        attributions: in the shape of `inputs`, or `(B, N)`.
        inputs: `(B, N)` or `(B, N, D)`.

    Raises:
        ValueError: the shapes do not match, or a score is not finite.
    """
    if attributions.shape not in (inputs.shape, inputs.shape[:2]):
        raise ValueError(f"attributions are {tuple(attributions.shape)}, inputs {tuple(inputs.shape)}.")
    scores = attributions.detach()
    if scores.ndim > 2:
        scores = scores.flatten(2).sum(dim=2)
    if not bool(scores.isfinite().all()):
        raise ValueError("attributions are NaN or infinite, and cannot be ranked.")
    return scores if scores.is_floating_point() else scores.double()


def removable(inputs: Tensor | tuple[Tensor], mask: Tensor | None) -> Tensor:
    """Return which tokens may be removed, `(B, N)`: what `mask` says, or all where it is None.

    Args:
        inputs: `(B, N)` or `(B, N, D)`, or a tuple of one of these.
        mask: `(B, N)` or None.

    Raises:
        ValueError: the shapes do not match.
    """
    tensor = _single("inputs", inputs)
    if mask is None:
        return torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    if mask.shape != tensor.shape[:2]:
        raise ValueError(f"mask is {tuple(mask.shape)}, but there are {tuple(tensor.shape[:2])} tokens.")
    return mask.bool().to(tensor.device)


def _single(what: str, value: Tensor | tuple[Tensor]) -> Tensor:
    if isinstance(value, tuple):
        if len(value) != 1:
            raise ValueError(f"{what} is a tuple of {len(value)}; these metrics take one tensor.")
        return value[0]
    return value
