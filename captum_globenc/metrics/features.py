"""Metrics of features, such as sentences: the drop without the top k, the linear datamodeling score.

B batch, N tokens, F features, K variants of each example.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from captum_globenc.metrics.agreement import spearman
from captum_globenc.metrics.curve import Removals, removal_masks, removal_metric


@dataclass(frozen=True)
class _Features:
    """The features of a call.

    Attributes:
        removals: the call.
        feature_mask: `(B, N)` or `(1, N)`, or None.
    """

    removals: Removals
    feature_mask: Tensor | None

    @cached_property
    def numbers(self) -> Tensor:
        """`(B, N)`, the feature of each token; -1 at tokens that are never removed."""
        may = self.removals.removable
        if self.feature_mask is None:
            given = torch.arange(may.shape[1], device=may.device)[None]
        elif self.feature_mask.shape in (may.shape, (1, may.shape[1])):
            given = self.feature_mask.to(may.device).long()
        else:
            raise ValueError(
                f"feature_mask is {tuple(self.feature_mask.shape)} for inputs {tuple(may.shape)}: pass one "
                "number per token."
            )
        return given.expand(may.shape).masked_fill(~may, -1)

    @cached_property
    def scores(self) -> Tensor:
        """`(B, F)` float64, the sum of the scores of each feature's tokens."""
        scores = self.removals.scores.double().masked_fill(self.numbers < 0, 0)
        zeros = scores.new_zeros(len(scores), max(1, int(self.numbers.max()) + 1))
        return zeros.scatter_add(1, self.numbers.clamp(min=0), scores)

    @cached_property
    def present(self) -> Tensor:
        """`(B, F)`, True at the features of each example."""
        every = torch.arange(self.scores.shape[1], device=self.numbers.device)
        return torch.stack([torch.isin(every, row) for row in self.numbers])

    def drawn(self, count: int, seed: int) -> Tensor:
        """Return random subsets of the features of each example, `(B, count, F)`."""
        kept = torch.zeros(len(self.present), count, self.present.shape[1], dtype=torch.bool)
        for row, present in zip(kept, self.present.cpu(), strict=True):
            generator = torch.Generator().manual_seed(seed)
            row[:, present] = torch.rand(count, int(present.sum()), generator=generator) < 0.5
        return kept

    def outputs(self, gone: Tensor) -> Tensor:
        """Return the outputs `(B, K + 1)` of the whole input and without features `(B, K, F)`."""
        index = self.numbers.clamp(min=0)[:, None].expand(-1, gone.shape[1], -1)
        return self.removals.without(gone.gather(2, index) & (self.numbers >= 0)[:, None]).double()


@removal_metric
def top_k_drop(removals: Removals, k: int = 1, feature_mask: Tensor | None = None) -> Tensor:
    """Return the drop of the output when the k features with the highest scores are removed.

    Cohen-Wang et al. (2024), ContextCite, section 4: features are the sentences of a prompt, and the output
    is the log-probability of the answer. The score of a feature is the sum of the scores of its tokens.

    Args:
        removals: the call.
        k: the number of features that are removed; all of them if there are fewer.
        feature_mask: `(B, N)` or `(1, N)`, the number of each token's feature, as in Captum; -1 at tokens
            that are never removed. By default each token is a feature.

    Returns:
        `(B,)` float64, in units of the output; higher is better.

    Raises:
        ValueError: `k` is less than 1, shapes do not match, or scores are not finite.

    Example:
        >>> ids, scores = torch.tensor([[1, 5, 3, 4]]), torch.tensor([[0.1, 0.4, 0.2, 0.2]])
        >>> top_k_drop(
        ...     lambda ids: ids.sum(1).float(), ids, scores, 0, feature_mask=torch.tensor([[0, 0, 1, 1]])
        ... )
        tensor([6.], dtype=torch.float64)
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least 1")
    features = _Features(removals, feature_mask)
    counts = torch.full((len(features.numbers), 1), k)
    outputs = features.outputs(removal_masks(features.scores, features.present, counts, "most"))
    return (outputs[:, 0] - outputs[:, 1]).where(features.present.any(dim=1), torch.nan)


@removal_metric
def linear_datamodeling_score(
    removals: Removals,
    feature_mask: Tensor | None = None,
    n_samples: int = 64,
    seed: int = 0,
    subsets: Tensor | None = None,
) -> Tensor:
    """Return how well sums of scores rank the outputs for random subsets of the features (LDS).

    Park et al. (2023), TRAK, and Cohen-Wang et al. (2024), ContextCite, section 4: Spearman's correlation,
    over subsets with each feature kept with probability 1/2, of the sum of the scores of the kept features
    with the output for these features.

    Args:
        removals: the call.
        feature_mask: `(B, N)` or `(1, N)`, the number of each token's feature, as in Captum; -1 at tokens
            that are never removed. By default each token is a feature.
        n_samples: the number of subsets.
        seed: the seed of the subsets. They depend on it and on the number of features alone.
        subsets: `(B, K, F)`, True at the kept features: K subsets instead of random ones.

    Returns:
        `(B,)` float64, in [-1, 1]; higher is better. NaN if the scores or the outputs are all equal.

    Raises:
        ValueError: there are fewer than two subsets, shapes do not match, or scores are not finite.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> linear_datamodeling_score(lambda ids: ids.sum(1).float(), ids, ids * 2.0, 0)
        tensor([1.], dtype=torch.float64)
    """
    if n_samples < 2:
        raise ValueError(f"n_samples is {n_samples}: at least 2")
    features = _Features(removals, feature_mask)
    kept = features.drawn(n_samples, seed) if subsets is None else subsets
    if (kept.shape[0], kept.shape[-1]) != features.present.shape:
        raise ValueError(
            f"subsets is {tuple(kept.shape)}: pass (B, K, F), here ({len(features.present)}, K, "
            f"{features.present.shape[1]})"
        )
    kept = kept.bool().to(features.present.device)
    outputs = features.outputs(features.present[:, None] & ~kept)
    return spearman((kept * features.scores[:, None]).sum(-1), outputs[:, 1:])
