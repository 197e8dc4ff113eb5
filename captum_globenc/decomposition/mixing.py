"""Mixing: how much of every token one encoder layer passes to every other, by the paper's kinds.

Modarressi et al. (2022), section 3. Per layer and receiver i, source j:

    T_ij  = sum_h a[h,i,j] W_O^h v[h,j]           N       = ||T_ij||      Kobayashi et al. (2020)
    R_ij  = T_ij + [i=j] x_i                      N-Res   = ||R_ij||      Kobayashi et al. (2021)
    R_ij read through the first normalisation     N-ResLN                 Kobayashi et al. (2021)
    R_ij read through the layer's output          N-Enc                   eq. 9

Letters: B batch, N tokens, H heads, and of a tile b texts, S sources, R receivers.
"""

from collections.abc import Callable

from torch import Tensor

from captum_globenc.decomposition.mixture import Kind, Mixture, without_padding
from captum_globenc.decomposition.norms import MixingRatios, VectorNorms
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.weights import Weights
from captum_globenc.decomposition.workspace import Tile, Workspace


class _Average:
    """W: attention averaged over heads."""

    in_blocks = True

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        return weights.mean(dim=1)


class _FixedResidual:
    """Half a kind, its rows made to sum to 1, and half the identity.

    Abnar and Zuidema (2020), section 3: the residual connection taken to weigh as much as attention.
    """

    in_blocks = False

    def __init__(self, kind: Kind, real: Tensor | None) -> None:
        self._kind = kind
        self._real = real

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        mixture = _summing_to_one(without_padding(self._kind.tile(weights, tile), tile, self._real))
        tile.own(mixture)[1].add_(1)
        return mixture / 2


class _ResidualWeights:
    """W-Res: attention to the other tokens, in the proportion that N-Enc's ratio tells.

    Modarressi et al. (2022), section 3.3. A token that has no other keeps itself.
    """

    in_blocks = False

    def __init__(self, record: LayerRecord) -> None:
        self._real = record.real
        self._ratios = MixingRatios(record, "N-Enc")

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        ratios = self._ratios.tile(weights, tile)
        mixture = without_padding(weights.mean(dim=1), tile, self._real)
        tile.own(mixture)[1].zero_()
        mixture = _summing_to_one(mixture) * ratios[:, None]
        tile.own(mixture)[1].copy_(1 - ratios)
        return mixture


def _summing_to_one(mixture: Tensor) -> Tensor:
    """Make what each receiver of `(b, S, R)` takes sum to 1; zeros stay zero."""
    total = mixture.sum(dim=1, keepdim=True)
    return mixture / total.where(total > 0, 1)


def _norms(mixing: str) -> Callable[[LayerRecord, Workspace, Weights], Kind]:
    return lambda record, space, weights: VectorNorms(record, mixing, space, weights.own())


MIXINGS: dict[str, Callable[[LayerRecord, Workspace, Weights], Kind]] = {
    "W": lambda record, space, weights: _Average(),
    "W-FixedRes": lambda record, space, weights: _FixedResidual(_Average(), record.real),
    "W-Res": lambda record, space, weights: _ResidualWeights(record),
    "N": _norms("N"),
    "N-FixedRes": lambda record, space, weights: _FixedResidual(
        _norms("N")(record, space, weights), record.real
    ),
    "N-Res": _norms("N-Res"),
    "N-ResLN": _norms("N-ResLN"),
    "N-Enc": _norms("N-Enc"),
}
"""The kinds of mixing by the paper's names (section 3.3)."""


def mix(record: LayerRecord, mixing: str, workspace: Workspace) -> Mixture:
    """Return what the layer passes from every source to every receiver, to be asked for in tiles.

    Args:
        record: one layer of one forward pass.
        mixing: one of :data:`MIXINGS`.
        workspace: memory to work in, for layers after one another.
    """
    weights = record.attention.weights(record.stream.dtype)
    kind = MIXINGS[mixing](record, workspace, weights)
    return Mixture(record, kind, weights, workspace)


def mixing_norms(record: LayerRecord, mixing: str = "N-Enc", workspace: Workspace | None = None) -> Tensor:
    """Return what the layer passes from every source to every receiver, as a matrix.

    Args:
        record: one layer of one forward pass.
        mixing: one of :data:`MIXINGS`.
        workspace: memory to work in, for layers after one another.

    Returns:
        `(B, N, N)`, [receiver, source], not negative, exactly 0 in rows and columns of padding.
    """
    return mix(record, mixing, workspace or Workspace.on(record.stream.device)).matrix()
