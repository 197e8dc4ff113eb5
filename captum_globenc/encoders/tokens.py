"""Map token scores to inputs: which pixels, samples or bins each token is computed from.

B batch, N tokens, G tokens along one axis of a grid, S size of that axis in the inputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis of the inputs, cut into tokens by convolutions.

    Args:
        dim: the dimension of the inputs.
        kernel: number of elements that one token is computed from.
        stride: distance of successive tokens, in elements.
        padding: number of elements that the first token reaches before the start of the axis.

    Example:
        >>> Axis.of_convolutions(dim=1, kernels=(10, 3), strides=(5, 2))
        Axis(dim=1, kernel=20, stride=10, padding=0)
    """

    dim: int
    kernel: int
    stride: int
    padding: int = 0

    @classmethod
    def of_convolutions(
        cls, dim: int, kernels: Sequence[int], strides: Sequence[int], paddings: Sequence[int] | None = None
    ) -> "Axis":
        """Return the axis of successive convolutions along dimension `dim`."""
        kernel, stride, padding = 1, 1, 0
        for size, step, pad in zip(kernels, strides, paddings or [0] * len(kernels), strict=True):
            kernel += (size - 1) * stride
            padding += pad * stride
            stride *= step
        return cls(dim, kernel, stride, padding)

    def tokens(self, size: int) -> int:
        """Return G for S = `size`; 0 or less if the inputs are too small for one token."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def owners(self, size: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Assign every element to one token.

        Tokens overlap if the kernel is larger than the stride. Each token then owns the stride in the middle
        of its kernel, so that uniform scores stay uniform. Elements left at both ends go to the first and the
        last token.

        Args:
            size: S.
            tokens: `(B,)`, G of each example.

        Returns:
            The token that owns each element, `(B, S)`, and whether any token reads it, `(B, S)`.
        """
        element = torch.arange(size, device=tokens.device) + self.padding
        middle = (self.kernel - self.stride + 1) // 2
        last = tokens[:, None] - 1
        owner = torch.div(element - middle, self.stride, rounding_mode="floor").clamp(min=0)
        return torch.minimum(owner[None], last), element[None] < last * self.stride + self.kernel


@dataclass(frozen=True)
class Grid:
    """The layout of an encoder's tokens on its inputs.

    Args:
        ndim: number of dimensions of the inputs, including the batch.
        axes: from the slowest to the fastest in the order of the tokens.
        special: number of tokens before the grid that do not depend on the inputs: class, distillation and
            register tokens.
    """

    ndim: int
    axes: tuple[Axis, ...]
    special: int = 0

    def fits(self, shape: Sequence[int], tokens: int) -> bool:
        """Whether inputs of `shape` give `tokens` tokens."""
        if len(shape) != self.ndim:
            return False
        counts = [axis.tokens(shape[axis.dim]) for axis in self.axes]
        return min(counts) > 0 and self.special + math.prod(counts) == tokens


def spread(
    scores: Tensor, shape: Sequence[int], grid: Grid | None = None, real: Tensor | None = None
) -> Tensor:
    """Distribute each token's score evenly over the input elements that it owns.

    Args:
        scores: `(B, N)`.
        shape: of the inputs.
        grid: layout of tokens on the inputs; None if dimension 1 has one entry per token, as for ids and
            embeddings.
        real: `(B, N)`, False at padding, which follows the real tokens; None if every token is real.

    Returns:
        Scores in `shape`, contiguous, with the same sum as the scores of all but special tokens. Elements
        that no token reads are exactly 0.

    Example:
        >>> image = Grid(ndim=4, axes=(Axis(2, kernel=2, stride=2), Axis(3, kernel=2, stride=2)), special=1)
        >>> spread(torch.tensor([[0.5, 0.4, 0.1]]), (1, 1, 2, 5), image)
        tensor([[[[0.1000, 0.1000, 0.0250, 0.0250, 0.0000],
                  [0.1000, 0.1000, 0.0250, 0.0250, 0.0000]]]])
    """
    if grid is None:
        share = scores / math.prod(shape[2:])
        return share.reshape(*share.shape, *(1 for _ in shape[2:])).expand(*shape).contiguous()
    counts = [axis.tokens(shape[axis.dim]) for axis in grid.axes]
    share = scores[:, grid.special :].reshape(-1, *counts)
    for dim, axis in enumerate(grid.axes, start=1):
        share = _along(share, dim, axis, shape[axis.dim], _lengths(scores, counts[dim - 1], grid, real))
    used = [axis.dim for axis in grid.axes]
    share = share.permute(0, *(1 + used.index(dim) for dim in sorted(used)))
    for dim, size in enumerate(shape):
        if dim not in (0, *used):
            share = share.unsqueeze(dim) / size
    return share.expand(*shape).contiguous()


def pooled_weights(parts: Sequence[int | slice], tokens: int) -> Tensor:
    """Return the weight of each token in an average of tokens and of means over slices.

    Args:
        parts: the positions and slices that are averaged.
        tokens: N.

    Returns:
        `(N,)`, summing to 1.

    Example:
        >>> pooled_weights((0, slice(1, None)), tokens=5)
        tensor([0.5000, 0.1250, 0.1250, 0.1250, 0.1250], dtype=torch.float64)
    """
    weights = torch.zeros(tokens, dtype=torch.float64)
    for part in parts:
        chosen = weights[part]
        weights[part] = chosen + 1 / (len(parts) * max(chosen.numel(), 1))
    return weights


def _lengths(scores: Tensor, count: int, grid: Grid, real: Tensor | None) -> Tensor:
    """Return the number of real tokens along an axis for each example, `(B,)`."""
    if real is None or len(grid.axes) > 1:
        return scores.new_full((scores.shape[0],), count, dtype=torch.long)
    return real[:, grid.special :].sum(dim=1).to(scores.device)


def _along(share: Tensor, dim: int, axis: Axis, size: int, lengths: Tensor) -> Tensor:
    """Replace dimension `dim` of `share`, tokens, by the elements they own."""
    owner, read = axis.owners(size, lengths)
    count = share.new_zeros(share.shape[0], share.shape[dim])
    count.scatter_add_(1, owner.clamp(min=0), read.to(share.dtype))
    share, count = share.movedim(dim, -1), count.clamp(min=1)
    between = (-1, *(1 for _ in share.shape[1:-1]))
    share = share / count.reshape(*between, count.shape[1])
    owner = owner.clamp(min=0).reshape(*between, size).expand(*share.shape[:-1], size)
    share = share.gather(-1, owner).where(read.reshape(*between, size), 0)
    return share.movedim(-1, dim)
