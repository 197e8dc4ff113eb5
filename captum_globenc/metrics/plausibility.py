"""Compare scores with marked tokens: human rationales (plausibility), or tokens that are known to decide.

`auprc`, `token_f1` and `token_iou` compare with rationales, by scikit-learn: DeYoung et al. (2020), "ERASER",
section 4; ferret (Attanasio et al. 2023) for intersection over union of tokens. `precision_at`, `first_rank`
and `names_decoy` are for data in which marked tokens decide by construction (Bastings et al. 2022, "Will You
Find These Shortcuts?", section 3). Signed scores rank tokens that support an output; rank their absolute
values to find the tokens that the model used.

B batch, N tokens, D embedding size.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_globenc.extras import optional
from captum_globenc.metrics.agreement import by_text, per_token


def auprc(attributions: Tensor, rationales: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the area under the precision-recall curve of the scores; higher is better.

    Integrated by trapezoids, as in ERASER's own code.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        rationales: `(B, N)`, True at the tokens that people marked.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.

    Returns:
        `(B,)` float64, in [0, 1]; NaN if no token is marked.

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

    return _compare_with_marked(area, attributions, rationales, mask)


def token_f1(
    attributions: Tensor, rationales: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """Return the F1 score of the highest scored tokens and the marked tokens; higher is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        rationales: `(B, N)`, True at the tokens that people marked.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.
        top: number of highest scored tokens; ERASER uses a data set's mean number of marked tokens. None for
            the number of marked tokens of each text. Of equal scores, the first ranks higher.

    Returns:
        `(B,)` float64, in [0, 1]; NaN if no token is marked.

    Raises:
        ValueError: the shapes do not match, or `top` is less than 1.
        ImportError: scikit-learn is not installed.

    Example:
        >>> token_f1(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1, 1, 0]]))
        tensor([0.5000], dtype=torch.float64)
    """
    statistic = optional("sklearn.metrics").f1_score
    return _compare_with_marked(_of_top(statistic, top), attributions, rationales, mask)


def token_iou(
    attributions: Tensor, rationales: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """Return the intersection over union of the highest scored and the marked tokens; higher is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        rationales: `(B, N)`, True at the tokens that people marked.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.
        top: number of highest scored tokens. None for the number of marked tokens of each text. Of equal
            scores, the first ranks higher.

    Returns:
        `(B,)` float64, in [0, 1]; NaN if no token is marked.

    Raises:
        ValueError: the shapes do not match, or `top` is less than 1.
        ImportError: scikit-learn is not installed.

    Example:
        >>> token_iou(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[1, 1, 0]])).round(decimals=4)
        tensor([0.3333], dtype=torch.float64)
    """
    statistic = optional("sklearn.metrics").jaccard_score
    return _compare_with_marked(_of_top(statistic, top), attributions, rationales, mask)


def _of_top(statistic: Callable[..., float], top: int | None) -> Callable[[Tensor, Tensor], float]:
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; it must be at least 1.")

    def of_top(scores: Tensor, marked: Tensor) -> float:
        count = int(marked.sum()) if top is None else top
        taken = torch.zeros_like(marked)
        taken[scores.argsort(descending=True, stable=True)[:count]] = True
        return float(statistic(marked.numpy(), taken.numpy()))

    return of_top


def _compare_with_marked(
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


def precision_at(
    attributions: Tensor, marked: Tensor, mask: Tensor | None = None, *, top: int | None = None
) -> Tensor:
    """Return the share of the highest scored tokens that are marked; higher is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        marked: `(B, N)`, True at the tokens that decide.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.
        top: number of highest scored tokens. None for the number of marked tokens of each text. Of equal
            scores, the first ranks higher.

    Returns:
        `(B,)` float64, in [0, 1]; NaN if no token is marked.

    Raises:
        ValueError: the shapes do not match, the scores are not finite, or `top` is less than 1.

    Example:
        >>> precision_at(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0, 1, 0]]), top=2)
        tensor([0.5000], dtype=torch.float64)
    """
    ranks, chosen = _ranks(attributions, marked, mask)
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; it must be at least 1.")
    count = chosen.sum(dim=1)
    taken = count if top is None else torch.full_like(count, top)
    right = (chosen & (ranks <= taken[:, None])).sum(dim=1)
    return (right.double() / taken).where(count > 0, torch.nan)


def first_rank(attributions: Tensor, marked: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the rank of the highest scored marked token, 1 for the highest of all; lower is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        marked: `(B, N)`, True at the tokens that decide.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.

    Returns:
        `(B,)` float64, at least 1; NaN if no token is marked.

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
    """Return whether a decoy is among the k highest scored tokens of a text with k marked; lower is better.

    Args:
        attributions: scores `(B, N)`, or `(B, N, D)`, which are summed over D.
        decoys: `(B, N)`, True at tokens that look like marked ones but have no effect.
        marked: `(B, N)`, True at the tokens that decide.
        mask: `(B, N)`, True at the tokens to rank; None for all tokens.

    Returns:
        `(B,)` float64, 1 if a decoy is among these tokens, else 0; NaN if no token is marked, or there is no
        decoy.

    Raises:
        ValueError: the shapes do not match, or the scores are not finite.

    Example:
        >>> names_decoy(torch.tensor([[0.1, 0.7, 0.2]]), torch.tensor([[0, 1, 0]]), torch.tensor([[0, 0, 1]]))
        tensor([1.], dtype=torch.float64)
    """
    _, chosen = _ranks(attributions, marked, mask)
    ranks, decoyed = _ranks(attributions, decoys, mask)
    count = chosen.sum(dim=1)
    named = (decoyed & (ranks <= count[:, None])).any(dim=1)
    return named.double().where((count > 0) & decoyed.any(dim=1), torch.nan)


def _ranks(attributions: Tensor, marked: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the rank of each token, from 1, with unselected tokens last, and the marked tokens, `(B, N)`."""
    scores = per_token(attributions)
    selection = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask.bool()
    if not scores.shape == marked.shape == selection.shape:
        raise ValueError(
            f"shapes must be equal: attributions {tuple(scores.shape)}, marked {tuple(marked.shape)}, mask "
            f"{tuple(selection.shape)}."
        )
    scores = scores.masked_fill(~selection, 0)
    if not bool(scores.isfinite().all()):
        raise ValueError("attributions are NaN or infinite, and cannot be ranked.")
    order = scores.masked_fill(~selection, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1) + 1, marked.bool() & selection
