"""The engine: norms of the vectors that one layer passes between tokens, without the vectors.

Every map after the attention is linear once its statistics are known, M with one scale per
receiver, so it is folded into the output projection: A = M W_O. With u[h,j] = A^h v[h,j] and the
Gram matrices K[j] = u[j] u[j]^T, the norms are ||.||_ij^2 = scale_i^2 a[:,i,j]^T K[j] a[:,i,j]:
no vector of the size of a token is ever made for a pair of tokens. On the diagonal the residual
joins in through its scalar products with u.

Letters: B batch, N tokens, H heads, D hidden size, d head size, R receivers in a tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import share_heads
from captum_globenc.decomposition.record import LayerRecord, Normalization
from captum_globenc.decomposition.workspace import Workspace

TILE = 128
"""Receivers handled at once, and four times as many as sources: what a tile needs stays in the cache."""


def vector_norms(record: LayerRecord, mixing: str, workspace: Workspace) -> Tensor:
    """Return the norms of T, R, or R through the layer's normalisations, `(B, N, N)`.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".
        workspace: memory to work in.

    Returns:
        `(B, N, N)`, [receiver, source]; what stands at padding is undefined.
    """
    fold = _Fold.of(record, mixing, workspace)
    batch, tokens, size = record.stream.shape
    by_head = fold.projection.reshape(size, fold.heads, -1).permute(1, 2, 0)
    squares = record.stream.new_empty(batch, tokens, tokens)  # [source, receiver] while it is filled
    gram = record.stream.new_empty(tokens, fold.heads, fold.heads)
    crossed = record.stream.new_zeros(fold.heads, tokens)
    for example in range(batch):
        value = share_heads(record.value[example], fold.heads)
        for sources in tiles(tokens, max(TILE // 4, 1)):
            count = sources.stop - sources.start
            u = workspace.take("u", (fold.heads, count, size), like=gram)
            torch.bmm(value[:, sources], by_head, out=u)
            torch.bmm(u.transpose(0, 1), u.permute(1, 2, 0), out=gram[sources])
            if fold.images is not None:
                crossed[:, sources] = u.mul_(fold.images[example, sources]).sum(dim=-1)
        for receivers in tiles(tokens):
            count = receivers.stop - receivers.start
            room = workspace.take("weights", (fold.heads, tokens, count), like=gram)
            weights = record.attention.tile(example, receivers, out=room)
            by_source = weights.transpose(0, 1)
            products = workspace.take("products", by_source.shape, like=gram)
            tile = torch.bmm(gram, by_source, out=products).mul_(by_source).sum(dim=1).clamp_min_(0)
            if fold.images is not None:
                own = _diagonal(weights, receivers).T
                _add_residual(
                    _diagonal(tile, receivers),
                    2 * torch.linalg.vecdot(own, crossed[:, receivers].T),
                    own[:, :, None] * value[:, receivers].transpose(0, 1),
                    fold.projection,
                    fold.images[example, receivers],
                )
            squares[example][:, receivers] = tile
    norms = squares.sqrt_()
    if fold.scale is not None:
        norms *= fold.scale[:, None, :]
    return norms.transpose(1, 2)


def _add_residual(squares: Tensor, crossed: Tensor, sent: Tensor, projection: Tensor, images: Tensor) -> None:
    """Make squared norms of what receivers send to themselves those of its sum with the residual.

    Where the two nearly cancel, the square of the sum has lost its digits: there, in few tokens if
    any, the sum is made as a vector.

    Args:
        squares: `(R,)`, changed in place.
        crossed: `(R,)`, twice the scalar product of what is sent and the residual.
        sent: `(R, H, d)`, weighted value vectors.
        projection: `(D, H*d)`.
        images: `(R, D)` of the residual stream.
    """
    apart = squares + torch.linalg.vecdot(images, images)
    together = apart + crossed
    cancelled = together < 0.1 * apart
    if bool(cancelled.any()):
        sums = sent[cancelled].flatten(1) @ projection.T + images[cancelled]
        together[cancelled] = torch.linalg.vecdot(sums, sums)
    squares.copy_(together)


def mixing_ratio(record: LayerRecord, mixing: str = "N-Enc") -> Tensor:
    """Return how much of each receiver's mixture comes from other tokens than itself.

    Kobayashi et al. (2021), eq. 8: with Z the vectors whose norms `mixing` takes,
    `||sum_{j!=i} Z_ij|| / (||sum_{j!=i} Z_ij|| + ||Z_ii||)`. The scales of the receiver cancel.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".

    Returns:
        `(B, N)`, between 0 and 1; 0 where there is no other token.
    """
    fold = _Fold.of(record, mixing, Workspace())
    ratios = record.stream.new_empty(record.stream.shape[:2])
    batch, tokens = ratios.shape
    for example in range(batch):
        value = share_heads(record.value[example], fold.heads)
        for receivers in tiles(tokens):
            weights = record.attention.tile(example, receivers)
            own = _diagonal(weights, receivers)
            preserving = (own[:, :, None] * value[:, receivers]).transpose(0, 1).flatten(1)
            own.zero_()
            mixing_in = torch.bmm(weights.transpose(1, 2), value).transpose(0, 1).flatten(1)
            preserved = preserving @ fold.projection.T
            if fold.images is not None:
                preserved += fold.images[example, receivers]
            mixed = torch.linalg.vector_norm(mixing_in @ fold.projection.T, dim=-1)
            ratios[example, receivers] = mixed / (mixed + torch.linalg.vector_norm(preserved, dim=-1))
    return ratios


@dataclass(frozen=True)
class _Fold:
    """A mixing kind's linear map, folded into the output projection and applied to the stream.

    Args:
        heads: number of attention heads.
        projection: `(D, H*d)`.
        images: `(B, N, D)` images of the residual stream, or None where the kind leaves it out.
        scale: `(B, N)`, the factor of each receiver, or None for 1.
    """

    heads: int
    projection: Tensor
    images: Tensor | None
    scale: Tensor | None

    @classmethod
    def of(cls, record: LayerRecord, mixing: str, workspace: Workspace) -> "_Fold":
        readings = {"N-ResLN": record.after_attention, "N-Enc": record.after_layer}.get(mixing, ())
        images = scale = None
        if mixing != "N":
            images = workspace.take("images", record.stream.shape, like=record.stream)
            images.copy_(record.stream)
        for reading in readings:
            if images is not None:
                reading.linear_(images)
            scale = reading.scale if scale is None else scale * reading.scale
        return cls(
            heads=record.attention.heads,
            projection=_fold_projection(record.output, readings, workspace),
            images=images,
            scale=scale,
        )


def _fold_projection(projection: Tensor, readings: tuple[Normalization, ...], workspace: Workspace) -> Tensor:
    """Return the readings' linear map times the projection `(D, E)`.

    The map is a diagonal matrix less one of rank one for each centring, so that the projection is
    written once however many readings there are.
    """
    size = projection.shape[0]
    diagonal = projection.new_ones(size)
    columns: list[Tensor] = []
    rows: list[Tensor] = []
    for reading in readings:
        if reading.centred:
            mean = diagonal @ projection / size
            for column, row in zip(columns, rows, strict=True):
                mean -= column.mean() * row
            columns.append(projection.new_ones(size))
            rows.append(mean)
        if reading.gain is not None:
            diagonal = diagonal * reading.gain
            columns = [column * reading.gain for column in columns]
    if not readings:
        return projection
    folded = workspace.take("projection", projection.shape, like=projection)
    torch.mul(projection, diagonal[:, None], out=folded)
    if columns:
        folded.addmm_(torch.stack(columns, dim=1), torch.stack(rows), alpha=-1)
    return folded


def tiles(tokens: int, size: int | None = None) -> Iterator[slice]:
    """Cut `tokens` into slices of at most `size`, or :data:`TILE`."""
    size = TILE if size is None else size
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


def _diagonal(tile: Tensor, receivers: slice) -> Tensor:
    """Return a view of what the receivers of a tile `(..., N, R)` take from themselves, `(..., R)`."""
    return tile[..., receivers, :].diagonal(dim1=-2, dim2=-1)
