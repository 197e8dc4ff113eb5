"""The engine: norms of the vectors that one layer passes between tokens, without the vectors.

Every map after the attention is linear once its statistics are known, M with one scale per
receiver, so it is folded into the output projection: A = M W_O. With u[h,j] = A^h v[h,j] and the
Gram matrices K[j] = u[j] u[j]^T, the norms are ||.||_ij^2 = scale_i^2 a[:,i,j]^T K[j] a[:,i,j]:
no vector of the size of a token is ever made for a pair of tokens. On the diagonal the residual
joins in as one more head, to which the token attends with weight 1.

Letters: B batch, N tokens, H heads, D hidden size, d head size, and of a tile b texts, S sources,
R receivers.
"""

import torch
from torch import Tensor

from captum_globenc.decomposition.reading import Reading
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.weights import share_heads
from captum_globenc.decomposition.workspace import Tile, Workspace, slices

CANCELLED = 0.1
"""A sum whose square is below this share of its parts' squares has lost digits."""


class VectorNorms:
    """Norms of T, R, or R through the layer's normalisations.

    Args:
        record: one layer of one forward pass; it is not held longer than it is needed.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".
        workspace: memory to work in.
        own: `(B, H, N)`, with which tokens attend to themselves; None where tiles have to tell.
    """

    in_blocks = True

    def __init__(self, record: LayerRecord, mixing: str, workspace: Workspace, own: Tensor | None) -> None:
        readings = {"N-ResLN": record.after_attention, "N-Enc": record.after_layer}.get(mixing, ())
        self._reading = Reading.of(readings, record.stream)
        self._workspace = workspace
        self._scale: Tensor | None = None
        for reading in readings:
            self._scale = reading.scale if self._scale is None else self._scale * reading.scale
        self._record: LayerRecord | None = None if mixing == "N" else record
        self._heads = record.attention.heads
        self._gram = self._products(record)
        self._own: Tensor | None = None
        if self._record is not None and own is not None:
            tokens = slice(0, record.stream.shape[1])
            self._own = self._squares_of_own(own, slice(0, len(own)), tokens)
            self._record = None

    def _products(self, record: LayerRecord) -> Tensor:
        """Return the Gram matrices `(B, N, H, H)` of what heads send.

        With the residual's image behind the heads, `(B, N, H + 1, H + 1)`, unless there is none, or sums on
        the diagonal are made as vectors.
        """
        batch, tokens, size = record.stream.shape
        heads, workspace, like = self._heads, self._workspace, record.stream
        room = workspace.take("projection", record.output.shape, like=like)
        projection = self._reading.of_matrix(record.output, out=room)
        by_head = projection.reshape(size, heads, -1).permute(1, 2, 0)
        values = share_heads(record.value, heads).transpose(0, 1).flatten(1, 2)
        images, count = None, heads
        if self._record is not None and not workspace.room.waits:
            images, count = self._reading.of_vectors(like).flatten(0, 1), heads + 1
        gram = like.new_empty(batch * tokens, count, count)
        rows = max(workspace.room.cells // (count * size), workspace.room.receivers)
        for sources in slices(batch * tokens, rows):
            u = workspace.take("u", (count, sources.stop - sources.start, size), like=like)
            torch.bmm(values[:, sources], by_head, out=u[:heads])
            if images is not None:
                u[heads] = images[sources]
            torch.bmm(u.transpose(0, 1), u.permute(1, 2, 0), out=gram[sources])
        return gram.view(batch, tokens, count, count)

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return the norms `(b, S, R)` of a tile, of attention `(b, H, S, R)`."""
        by_source = weights.transpose(1, 2).flatten(0, 1)
        gram = self._of_heads(self._gram[tile.examples, tile.sources]).flatten(0, 1)
        products = self._workspace.take("products", by_source.shape, like=by_source)
        products = torch.bmm(gram, by_source, out=products).mul_(by_source)
        squares = products.sum(dim=1).clamp_min_(0).view(len(weights), -1, weights.shape[3])
        tokens, own = tile.own(squares)
        if own.shape[-1] and self._own is not None:
            own.copy_(self._own[tile.examples, tokens])
        elif own.shape[-1] and self._record is not None:
            own.copy_(self._squares_of_own(tile.own(weights)[1], tile.examples, tokens))
        norms = squares.sqrt_()
        if self._scale is not None:
            norms *= self._scale[tile.examples, None, tile.receivers]
        return norms

    def _of_heads(self, gram: Tensor) -> Tensor:
        """Return the part `(..., H, H)` of Gram matrices that is without the residual."""
        return gram[..., : self._heads, : self._heads]

    def _squares_of_own(self, own: Tensor, examples: slice, tokens: slice) -> Tensor:
        """Return the squared norms `(b, n)` of what tokens pass to themselves, the residual with it.

        Where the two nearly cancel, the square of the sum has lost its digits: there, in few tokens if
        any, the sum is made as a vector. Where to ask whether there are any would take longer, in all.

        Args:
            own: `(b, H, n)` attention.
            examples: which texts.
            tokens: which of their tokens.
        """
        weights = own.transpose(1, 2)
        gram = self._gram[examples, tokens]
        if gram.shape[-1] == self._heads:
            return self._squares_of_sums(weights, examples, tokens)
        sent = ((self._of_heads(gram) @ weights[..., None])[..., 0] * weights).sum(dim=-1).clamp_min_(0)
        apart = sent + gram[..., -1, -1]
        together: Tensor = apart + 2 * torch.linalg.vecdot(weights, gram[..., -1, :-1])
        cancelled = together < CANCELLED * apart
        if bool(cancelled.any()):
            together[cancelled] = self._squares_of_sums(weights, examples, tokens, cancelled)
        return together

    def _squares_of_sums(
        self, weights: Tensor, examples: slice, tokens: slice, chosen: Tensor | None = None
    ) -> Tensor:
        """Return the squares of the vectors, for weights `(b, n, H)`: of all, or of those that are chosen."""
        record = self._record
        assert record is not None
        value = share_heads(record.value[examples, :, tokens], weights.shape[2]).transpose(1, 2)
        stream = record.stream[examples, tokens]
        if chosen is not None:
            weights, value, stream = weights[chosen], value[chosen], stream[chosen]
        sent = (weights[..., None] * value).flatten(-2) @ record.output.T
        sums = self._reading.of_vectors(sent + stream)
        squares: Tensor = torch.linalg.vecdot(sums, sums)
        return squares


class MixingRatios:
    """How much of each receiver's mixture comes from other tokens than itself.

    Kobayashi et al. (2021), eq. 8: with Z the vectors whose norms `mixing` takes,
    `||sum_{j!=i} Z_ij|| / (||sum_{j!=i} Z_ij|| + ||Z_ii||)`. The scales of the receiver cancel.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".
    """

    def __init__(self, record: LayerRecord, mixing: str) -> None:
        readings = {"N-ResLN": record.after_attention, "N-Enc": record.after_layer}.get(mixing, ())
        self._reading = Reading.of(readings, record.stream)
        self._record = record
        self._has_residual = mixing != "N"

    def tile(self, weights: Tensor, tile: Tile) -> Tensor:
        """Return the ratios `(b, R)` of receivers that the tile holds all sources of; 0 without another."""
        record = self._record
        value = share_heads(record.value[tile.examples], record.attention.heads)
        tokens, own = tile.own(weights)
        preserving = (own[..., None] * value[:, :, tokens]).transpose(1, 2).flatten(2) @ record.output.T
        if self._has_residual:
            preserving = preserving + record.stream[tile.examples, tokens]
        others = weights.clone()
        tile.own(others)[1].zero_()
        mixing_in = (others.transpose(2, 3) @ value[:, :, tile.sources]).transpose(1, 2).flatten(2)
        mixed, preserved = (
            torch.linalg.vector_norm(self._reading.of_vectors(vectors), dim=-1)
            for vectors in (mixing_in @ record.output.T, preserving)
        )
        ratios: Tensor = mixed / (mixed + preserved)
        return ratios


def mixing_ratio(record: LayerRecord, mixing: str = "N-Enc") -> Tensor:
    """Return how much of each receiver's mixture comes from other tokens than itself.

    Args:
        record: one layer of one forward pass.
        mixing: "N", "N-Res", "N-ResLN" or "N-Enc".

    Returns:
        `(B, N)`, between 0 and 1; see :class:`MixingRatios`.
    """
    batch, tokens, _ = record.stream.shape
    made = record.stream.new_empty(batch, tokens)
    ratios, weights = MixingRatios(record, mixing), record.attention.weights(record.stream.dtype)
    for tile in Workspace.on(made.device).columns(batch, tokens, record.attention.heads):
        made[tile.examples, tile.receivers] = ratios.tile(weights.tile(tile), tile)
    return made
