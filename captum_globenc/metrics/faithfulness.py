"""Faithfulness: what happens to the prediction when the tokens go that the scores call important.

Every metric takes what Captum's own metrics take (see :mod:`captum_globenc.metrics.calling`) and returns one
value per example, NaN where no token may be removed. p(x) is the probability of the target class,
p(x - top k) that without the k most important tokens, and k(f) the fraction f of the n tokens, rounded up.

Letters: B batch, K steps, N tokens, D embedding size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_globenc.metrics.calling import Removals, removal_metric
from captum_globenc.metrics.curve import fraction_counts
from captum_globenc.metrics.removal import selected

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""ERASER's bins (DeYoung et al. 2020, section 4)."""


@removal_metric
def comprehensiveness(
    removals: Removals,
    *,
    fractions: Sequence[float] = FRACTIONS,
) -> Tensor:
    """How much the prediction loses without the most important tokens; higher is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(x - top k(f))`, averaged over the fractions.
    A single fraction gives the value at that fraction.

    Args:
        removals: what was called.
        fractions: of the tokens that may be removed; each removes one token at least.

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
    curve = removals.curve(fraction_counts(removals.removable, fractions))
    return (curve[:, :1] - curve[:, 1:]).mean(dim=1)


@removal_metric
def sufficiency(
    removals: Removals,
    *,
    fractions: Sequence[float] = FRACTIONS,
) -> Tensor:
    """How much the prediction loses with the most important tokens alone; lower is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(the top k(f))`, averaged over the fractions.

    Args:
        removals: what was called.
        fractions: of the tokens that may be removed; each keeps one token at least.

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
    curve = removals.curve(fraction_counts(removals.removable, fractions), order="others")
    return (curve[:, :1] - curve[:, 1:]).mean(dim=1)


@removal_metric
def aopc(
    removals: Removals,
    *,
    steps: int = 10,
    order: str = "most",
) -> Tensor:
    """Area over the perturbation curve: tokens go one by one.

    Samek et al. (2017), eq. 12, for text Nguyen (2018), section 3.1:
    `1/(K+1) sum_{k=1..K} p(x) - p(x - top k)`, with K = `steps`, or n where a text has fewer tokens.

    Args:
        removals: what was called.
        steps: how many tokens go, one after the other.
        order: "most" important first, where higher is better, or "least", where lower is.

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
    tokens = removals.removable.sum(dim=1, keepdim=True)
    counts = torch.arange(1, steps + 1, device=tokens.device).expand(len(tokens), -1)
    curve = removals.curve(counts.minimum(tokens), order)
    drop = (curve[:, :1] - curve[:, 1:]) * (counts <= tokens)
    return drop.sum(dim=1) / (tokens[:, 0].clamp(max=steps) + 1)


@removal_metric
def log_odds(
    removals: Removals,
    *,
    fractions: Sequence[float] = (0.2,),
) -> Tensor:
    """Change of the log probability without the most important tokens; lower is better.

    Chen et al. (2020), section 4.2, after Shrikumar et al. (2017), section 4.1:
    `log p(x - top k(f)) - log p(x)`, averaged over the fractions. The activation must give probabilities,
    not their logarithms; 0 counts as the smallest number that the dtype holds.

    Args:
        removals: what was called.
        fractions: of the tokens that may be removed; each removes one token at least.

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
    curve = removals.curve(fraction_counts(removals.removable, fractions))
    if bool((curve < 0).any()):
        raise ValueError("log_odds needs probabilities, and activation gave a negative number.")
    logs = curve.clamp(min=torch.finfo(curve.dtype).tiny).log()
    return (logs[:, 1:] - logs[:, :1]).mean(dim=1)


@removal_metric
def accuracy(
    removals: Removals,
    *,
    fractions: Sequence[float] = FRACTIONS,
    order: str = "most",
) -> Tensor:
    """How often the target is still predicted as tokens go; lower is better for "most".

    The share of the fractions at which the class with the highest output is the target: with one
    fraction 0 or 1, whose mean over texts is the accuracy. `target` is the right class, an int or one for
    each example; left out, the predicted one.

    Args:
        removals: what was called.
        fractions: of the tokens that may be removed; each removes one token at least.
        order: as for :func:`removal_curve`.

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
    outputs, target = removals.outputs(fraction_counts(removals.removable, fractions), order)
    if outputs.ndim != 3 or outputs.shape[2] < 2:
        raise ValueError(f"accuracy needs outputs (B, C) with C > 1, got {tuple(outputs[:, 0].shape)}.")
    selected(outputs, target)  # refuses what Captum refuses
    right = torch.as_tensor(target, device=outputs.device).reshape(-1, 1) % outputs.shape[2]
    return (outputs[:, 1:].argmax(dim=2) == right).to(outputs.dtype).mean(dim=1)
