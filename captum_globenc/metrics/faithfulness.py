"""Faithfulness: the change of the prediction when the most important tokens are removed.

Every metric has the signature of Captum's metrics (see :func:`~captum_globenc.metrics.curve.removal_metric`)
and returns one value per example, NaN if no token may be removed. p(x) is the probability of the target
class, p(x - top k) the probability without the k most important tokens, and k(f) the fraction f of the n
tokens, rounded up.

B batch, K steps, N tokens, D embedding size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_globenc.metrics.curve import Removals, fraction_counts, removal_metric
from captum_globenc.metrics.removal import selected

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""ERASER's bins (DeYoung et al. 2020, section 4)."""


@removal_metric
def comprehensiveness(removals: Removals, *, fractions: Sequence[float] = FRACTIONS) -> Tensor:
    """Return the drop of the prediction without the most important tokens; higher is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(x - top k(f))`, averaged over the fractions.
    A single fraction gives the value at that fraction.

    Args:
        removals: the call.
        fractions: of the tokens that may be removed; each removes at least one token.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not in (0, 1], or an argument is invalid; see :func:`removal_curve`.

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
def sufficiency(removals: Removals, *, fractions: Sequence[float] = FRACTIONS) -> Tensor:
    """Return the drop of the prediction with only the most important tokens; lower is better.

    DeYoung et al. (2020), "ERASER", section 4: `p(x) - p(the top k(f))`, averaged over the fractions.

    Args:
        removals: the call.
        fractions: of the tokens that may be removed; each keeps at least one token.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not in (0, 1], or an argument is invalid; see :func:`removal_curve`.

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
def aopc(removals: Removals, *, steps: int = 10, order: str = "most") -> Tensor:
    """Return the area over the perturbation curve, removing tokens one by one.

    Samek et al. (2017), eq. 12, for text Nguyen (2018), section 3.1:
    `1/(K+1) sum_{k=1..K} p(x) - p(x - top k)`, with K = `steps`, or n if a text has fewer tokens.

    Args:
        removals: the call.
        steps: number of tokens that are removed, one after the other.
        order: "most" removes the most important tokens first, and higher is better; "least" removes the
            least important ones first, and lower is better.

    Returns:
        `(B,)`.

    Raises:
        ValueError: `steps` is less than 1, or an argument is invalid; see :func:`removal_curve`.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> aopc(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     baselines=0, activation=lambda output: output, steps=2,
        ... )
        tensor([4.3333])
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1.")
    tokens = removals.removable.sum(dim=1, keepdim=True)
    counts = torch.arange(1, steps + 1, device=tokens.device).expand(len(tokens), -1)
    curve = removals.curve(counts.minimum(tokens), order)
    drop = (curve[:, :1] - curve[:, 1:]) * (counts <= tokens)
    return drop.sum(dim=1) / (tokens[:, 0].clamp(max=steps) + 1)


@removal_metric
def log_odds(removals: Removals, *, fractions: Sequence[float] = (0.2,)) -> Tensor:
    """Return the change of the log probability without the most important tokens; lower is better.

    Chen et al. (2020), section 4.2, after Shrikumar et al. (2017), section 4.1:
    `log p(x - top k(f)) - log p(x)`, averaged over the fractions. The activation must give probabilities,
    not their logarithms; 0 is replaced by the smallest positive number of the dtype.

    Args:
        removals: the call.
        fractions: of the tokens that may be removed; each removes at least one token.

    Returns:
        `(B,)`.

    Raises:
        ValueError: a fraction is not in (0, 1], a probability is negative, or an argument is invalid; see
            :func:`removal_curve`.

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
        raise ValueError("log_odds needs probabilities, but activation returned a negative number.")
    logs = curve.clamp(min=torch.finfo(curve.dtype).tiny).log()
    return (logs[:, 1:] - logs[:, :1]).mean(dim=1)


@removal_metric
def accuracy(removals: Removals, *, fractions: Sequence[float] = FRACTIONS, order: str = "most") -> Tensor:
    """Return how often the target is still predicted as tokens are removed; lower is better for "most".

    The share of the fractions at which the class with the highest output is the target. With one fraction it
    is 0 or 1, and its mean over texts is the accuracy. `target` is the right class, an int or one per
    example; None for the predicted class.

    Args:
        removals: the call.
        fractions: of the tokens that may be removed; each removes at least one token.
        order: "most" removes the highest scores first, "least" the lowest, "others" keeps the highest.

    Returns:
        `(B,)`, in [0, 1].

    Raises:
        ValueError: the output is not `(B, C)`, or an argument is invalid; see :func:`removal_curve`.

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
    selected(outputs, target)  # raises for a wrong target, as Captum does
    right = torch.as_tensor(target, device=outputs.device).reshape(-1, 1) % outputs.shape[2]
    return (outputs[:, 1:].argmax(dim=2) == right).to(outputs.dtype).mean(dim=1)
