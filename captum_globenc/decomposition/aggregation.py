"""Aggregate token-to-token matrices over layers: how much of each input token reaches a later token.

B batch, L layers, N tokens, P rows.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_globenc.decomposition.flow import max_flow
from captum_globenc.decomposition.mixing import Mixture, matrix_of
from captum_globenc.decomposition.workspace import full_precision


def rollout(
    mixtures: Sequence[Mixture | Tensor], start: Tensor, every_depth: bool = False
) -> tuple[Tensor, Tensor]:
    """Multiply rows of weights with the matrices of all layers (Abnar and Zuidema 2020, section 3).

    The rollout is `G_1 = X_1`, `G_l = X_l G_{l-1}`, without normalization and without adding an identity.
    Each of its rows is a row vector multiplied with the matrices from the last layer to the first, which
    costs O(L N^2); the product of the matrices costs O(L N^3). Values grow by a factor of about 15 per layer,
    so each row is rescaled at every layer, and the logarithm of its scale is returned.

    Args:
        mixtures: `X_1 ... X_L`, each `(B, N, N)`, [receiver, source].
        start: `(B, P, N)`, weights of the receivers after layer L. Rows of the identity give rows
            of the rollout.
        every_depth: whether to return the rows of `G_1` to `G_L`, in this order, instead of `G_L`'s.

    Returns:
        Rows `(B, P, N)`, or `(B, L P, N)`, with largest entry 1 (0 if no weight arrives), and the float64
        logarithm `(B, P)` of their scales.

    Example:
        >>> mixture = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]])
        >>> rows, log_scale = rollout([mixture, mixture], torch.tensor([[[1.0, 0.0]]]))
        >>> rows * log_scale.exp().float()[..., None]
        tensor([[[0.2500, 0.7500]]])
    """
    rows = start[:, :0] if every_depth else start
    scales: list[Tensor] = []
    for mixture in reversed(mixtures):
        if every_depth:
            rows = torch.cat([start, rows], dim=1)
        rows = mixture.left_multiply(rows) if isinstance(mixture, Mixture) else torch.bmm(rows, mixture)
        scale = rows.amax(dim=-1, keepdim=True)
        scales.append(scale.masked_fill_(scale == 0, 1))
        rows = rows / scale
    count = rows.shape[1]
    if every_depth:  # rows that start at a lower depth have no scale above it
        scales = [torch.nn.functional.pad(it, (0, 0, count - it.shape[1], 0), value=1.0) for it in scales]
    return rows, torch.cat(scales, dim=-1).double().log().sum(-1)


def _flows(
    mixtures: Sequence[Mixture | Tensor], start: Tensor, every_depth: bool = False
) -> tuple[Tensor, Tensor]:
    """Return maximum flows; see :func:`rollout` for the arguments and the result."""
    matrices = [matrix_of(it) for it in mixtures]
    depths = range(1 if every_depth else len(matrices), len(matrices) + 1)
    rows, scales = zip(*(max_flow(matrices[:depth], start) for depth in depths), strict=True)
    return torch.cat(rows, dim=1), torch.cat(scales, dim=1)


AGGREGATIONS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"rollout": rollout, "max-flow": _flows}
"""Aggregations by name, with the signature of :func:`rollout`."""


def gather(
    mixtures: Sequence[Mixture | Tensor],
    start: Tensor,
    aggregation: str = "rollout",
    normalize: bool = True,
    every_depth: bool = False,
) -> Tensor:
    """Return how much of each input token reaches the given receivers.

    Args:
        mixtures: `X_1 ... X_L`, each `(B, N, N)`, [receiver, source].
        start: `(B, P, N)`, weights of the receivers after layer L, for each row.
        aggregation: one of :data:`AGGREGATIONS`.
        normalize: whether each row sums to 1, or has the raw scale.
        every_depth: whether to return the rows after every layer, 1 to L, instead of layer L's.

    Returns:
        `(B, P, N)`, or `(B, L P, N)`.

    Raises:
        OverflowError: the raw scale exceeds the dtype.

    Example:
        >>> mixture = torch.tensor([[[2.0, 2.0], [0.0, 4.0]]])
        >>> gather([mixture], torch.tensor([[[1.0, 0.0]]]))
        tensor([[[0.5000, 0.5000]]])
    """
    with full_precision(start):
        rows, log_scale = AGGREGATIONS[aggregation](mixtures, start, every_depth)
    if normalize:
        total = rows.sum(dim=-1, keepdim=True)
        return rows / total.where(total > 0, 1)
    limits = torch.finfo(rows.dtype)
    if bool((log_scale > math.log(limits.max)).any()):
        raise OverflowError(
            f"After {len(mixtures)} layers the raw scale is 10^{log_scale.max().item() / math.log(10):.0f}, "
            f"more than {rows.dtype} can hold: use normalize=True, or a float64 model."
        )
    return (rows.double() * log_scale.exp()[..., None]).to(rows.dtype)
