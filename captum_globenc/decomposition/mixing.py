"""Mixing: how much each token of one encoder layer receives from every other token.

Modarressi et al. (2022), section 3. For receiver i and source j of a layer:

    T_ij  = sum_h a[h,i,j] W_O^h v[h,j]           N       = ||T_ij||      Kobayashi et al. (2020)
    R_ij  = T_ij + [i=j] x_i                      N-Res   = ||R_ij||      Kobayashi et al. (2021)
    R_ij through the first normalization          N-ResLN                 Kobayashi et al. (2021)
    R_ij through the normalizations of the layer  N-Enc                   eq. 9

B batch, N tokens, P rows, H heads; in a tile b texts, S sources, R receivers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import Weights
from captum_globenc.decomposition.norms import MixingRatios, VectorNorms
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Tile, Workspace


class Mixing(Protocol):
    """Turns the attention of a layer into its token-to-token matrix."""

    @property
    def splits_sources(self) -> bool:
        """Whether a tile may hold some of its receivers' sources; otherwise it must hold all."""
        ...

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return a tile of the matrix, `(b, S, R)`, given its attention `(b, H, S, R)`."""
        ...


class Mixture:
    """The token-to-token matrix `(B, N, N)`, [receiver, source], of one layer, computed in tiles.

    Small tiles are cached, large ones recomputed on demand.

    Args:
        record: the layer; only its attention is kept.
        mixing: turns attention into the matrix.
        weights: the layer's attention probabilities.
        workspace: memory for the tiles.
    """

    def __init__(self, record: LayerRecord, mixing: Mixing, weights: Weights, workspace: Workspace) -> None:
        self.shape = (record.stream.shape[0], record.stream.shape[1])
        self.dtype = record.stream.dtype
        self.device = record.stream.device
        self._tiles: Sequence[tuple[Tile, Tensor]] | None = None
        self._computer: _TileComputer | None = _TileComputer(self.shape, record, mixing, workspace)
        self._weights: Weights | None = weights

    def materialize(self) -> None:
        """Cache the tiles if they take less memory than the recorded attention.

        Otherwise the attention is kept and tiles are recomputed on demand, so memory grows linearly with the
        number of tokens.
        """
        computer, weights = self._computer, self._weights
        assert computer is not None
        assert weights is not None
        self._weights = None
        plan = list(computer.plan(weights))
        cells = sum(_length(tile.examples) * _length(tile.sources) * _length(tile.receivers) for tile in plan)
        if cells <= computer.attention.size:
            self._tiles = [(tile, computer.compute(tile, weights)) for tile in plan]
            self._computer = None
            batch, tokens = self.shape
            if len(plan) > 1 and all(it.shape[1:] == (tokens, tokens) for _, it in self._tiles):
                whole = plan[0]._replace(examples=slice(0, batch))
                self._tiles = [(whole, torch.cat([it for _, it in self._tiles]))]

    def left_multiply(self, rows: Tensor) -> Tensor:
        """Return the product of rows `(B, P, N)`, weights of the receivers, with the matrix."""
        product = torch.zeros_like(rows)
        for tile, entries in self._iterate_tiles(rows):
            if entries.shape == (*self.shape, self.shape[1]):
                return torch.bmm(rows, entries.transpose(1, 2))
            chosen = rows[tile.examples, :, tile.receivers]
            product[tile.examples, :, tile.sources] += chosen @ entries.transpose(1, 2)
        return product

    def matrix(self) -> Tensor:
        """Return the matrix `(B, N, N)`, [receiver, source]."""
        batch, tokens = self.shape
        matrix = torch.zeros(batch, tokens, tokens, dtype=self.dtype, device=self.device)
        for tile, entries in self._iterate_tiles(None):
            matrix[tile.examples, tile.receivers, tile.sources] = entries.transpose(1, 2)
        return matrix

    def _iterate_tiles(self, rows: Tensor | None) -> Iterator[tuple[Tile, Tensor]]:
        """Yield the tiles. Tiles whose weights in `rows` are all zero are skipped if that needs no sync."""
        if self._tiles is not None:
            yield from self._tiles
            return
        computer = self._computer
        assert computer is not None
        weights = computer.attention.weights(self.dtype) if self._weights is None else self._weights
        within = None
        if rows is not None and not computer.workspace.budget.syncs:
            needed = rows.flatten(0, 1).any(dim=0).nonzero()
            within = slice(int(needed[0]), int(needed[-1]) + 1) if len(needed) else slice(0, 1)
        for tile in computer.plan(weights, within):
            yield tile, computer.compute(tile, weights)


class _TileComputer:
    """Plans and computes the tiles of a layer."""

    def __init__(
        self, shape: tuple[int, int], record: LayerRecord, mixing: Mixing, workspace: Workspace
    ) -> None:
        self.attention = record.attention
        self.workspace = workspace
        self._shape = shape
        self._mixing = mixing
        self._real = None if record.real is None else record.real.expand(shape)
        self._like = record.stream.new_empty(0)

    def plan(self, weights: Weights, within: slice | None = None) -> Iterator[Tile]:
        """Yield the tiles of the matrix, or of the receivers `within`, without invisible sources."""
        heads, workspace = self.attention.heads, self.workspace
        for column in workspace.columns(*self._shape, heads, within):
            tile = column if workspace.budget.syncs else weights.trim(column)
            if weights.splits_sources and self._mixing.splits_sources:
                yield from workspace.blocks(tile, heads)
            else:
                yield tile

    def compute(self, tile: Tile, weights: Weights) -> Tensor:
        """Return the entries `(b, S, R)` of a tile; exactly 0 at padding."""
        shape = (_length(tile.examples), self.attention.heads, _length(tile.sources), _length(tile.receivers))
        out = self.workspace.take("weights", shape, like=self._like)
        return _zero_padding(self._mixing.tile(weights.tile(tile, out), tile), tile, self._real)


def _zero_padding(entries: Tensor, tile: Tile, real: Tensor | None) -> Tensor:
    """Set the entries `(b, S, R)` from and to padding to 0, even if they are NaN."""
    if real is None:
        return entries
    texts = real[tile.examples]
    return entries.where(texts[:, tile.sources, None] & texts[:, None, tile.receivers], 0)


def _length(some: slice) -> int:
    return int(some.stop - some.start)


class _Average:
    """W: attention averaged over heads."""

    splits_sources = True

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        return weights.mean(dim=1)


class _FixedResidual:
    """Half of another mixing with rows normalized to sum to 1, and half of the identity.

    Abnar and Zuidema (2020), section 3: the residual connection gets the same weight as the attention.
    """

    splits_sources = False

    def __init__(self, mixing: Mixing, real: Tensor | None) -> None:
        self._mixing = mixing
        self._real = real

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        mixture = _normalize(_zero_padding(self._mixing.tile(weights, tile), tile, self._real))
        tile.diagonal(mixture)[1].add_(1)
        return mixture / 2


class _ResidualWeights:
    """W-Res: attention to the other tokens, weighted by the mixing ratio of N-Enc.

    Modarressi et al. (2022), section 3.3. A token without any other token keeps its full weight.
    """

    splits_sources = False

    def __init__(self, record: LayerRecord) -> None:
        self._real = record.real
        self._ratios = MixingRatios(record, "N-Enc")

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        ratios = self._ratios.tile(weights, tile)
        mixture = _zero_padding(weights.mean(dim=1), tile, self._real)
        tile.diagonal(mixture)[1].zero_()
        mixture = _normalize(mixture) * ratios[:, None]
        tile.diagonal(mixture)[1].copy_(1 - ratios)
        return mixture


def _normalize(mixture: Tensor) -> Tensor:
    """Scale each receiver of `(b, S, R)` to sum 1 over its sources; zeros stay zero."""
    total = mixture.sum(dim=1, keepdim=True)
    return mixture / total.where(total > 0, 1)


def _norms(mixing: str) -> Callable[[LayerRecord, Workspace, Weights], Mixing]:
    return lambda record, space, weights: VectorNorms(record, mixing, space, weights.diagonal())


MIXINGS: dict[str, Callable[[LayerRecord, Workspace, Weights], Mixing]] = {
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
"""Mixings by the names of Modarressi et al. (2022), section 3.3."""


def mix(record: LayerRecord, mixing: str, workspace: Workspace) -> Sequence[Mixture | Tensor]:
    """Return the token-to-token matrix of each layer of a record; of one layer, it is computed in tiles.

    Args:
        record: one layer of one forward pass, or stacked layers, which are one tile.
        mixing: one of :data:`MIXINGS`.
        workspace: memory for the tiles, shared by successive layers.
    """
    mixed = MIXINGS[mixing](record, workspace, record.weights)
    if record.layers == 1:
        return [Mixture(record, mixed, record.weights, workspace)]
    whole = Tile(*(slice(0, size) for size in (*record.stream.shape[:2], record.stream.shape[1])))
    entries = _zero_padding(mixed.tile(record.weights.tile(whole), whole), whole, record.real)
    return entries.mT.view(record.layers, -1, *entries.shape[1:]).unbind()


def matrix_of(mixture: Mixture | Tensor) -> Tensor:
    """Return a token-to-token matrix `(B, N, N)`, [receiver, source]."""
    return mixture.matrix() if isinstance(mixture, Mixture) else mixture


def mixing_norms(record: LayerRecord, mixing: str = "N-Enc", workspace: Workspace | None = None) -> Tensor:
    """Return the token-to-token matrix of a layer.

    Args:
        record: one layer of one forward pass.
        mixing: one of :data:`MIXINGS`.
        workspace: memory for the tiles; None for memory of its own.

    Returns:
        `(B, N, N)`, [receiver, source], not negative, exactly 0 in rows and columns of padding.
    """
    (mixture,) = mix(record, mixing, workspace or Workspace.on(record.stream.device))
    return matrix_of(mixture)
