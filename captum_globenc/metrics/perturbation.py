"""Perturbations of token ids for Captum's `infidelity` and `sensitivity_max`.

Captum's own perturbations add small numbers to the inputs, which ids do not allow. Captum repeats only the
inputs along the batch, so the tokens to keep are given by their ids, not by a mask.

B batch, N tokens.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_globenc.metrics.curve import fraction_counts


def infidelity_perturbation(
    baseline: int,
    keep: Sequence[int] = (),
    *,
    fraction: float = 0.2,
    generator: torch.Generator | None = None,
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a `perturb_func` of token ids for `captum.metrics.infidelity`.

    Yeh et al. (2019), section 3.1, "difference to baseline" with a random set of tokens: these become the
    baseline, and their perturbation is 1, so that scores of whole tokens fit.

    Args:
        baseline: the replacement, such as the mask token's id.
        keep: ids that are never replaced, such as special tokens and padding.
        fraction: share of the other tokens that is replaced, rounded up.
        generator: source of randomness; None for torch's default.

    Returns:
        A function of ids `(B, N)` that returns `(perturbation, perturbed ids)`, each `(B, N)`; the
        perturbation is floating-point.

    Raises:
        ValueError: `fraction` is not in (0, 1].

    Example:
        >>> perturb = infidelity_perturbation(baseline=4, keep=(2, 3), fraction=1.0)
        >>> perturb(torch.tensor([[2, 7, 8, 3]]))
        (tensor([[0., 1., 1., 0.]]), tensor([[2, 4, 4, 3]]))
    """
    _check(fraction)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        chosen = _choose(inputs, keep, fraction, generator)
        return chosen.float(), inputs.masked_fill(chosen, baseline)

    return perturb


def sensitivity_perturbation(
    candidates: Sequence[int],
    keep: Sequence[int] = (),
    *,
    fraction: float = 0.1,
    generator: torch.Generator | None = None,
) -> Callable[..., tuple[Tensor, ...]]:
    """Return a `perturb_func` of token ids for `captum.metrics.sensitivity_max`.

    It replaces a few tokens; Yeh et al. (2019), section 4, move the input within a small ball.

    Args:
        candidates: replacements, drawn uniformly: `[mask_token_id]`, or ids of words.
        keep: ids that are never replaced, such as special tokens and padding.
        fraction: share of the other tokens that is replaced, rounded up.
        generator: source of randomness; None for torch's default.

    Returns:
        A function of a tuple of one tensor of ids `(B, N)`, and of a radius, which is ignored. It returns a
        tuple of perturbed ids.

    Raises:
        ValueError: `fraction` is not in (0, 1], or there are no candidates.

    Example:
        >>> perturb = sensitivity_perturbation([4], keep=(2, 3), fraction=1.0)
        >>> perturb((torch.tensor([[2, 7, 8, 3]]),))
        (tensor([[2, 4, 4, 3]]),)
    """
    _check(fraction)
    if not candidates:
        raise ValueError("candidates is empty: pass the ids that may replace a token.")

    def perturb(inputs: Tensor | tuple[Tensor], radius: float = 0.0) -> tuple[Tensor, ...]:
        # Captum passes a tuple, or the tensor that it was given.
        (ids,) = inputs if isinstance(inputs, tuple) else (inputs,)
        chosen = _choose(ids, keep, fraction, generator)
        drawn = torch.randint(len(candidates), ids.shape, generator=generator)
        others = torch.tensor(candidates, dtype=ids.dtype)[drawn].to(ids.device)
        return (torch.where(chosen, others, ids),)

    return perturb


def _choose(ids: Tensor, keep: Sequence[int], fraction: float, generator: torch.Generator | None) -> Tensor:
    """Choose a fraction of each text's tokens at random, `(B, N)`."""
    free = ~torch.isin(ids, torch.tensor(keep, dtype=ids.dtype, device=ids.device))
    draw = torch.rand(ids.shape, generator=generator).to(ids.device).masked_fill(~free, -1)
    rank = draw.argsort(dim=1, descending=True).argsort(dim=1)
    return (rank < fraction_counts(free, [fraction])) & free


def _check(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must be in (0, 1].")
