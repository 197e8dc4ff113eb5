"""Exact Shapley values of short texts, and the error of scores relative to them.

B batch, N tokens, n tokens that may be removed.
"""

from math import comb
from typing import Any

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType, format_arguments
from captum_globenc.metrics.curve import Removals, removable, removal_metric
from captum_globenc.metrics.removal import (
    Activation,
    Baseline,
    Forward,
    activated,
    outputs_without,
    selected,
)

MOST_FEATURES = 12
"""The largest n; it has 4,096 subsets, which are all run."""


def shapley_values(
    forward_func: Forward,
    inputs: Tensor,
    baselines: Baseline = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    mask: Tensor | None = None,
    removal: str = "mask",
    activation: str | Activation = "none",
    attention_mask: int = 0,
    max_examples_per_batch: int | None = 64,
) -> Tensor:
    """Return the exact Shapley values of tokens, from all `2 ** n` subsets of each text.

    Shapley (1953): the change of the output when a token is added, averaged over all orders of the tokens.

    Args:
        forward_func: the forward function, as in Captum's metrics.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings.
        baselines: replacement of removed tokens: a number, or a tensor that broadcasts to `inputs`.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.
        target: the index of the explained output, as in Captum. None for the class that `forward_func`
            predicts for the whole input, if it returns `(B, C)` with C > 1.
        mask: `(B, N)`, True at the tokens that may be removed, at most 12 per text; None for all tokens.
        removal: "mask", "delete" or "pad"; see :func:`outputs_without`.
        activation: "none" explains the output of `forward_func`, "softmax" and "sigmoid" its probabilities.
        attention_mask: index of the attention mask in `additional_forward_args`, for "delete" and "pad".
        max_examples_per_batch: most subsets that run at once.

    Returns:
        `(B, N)`, in units of the explained output; 0 where `mask` is False.

    Raises:
        ValueError: a text has more than 12 tokens that may be removed, or shapes do not match.

    Example:
        >>> def forward(ids):
        ...     return (ids[:, 0] * ids[:, 1] + ids[:, 2]).float()
        >>> shapley_values(forward, torch.tensor([[2, 5, 3]]), 0)
        tensor([[5., 5., 3.]])
    """
    candidates = removable(inputs, mask)
    most = int(candidates.sum(1).max())
    if most > MOST_FEATURES:
        raise ValueError(
            f"a text has {most} tokens that may be removed, and exact Shapley values would take 2**{most} "
            f"forward passes. Pass a mask with at most {MOST_FEATURES} tokens per text."
        )
    extra = format_arguments(additional_forward_args)
    rows = []
    for row in range(len(inputs)):

        def one(value: Any, row: int = row) -> Any:
            per_example = isinstance(value, Tensor) and value.ndim > 0 and len(value) == len(inputs)
            return value[row : row + 1] if per_example else value

        same = isinstance(baselines, Tensor) and baselines.ndim < inputs.ndim
        positions = candidates[row].nonzero()[:, 0]
        present = subsets(len(positions), inputs.device)
        gone = torch.zeros(1, len(present), inputs.shape[1], dtype=torch.bool, device=inputs.device)
        gone[0, :, positions] = ~present
        raw = outputs_without(
            forward_func,
            one(inputs),
            gone,
            baselines if same else one(baselines),
            tuple(one(it) for it in extra),
            removal=removal,
            attention_mask=attention_mask,
            max_examples_per_batch=max_examples_per_batch,
        )
        outputs = activated(raw.to(torch.promote_types(raw.dtype, torch.float32)), activation)
        row_target: Any = (
            [target[row]] if isinstance(target, list) and len(target) == len(inputs) else one(target)
        )
        if target is None and outputs.ndim == 3 and outputs.shape[2] > 1:
            row_target = outputs[:, -1].argmax(dim=1)  # the last subset is the whole text
        values = selected(outputs, row_target)[0]
        scores = values.new_zeros(inputs.shape[1])
        scores[positions] = _shapley(values.double(), present).to(values.dtype)
        rows.append(scores)
    return torch.stack(rows)


@removal_metric
def shapley_distance(removals: Removals) -> Tensor:
    """Return the relative error of scores compared with exact Shapley values; lower is better.

    `|scores - exact| / |exact|`, Euclidean norms over the tokens that may be removed; NaN if a text has more
    than 12 of them. The scores must be in units of the output: `activation` is "none" by default.

    Args:
        removals: the call.

    Returns:
        `(B,)`.

    Raises:
        ValueError: an argument is invalid; see :func:`shapley_values`.

    Example:
        >>> def forward(ids):
        ...     return (ids[:, 0] * ids[:, 1]).float()
        >>> shapley_distance(forward, torch.tensor([[2, 4]]), torch.tensor([[4.0, 1.0]]), 0)
        tensor([0.5303])
    """
    short = removals.removable.sum(1) <= MOST_FEATURES
    options: dict[str, Any] = {**removals.options, "mask": removals.removable & short[:, None]}
    exact = shapley_values(
        removals.forward_func,
        removals.tensor,
        removals.baseline,
        removals.additional_forward_args,
        removals.target,
        **options,
    )
    return relative_error(removals.scores, exact, removals.removable).where(short, torch.nan)


def relative_error(scores: Tensor, exact: Tensor, mask: Tensor) -> Tensor:
    """Return `|scores - exact| / |exact|` over the tokens of a mask, `(B,)`; all arguments are `(B, N)`."""
    off, size = (torch.linalg.vector_norm(it.double() * mask, dim=1) for it in (scores - exact, exact))
    ratio: Tensor = off / size
    return ratio.to(scores.dtype)


def subsets(count: int, device: torch.device | None = None) -> Tensor:
    """Return all subsets of n tokens, `(2 ** n, n)` booleans, from the empty to the whole set."""
    numbers = torch.arange(2**count, device=device)
    return (numbers[:, None] >> torch.arange(count, device=device)) % 2 == 1


def _shapley(values: Tensor, present: Tensor) -> Tensor:
    """Return Shapley values `(n,)` from the values of all subsets `(2 ** n,)`."""
    count, sizes = present.shape[1], present.sum(1)
    # The share of orders in which a given set of other tokens comes before a token, by the size of the set.
    by_size = [1 / (count * comb(count - 1, size)) for size in range(count)]
    weights = torch.tensor(by_size, dtype=values.dtype, device=values.device)
    found = [values.new_zeros(0)]
    for token in range(count):
        has_token = present[:, token]
        gains = values[has_token] - values[~has_token]  # the other tokens' subsets are in the same order
        found.append((weights[sizes[~has_token]] * gains).sum()[None])
    return torch.cat(found)
