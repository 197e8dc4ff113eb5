"""Plausibility: whether the scores agree with the words that people marked as the reason.

The statistics are scikit-learn's. Sources: DeYoung et al. (2020), "ERASER", section 4; ferret (Attanasio
et al. 2023) for the token form of intersection over union.

Letters: B batch, N tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_globenc.extras import optional
from captum_globenc.metrics.by_text import by_text, per_token


def auprc(attributions: Tensor, rationales: Tensor, mask: Tensor | None = None) -> Tensor:
    """Area under the precision-recall curve as the threshold on the scores falls; higher is better.

    By trapezoids, as ERASER's own code.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        rationales: `(B, N)`, true at the tokens that people marked.
        mask: `(B, N)`, True at the tokens that count. Left out, all count.

    Returns:
        `(B,)` float64, 0 to 1; NaN where nothing is marked.

    Raises:
        ValueError: the shapes do not match.
        ImportError: scikit-learn is not installed.

    Example:
        >>> auprc(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0, 1, 0]]))
        tensor([1.], dtype=torch.float64)
    """
    metrics = optional("sklearn.metrics")

    def area(scores: Tensor, marked: Tensor) -> float:
        precision, recall, _ = metrics.precision_recall_curve(marked.numpy(), scores.numpy())
        return float(metrics.auc(recall, precision))

    return _against_marked(area, attributions, rationales, mask)


def token_f1(
    attributions: Tensor, rationales: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """F1 of the highest scored tokens against the marked ones; higher is better.

    Args:
        attributions: as for :func:`auprc`.
        rationales: as for :func:`auprc`.
        mask: as for :func:`auprc`.
        top: how many tokens are taken; ERASER takes a data set's mean number of marked tokens. Left
            out, as many as are marked in the text. Of equal scores the first counts as the higher.

    Returns:
        `(B,)` float64, 0 to 1; NaN where nothing is marked.

    Raises:
        ValueError: the shapes do not match, or `top` is less than 1.
        ImportError: scikit-learn is not installed.

    Example:
        >>> token_f1(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1, 1, 0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    statistic = optional("sklearn.metrics").f1_score
    return _against_marked(_of_top(statistic, top), attributions, rationales, mask)


def token_iou(
    attributions: Tensor, rationales: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """Intersection over union of the highest scored tokens and the marked ones; higher is better.

    Args:
        attributions: as for :func:`auprc`.
        rationales: as for :func:`auprc`.
        mask: as for :func:`auprc`.
        top: as for :func:`token_f1`.

    Returns:
        `(B,)` float64, 0 to 1; NaN where nothing is marked.

    Raises:
        ValueError: the shapes do not match, or `top` is less than 1.
        ImportError: scikit-learn is not installed.

    Example:
        >>> token_iou(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1, 1, 0]])).round(decimals=4)
        tensor([0.3333], dtype=torch.float64)
    """
    statistic = optional("sklearn.metrics").jaccard_score
    return _against_marked(_of_top(statistic, top), attributions, rationales, mask)


def _of_top(statistic: Callable[..., float], top: int | None) -> Callable[[Tensor, Tensor], float]:
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; at least one token has to be taken.")

    def of_top(scores: Tensor, marked: Tensor) -> float:
        count = int(marked.sum()) if top is None else top
        taken = torch.zeros_like(marked)
        taken[scores.argsort(descending=True, stable=True)[:count]] = True
        return float(statistic(marked.numpy(), taken.numpy()))

    return of_top


def _against_marked(
    statistic: Callable[[Tensor, Tensor], float],
    attributions: Tensor,
    rationales: Tensor,
    mask: Tensor | None,
) -> Tensor:
    def agreement(scores: Tensor, marked: Tensor) -> float:
        if not bool(scores.isfinite().all()):
            raise ValueError("attributions are NaN or infinite, and cannot be ranked.")
        return statistic(scores, marked) if bool(marked.any()) else torch.nan

    return by_text(agreement, mask, attributions=per_token(attributions), rationales=rationales.bool())
