"""Compute the norms of the vectors that one layer passes between tokens, without building the vectors.

Once its statistics are known, every normalization after the attention is linear: M with one scale per
receiver. So it is folded into the output projection: A = M W_O. With u[h,j] = A^h v[h,j] and the Gram
matrices K[j] = u[j] u[j]^T, the norms are ||.||_ij^2 = scale_i^2 a[:,i,j]^T K[j] a[:,i,j]. On the diagonal,
the residual is one more head, with attention weight 1.

B batch, L stacked layers, N tokens, H heads, D hidden size, d head size; in a tile b texts, S sources, R
receivers. Stacked layers are part of the batch (see :mod:`captum_globenc.decomposition.record`).
"""

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import share_heads
from captum_globenc.decomposition.record import LayerRecord, Normalization
from captum_globenc.decomposition.workspace import WHOLE, Tile, Workspace, part

CANCELLATION = 0.1
"""A sum whose square is below this share of its terms' squares has lost digits."""


def _normalizations(record: LayerRecord, mixing: str) -> tuple[Normalization, ...]:
    """Return the normalizations that a mixing applies."""
    return {"N-ResLN": record.after_attention, "N-Enc": record.after_layer}.get(mixing, ())


class VectorNorms:
    """Norms of T, R, or R through the layer's normalizations.

    Args:
        record: one layer of one forward pass; kept only as long as it is needed.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".
        workspace: memory for the tiles.
        diagonal: `(B, H, N)`, attention of each token to itself; None if only tiles give it.
    """

    splits_sources = True

    def __init__(
        self, record: LayerRecord, mixing: str, workspace: Workspace, diagonal: Tensor | None
    ) -> None:
        self._normalizations = _normalizations(record, mixing)
        self._workspace = workspace
        self._scale: Tensor | None = None
        for each in self._normalizations:
            self._scale = each.scale if self._scale is None else self._scale * each.scale
        self._record: LayerRecord | None = None if mixing == "N" else record
        self._heads = record.attention.heads
        self._gram = self._gram_matrices(record)
        self._diagonal: Tensor | None = None  # squared norms, with the residual
        if self._record is not None and diagonal is not None:
            tokens = slice(0, record.stream.shape[1])
            self._diagonal = self._diagonal_squares(diagonal, slice(0, len(diagonal)), tokens)
            self._record = None

    def _gram_matrices(self, record: LayerRecord) -> Tensor:
        """Return the Gram matrices `(B, N, H, H)` of the heads' vectors.

        With the mapped residual as the last head, `(B, N, H + 1, H + 1)`, unless the mixing has none or the
        diagonal is computed from vectors.
        """
        batch, tokens, size = record.stream.shape
        heads, workspace, like = self._heads, self._workspace, record.stream
        projection, layers = record.output, record.layers
        with_residual = self._record is not None and not workspace.budget.syncs
        count = heads + with_residual
        # A text of few tokens has fewer vectors than the projection.
        of_vectors = layers == 1 and count * batch * tokens < projection.shape[-1]
        if self._normalizations and not of_vectors:
            folded = workspace.take("projection", projection.shape, like=like)
            projection = self._normalize(projection.mT, folded.mT).mT
        # Heads come before layers, so that the heads of one token have one stride below.
        by_head = projection.reshape(layers, size, heads, -1).permute(2, 0, 3, 1).flatten(0, 1)
        values = share_heads(record.value, heads).transpose(0, 1).reshape(len(by_head), -1, by_head.shape[1])
        residuals, gram = like.reshape(-1, size), like.new_empty(batch * tokens, count, count)
        rows = max(workspace.budget.cells // (count * size), workspace.budget.receivers)
        chunks = rows if layers == 1 else batch * tokens
        parts = (torch.split(values, chunks, 1), *(torch.split(it, chunks) for it in (residuals, gram)))
        for value, residual, entries in zip(*parts, strict=True):
            u = workspace.take("u", (count, len(residual), size), like=like)
            vectors = part(u, slice(0, heads))
            torch.bmm(value, by_head, out=vectors.view(len(by_head), -1, size))
            if with_residual:
                self._normalize(residual, u[heads])
            if of_vectors:
                self._normalize(vectors, vectors)
            torch.bmm(u.transpose(0, 1), u.permute(1, 2, 0), out=entries)
        return gram.view(batch, tokens, count, count)

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return the norms `(b, S, R)` of a tile, given its attention `(b, H, S, R)`."""
        by_source = weights.transpose(1, 2).flatten(0, 1)
        gram = part(self._gram, tile.examples, tile.sources).flatten(0, 1)
        gram = part(gram, WHOLE, slice(0, self._heads), slice(0, self._heads))
        products = self._workspace.take("products", by_source.shape, like=by_source)
        products = torch.bmm(gram, by_source, out=products).mul_(by_source)
        squares = products.sum(dim=1).clamp_min_(0).view(len(weights), -1, weights.shape[3])
        tokens, diagonal = tile.diagonal(squares)
        if diagonal.shape[-1] and self._diagonal is not None:
            diagonal.copy_(part(self._diagonal, tile.examples, tokens))
        elif diagonal.shape[-1] and self._record is not None:
            diagonal.copy_(self._diagonal_squares(tile.diagonal(weights)[1], tile.examples, tokens))
        norms = squares.sqrt_()
        if self._scale is not None:
            norms *= part(self._scale, tile.examples, tile.receivers).unsqueeze(1)
        return norms

    def _diagonal_squares(self, attention: Tensor, examples: slice, tokens: slice) -> Tensor:
        """Return the squared norms `(b, n)` of R_ii, which includes the residual.

        If T_ii and the residual nearly cancel, the squared norm of their sum has lost its digits. Such sums
        are computed as vectors; all sums are if testing for cancellation would synchronize the device.

        Args:
            attention: `(b, H, n)`.
            examples: the examples.
            tokens: the tokens.
        """
        weights = attention.transpose(1, 2)
        gram = part(self._gram, examples, tokens)
        count = gram.shape[-1]
        if count == self._heads:
            return self._vector_squares(weights, examples, tokens)
        # The residual is one more head with weight 1; `products` are Gram matrices times weights.
        both = torch.nn.functional.pad(weights, (0, 1), value=1.0).view(-1, 1, count)
        gram = gram.flatten(0, 1)
        products = torch.bmm(both, gram)
        total = torch.bmm(products, both.mT).flatten()
        # ||T||^2 + ||x||^2 = ||T + x||^2 - 2 T x, with T x + ||x||^2 the product of the residual.
        share = (1 - CANCELLATION) / (2 * CANCELLATION)
        cancelled = torch.add(products[:, 0, -1], total, alpha=share) < gram[:, -1, -1]
        total = total.view(weights.shape[:2])
        if bool(cancelled.any()):
            cancelled = cancelled.view(total.shape)
            total[cancelled] = self._vector_squares(weights, examples, tokens, cancelled)
        return total

    def _vector_squares(
        self, weights: Tensor, examples: slice, tokens: slice, chosen: Tensor | None = None
    ) -> Tensor:
        """Return the squared norms of R_ii from vectors, given attention `(b, n, H)`; of all or `chosen`."""
        record = self._record
        assert record is not None
        value = share_heads(part(record.value, examples, WHOLE, tokens), weights.shape[2]).transpose(1, 2)
        stream = part(record.stream, examples, tokens)
        if chosen is not None:
            weights, value, stream = weights[chosen], value[chosen], stream[chosen]
        total = record.by_layer(record.project((weights[..., None] * value).flatten(-2)) + stream)
        total = self._normalize(total, total)
        squares: Tensor = torch.linalg.vecdot(total, total)
        return squares.view(weights.shape[:-1])

    def _normalize(self, vectors: Tensor, out: Tensor) -> Tensor:
        """Write the vectors after the normalizations, without their scales, to `out`, and return it."""
        for each in self._normalizations:
            vectors = each.linear(vectors, out)
        return out if vectors is out else out.copy_(vectors)


class MixingRatios:
    """The share of each receiver's output that comes from other tokens, in tiles.

    Kobayashi et al. (2021), eq. 8: with Z the vectors whose norms `mixing` takes,
    `||sum_{j!=i} Z_ij|| / (||sum_{j!=i} Z_ij|| + ||Z_ii||)`. The scales of the receiver cancel.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".
    """

    def __init__(self, record: LayerRecord, mixing: str) -> None:
        self._normalizations = _normalizations(record, mixing)
        self._record = record
        self._has_residual = mixing != "N"

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return the ratios `(b, R)` of a tile that holds all sources; 0 if there is no other token."""
        record = self._record
        value = share_heads(record.value[tile.examples], record.attention.heads)
        tokens, diagonal = tile.diagonal(weights)
        preserving = record.project((diagonal[..., None] * value[:, :, tokens]).transpose(1, 2).flatten(2))
        if self._has_residual:
            preserving = preserving + record.stream[tile.examples, tokens]
        others = weights.clone()
        tile.diagonal(others)[1].zero_()
        mixing_in = (others.transpose(2, 3) @ value[:, :, tile.sources]).transpose(1, 2).flatten(2)
        both = [record.by_layer(it) for it in (record.project(mixing_in), preserving)]
        for each in self._normalizations:
            both = [each.linear(it) for it in both]
        mixed, preserved = (torch.linalg.vector_norm(it, dim=-1) for it in both)
        ratios: Tensor = mixed / (mixed + preserved)
        return ratios.view(len(weights), -1)


def mixing_ratio(record: LayerRecord, mixing: str = "N-Enc") -> Tensor:
    """Return the share of each receiver's output that comes from other tokens.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".

    Returns:
        `(B, N)`, in [0, 1]; see :class:`MixingRatios`.
    """
    batch, tokens, _ = record.stream.shape
    ratio = record.stream.new_empty(batch, tokens)
    ratios = MixingRatios(record, mixing)
    for tile in Workspace.on(ratio.device).columns(batch, tokens, record.attention.heads):
        ratio[tile.examples, tile.receivers] = ratios.tile(record.weights.tile(tile), tile)
    return ratio
