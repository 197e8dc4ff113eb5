"""Tokens and the inputs they stand for: which pixels, samples or bins feed each token.

Pure tensor maths; knows no model. B batch, N tokens, G tokens along one axis of a grid, S size of
that axis in the inputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One axis of the inputs, as a convolution (or a stack of them) cuts it into tokens.

    Args:
        dim: the dimension of the inputs.
        kernel: how many elements feed one token.
        stride: how far apart the tokens are.
        padding: how far the first token reaches ahead of the first element.

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
        """Return the axis that convolutions, one after the other, make of dimension `dim`."""
        kernel, stride, padding = 1, 1, 0
        for size, step, pad in zip(kernels, strides, paddings or [0] * len(kernels), strict=True):
            kernel += (size - 1) * stride
            padding += pad * stride
            stride *= step
        return cls(dim, kernel, stride, padding)

    def tokens(self, size: int) -> int:
        """Return G for S = `size`; 0 or less where the inputs are too small for one token."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def owners(self, size: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Give every element to the token whose stride it is in.

        Tokens overlap where the kernel is larger than the stride. Each then owns the middle of what
        feeds it, one stride, so that even scores stay even; what is left at both ends goes to the
        first and to the last.

        Args:
            size: S.
            tokens: `(B,)`, G of each example.

        Returns:
            Which token owns each element, `(B, S)`, and whether any token reads it at all, `(B, S)`.
        """
        element = torch.arange(size, device=tokens.device) + self.padding
        middle = (self.kernel - self.stride + 1) // 2
        last = tokens[:, None] - 1
        owner = torch.div(element - middle, self.stride, rounding_mode="floor").clamp(min=0)
        return torch.minimum(owner[None], last), element[None] < last * self.stride + self.kernel


@dataclass(frozen=True)
class Grid:
    """How the tokens of an encoder lie on its inputs.

    Args:
        ndim: number of dimensions of the inputs, the batch included.
        axes: from the slowest to the fastest in the order of the tokens.
        special: how many tokens stand ahead of the grid that nothing in the inputs feeds: class,
            distillation and register tokens.
    """

    ndim: int
    axes: tuple[Axis, ...]
    special: int = 0

    def fits(self, shape: Sequence[int], tokens: int) -> bool:
        """Whether inputs of `shape` make `tokens` tokens."""
        if len(shape) != self.ndim:
            return False
        counts = [axis.tokens(shape[axis.dim]) for axis in self.axes]
        return min(counts) > 0 and self.special + math.prod(counts) == tokens


def spread(
    scores: Tensor, shape: Sequence[int], grid: Grid | None = None, real: Tensor | None = None
) -> Tensor:
    """Spread each token's score evenly over the elements of the inputs that are its own.

    Args:
        scores: `(B, N)`.
        shape: of the inputs.
        grid: how tokens lie on them; None where each has an entry of dimension 1 to itself, as ids
            and embeddings do.
        real: `(B, N)`, False at padding, which follows the real tokens; None where all are real.

    Returns:
        Scores in `shape`, contiguous, that sum to the scores of the tokens, those of special tokens
        left out. Elements that no token reads are exactly 0.

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
    """Return what each token counts in an average of tokens and of means over slices of tokens.

    Args:
        parts: the positions, and the slices of positions, that are averaged.
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
    """Return how many tokens of an axis are real in each example, `(B,)`."""
    if real is None or len(grid.axes) > 1:
        return scores.new_full((scores.shape[0],), count, dtype=torch.long)
    return real[:, grid.special :].sum(dim=1).to(scores.device)


def _along(share: Tensor, dim: int, axis: Axis, size: int, lengths: Tensor) -> Tensor:
    """Replace dimension `dim` of `share`, tokens, by the elements that they own."""
    owner, read = axis.owners(size, lengths)
    count = share.new_zeros(share.shape[0], share.shape[dim])
    count.scatter_add_(1, owner.clamp(min=0), read.to(share.dtype))
    share, count = share.movedim(dim, -1), count.clamp(min=1)
    between = (-1, *(1 for _ in share.shape[1:-1]))
    share = share / count.reshape(*between, count.shape[1])
    owner = owner.clamp(min=0).reshape(*between, size).expand(*share.shape[:-1], size)
    share = share.gather(-1, owner).where(read.reshape(*between, size), 0)
    return share.movedim(-1, dim)
