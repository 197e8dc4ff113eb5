"""Agreement: rank correlation of two attributions of a text.

B batch, N tokens, D embedding size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.extras import optional


def spearman(attributions: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Spearman's rank correlation of two attributions for each text.

    Modarressi et al. (2022), section 4, compare attributions with gradients this way. Computed by
    `scipy.stats.spearmanr`.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        other: scores `(B, N)` or `(B, N, D)` to compare with.
        mask: `(B, N)`, True at the tokens to compare, such as all but padding and special tokens. None for
            all tokens.

    Returns:
        `(B,)` float64, in [-1, 1]; NaN if either is constant or fewer than two tokens are compared.

    Raises:
        ValueError: the shapes do not match.
        ImportError: scipy is not installed.

    Example:
        >>> spearman(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1.0, 9.0, 3.0]]))
        tensor([1.], dtype=torch.float64)
    """
    return _rank_agreement(optional("scipy.stats").spearmanr, attributions, other, mask)


def kendall(attributions: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return Kendall's rank correlation (tau-b) of two attributions for each text.

    ferret compares attributions with leave-one-out this way (Attanasio et al. 2023). Computed by
    `scipy.stats.kendalltau`.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        other: scores `(B, N)` or `(B, N, D)` to compare with.
        mask: `(B, N)`, True at the tokens to compare; None for all tokens.

    Returns:
        `(B,)` float64, in [-1, 1]; NaN if either is constant or fewer than two tokens are compared.

    Raises:
        ValueError: the shapes do not match.
        ImportError: scipy is not installed.

    Example:
        >>> kendall(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=4)
        tensor([0.3333], dtype=torch.float64)
    """
    return _rank_agreement(optional("scipy.stats").kendalltau, attributions, other, mask)


def _rank_agreement(
    correlation: Callable[..., Any], attributions: Tensor, other: Tensor, mask: Tensor | None
) -> Tensor:
    def agreement(first: Tensor, second: Tensor) -> float:
        # Neither statistic is defined for a constant, for which scipy would warn.
        if any(bool((row == row[:1]).all()) for row in (first, second)):
            return torch.nan
        return float(correlation(first.numpy(), second.numpy()).statistic)

    return by_text(agreement, mask, attributions=per_token(attributions), other=per_token(other))


def by_text(
    statistic: Callable[[Tensor, Tensor], float],
    mask: Tensor | None,
    **rows: Tensor,
) -> Tensor:
    """Return a statistic of the selected tokens of two tensors for each text.

    Args:
        statistic: function of the two vectors of one text, on the CPU.
        mask: `(B, N)`, True at the selected tokens; None for all tokens.
        **rows: two tensors `(B, N)`, by the names used in error messages.

    Returns:
        `(B,)` float64.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> a, b = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 1.0, 9.0]])
        >>> by_text(lambda x, y: float(x @ y), torch.tensor([[1, 1, 0]]), one=a, other=b)
        tensor([3.], dtype=torch.float64)
    """
    first, second = (row.cpu() for row in rows.values())
    selection = torch.ones_like(first, dtype=torch.bool) if mask is None else mask.bool().cpu()
    if not first.shape == second.shape == selection.shape:
        shapes = {**rows, "mask": selection}
        found = ", ".join(f"{name} {tuple(row.shape)}" for name, row in shapes.items())
        raise ValueError(f"shapes must be equal: {found}.")
    values = [statistic(a[keep], b[keep]) for a, b, keep in zip(first, second, selection, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def per_token(attributions: Tensor) -> Tensor:
    """Return one score per token, `(B, N)` float64; scores of embeddings `(B, N, D)` are summed."""
    scores = attributions.detach().double()
    return scores.flatten(2).sum(dim=2) if scores.ndim > 2 else scores
