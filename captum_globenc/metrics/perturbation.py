"""Perturbations of token ids for Captum's `infidelity` and `sensitivity_max`.

Captum's own add small numbers to the inputs, which ids do not take. Captum repeats the inputs along the
batch and nothing else, so which tokens stay is told by their ids, not by a mask.

Letters: B batch, N tokens.
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
    """Make a `perturb_func` for `captum.metrics.infidelity` over ids.

    Yeh et al. (2019), section 3.1, "difference to baseline" with a random set of tokens: some go to
    the baseline, and the perturbation is 1 there, as suits scores of whole tokens.

    Args:
        baseline: what is put in a token's place: the mask token's id.
        keep: ids that are never replaced: special tokens and padding.
        fraction: of the other tokens, rounded up: how many are replaced.
        generator: where the randomness comes from; left out, torch's own.

    Returns:
        A function of ids `(B, N)` that returns `(perturbation, perturbed ids)`, each `(B, N)`, the
        first a float.

    Raises:
        ValueError: `fraction` is not above 0 and at most 1.

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
    """Make a `perturb_func` for `captum.metrics.sensitivity_max` over ids.

    Where Yeh et al. (2019), section 4, move the input within a small ball, a few tokens become
    others.

    Args:
        candidates: the ids that a token may become, each as likely: `[mask_token_id]`, or ids of
            words.
        keep: ids that are never replaced: special tokens and padding.
        fraction: of the other tokens, rounded up: how many are replaced.
        generator: where the randomness comes from; left out, torch's own.

    Returns:
        A function of a tuple of one tensor of ids `(B, N)`, and of a radius, which is ignored, that
        returns such a tuple.

    Raises:
        ValueError: `fraction` is not above 0 and at most 1, or there are no candidates.

    Example:
        >>> perturb = sensitivity_perturbation([4], keep=(2, 3), fraction=1.0)
        >>> perturb((torch.tensor([[2, 7, 8, 3]]),))
        (tensor([[2, 4, 4, 3]]),)
    """
    _check(fraction)
    if not candidates:
        raise ValueError("candidates are needed: the ids that a token may become.")

    def perturb(inputs: Tensor | tuple[Tensor], radius: float = 0.0) -> tuple[Tensor, ...]:
        # Captum hands over a tuple, or the tensor itself where it was given one.
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
        raise ValueError(f"fraction is {fraction}; it has to be above 0 and at most 1.")
