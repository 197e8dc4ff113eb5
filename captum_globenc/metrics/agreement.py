"""Agreement: whether two attributions rank the tokens of a text alike.

Letters: B batch, N tokens, D embedding size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.extras import optional
from captum_globenc.metrics.by_text import by_text, per_token


def spearman(attributions: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
    """Spearman's rank correlation of two attributions, text by text.

    What Modarressi et al. (2022), section 4, compare attributions with gradients by; the statistic is
    `scipy.stats.spearmanr`.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        other: likewise.
        mask: `(B, N)`, True at the tokens that count: False at padding, and at special tokens where
            these are not of interest. Left out, all count.

    Returns:
        `(B,)` float64, -1 to 1; NaN where either is constant or fewer than two tokens count.

    Raises:
        ValueError: the shapes do not match.
        ImportError: scipy is not installed.

    Example:
        >>> spearman(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1.0, 9.0, 3.0]]))
        tensor([1.], dtype=torch.float64)
    """
    return _rank_agreement(optional("scipy.stats").spearmanr, attributions, other, mask)


def kendall(attributions: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
    """Kendall's tau (tau-b) of two attributions, text by text.

    ferret compares attributions with leave-one-out by it (Attanasio et al. 2023); the statistic is
    `scipy.stats.kendalltau`.

    Args:
        attributions: as for :func:`spearman`.
        other: as for :func:`spearman`.
        mask: as for :func:`spearman`.

    Returns:
        `(B,)` float64, -1 to 1; NaN where either is constant or fewer than two tokens count.

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
        # Neither statistic is defined for a constant, about which scipy warns.
        if any(bool((row == row[:1]).all()) for row in (first, second)):
            return torch.nan
        return float(correlation(first.numpy(), second.numpy()).statistic)

    return by_text(agreement, mask, attributions=per_token(attributions), other=per_token(other))
