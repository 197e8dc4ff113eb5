"""Agreement: whether two attributions rank the tokens of a text alike.

Letters: B batch, N tokens, D embedding size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_globenc.extras import optional


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
    statistic = optional("scipy.stats").spearmanr
    return _by_text(lambda a, b: float(statistic(a, b).statistic), attributions, other, mask)


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
    statistic = optional("scipy.stats").kendalltau
    return _by_text(lambda a, b: float(statistic(a, b).statistic), attributions, other, mask)


def _by_text(
    statistic: Callable[[object, object], float], first: Tensor, second: Tensor, mask: Tensor | None
) -> Tensor:
    a, b = (_per_token(tensor) for tensor in (first, second))
    real = torch.ones(a.shape, dtype=torch.bool) if mask is None else mask.bool().cpu()
    if not a.shape == b.shape == real.shape:
        raise ValueError(f"attributions {tuple(a.shape)} and {tuple(b.shape)}, mask {tuple(real.shape)}.")
    values = []
    for x, y, keep in zip(a, b, real, strict=True):
        x, y = x[keep], y[keep]
        # Neither statistic is defined for a constant, about which scipy warns.
        defined = len(x) > 1 and len(x.unique()) > 1 and len(y.unique()) > 1
        values.append(statistic(x.numpy(), y.numpy()) if defined else torch.nan)
    return torch.tensor(values, dtype=torch.float64)


def _per_token(attributions: Tensor) -> Tensor:
    scores = attributions.detach().cpu().double()
    return scores.flatten(2).sum(dim=2) if scores.ndim > 2 else scores
