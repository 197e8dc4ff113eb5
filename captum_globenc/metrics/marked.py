"""Truth that is known: whether the highest scores are at the tokens that decide, and not at a decoy.

For data in which marked tokens are the reason by construction (Bastings et al. 2022, "Will You Find These
Shortcuts?", section 3). Signed scores rank what speaks for an output; their absolute values what was used.

Letters: B batch, N tokens, D embedding size.
"""

import torch
from torch import Tensor

from captum_globenc.metrics.by_text import per_token


def precision_at(
    attributions: Tensor, marked: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """Share of the highest scored tokens that are marked; higher is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        marked: `(B, N)`, true at the tokens that decide.
        mask: `(B, N)`, True at the tokens that count. Left out, all count.
        top: how many tokens are taken. Left out, as many as are marked in the text. Of equal scores the
            first counts as the higher.

    Returns:
        `(B,)` float64, 0 to 1; NaN where nothing is marked.

    Raises:
        ValueError: the shapes do not match, the scores are not finite, or `top` is less than 1.

    Example:
        >>> precision_at(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0, 1, 0]]), top=2)
        tensor([0.5000], dtype=torch.float64)
    """
    ranks, chosen = _ranks(attributions, marked, mask)
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; at least one token has to be taken.")
    count = chosen.sum(dim=1)
    taken = count if top is None else torch.full_like(count, top)
    right = (chosen & (ranks <= taken[:, None])).sum(dim=1)
    return (right.double() / taken).where(count > 0, torch.nan)


def first_rank(attributions: Tensor, marked: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rank of the highest scored token that is marked, 1 for the highest of all; lower is better.

    Args:
        attributions: as for :func:`precision_at`.
        marked: as for :func:`precision_at`.
        mask: as for :func:`precision_at`.

    Returns:
        `(B,)` float64, from 1; NaN where nothing is marked.

    Raises:
        ValueError: the shapes do not match, or the scores are not finite.

    Example:
        >>> first_rank(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1, 0, 1]]))
        tensor([2.], dtype=torch.float64)
    """
    ranks, chosen = _ranks(attributions, marked, mask)
    first = ranks.double().masked_fill(~chosen, torch.inf).amin(dim=1)
    return first.where(first.isfinite(), torch.nan)


def names_decoy(attributions: Tensor, decoys: Tensor, marked: Tensor, mask: Tensor | None = None) -> Tensor:
    """Whether a decoy, which is without effect, is among as many tokens as are marked; lower is better.

    Args:
        attributions: as for :func:`precision_at`.
        decoys: `(B, N)`, true at the decoys.
        marked: as for :func:`precision_at`.
        mask: as for :func:`precision_at`.

    Returns:
        `(B,)` float64, 1 where a decoy is named and 0 where none is; NaN where nothing is marked, or there
        is no decoy.

    Raises:
        ValueError: the shapes do not match, or the scores are not finite.

    Example:
        >>> names_decoy(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0, 1, 0]]), torch.tensor([[0, 0, 1]]))
        tensor([1.], dtype=torch.float64)
    """
    _, chosen = _ranks(attributions, marked, mask)
    ranks, lures = _ranks(attributions, decoys, mask)
    count = chosen.sum(dim=1)
    named = (lures & (ranks <= count[:, None])).any(dim=1)
    return named.double().where((count > 0) & lures.any(dim=1), torch.nan)


def _ranks(attributions: Tensor, marked: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the rank of each token `(B, N)`, from 1, those that do not count last, and what is marked."""
    scores = per_token(attributions)
    counts = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    if not scores.shape == marked.shape == counts.shape:
        raise ValueError(
            f"attributions {tuple(scores.shape)}, marked {tuple(marked.shape)}, mask {tuple(counts.shape)}."
        )
    scores = scores.masked_fill(~counts, 0)
    if not bool(scores.isfinite().all()):
        raise ValueError("attributions are NaN or infinite, and cannot be ranked.")
    order = scores.masked_fill(~counts, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) + 1, marked.bool() & counts
