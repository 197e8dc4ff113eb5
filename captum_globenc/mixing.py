"""Mixing norms: how much of every token one encoder layer passes to every other.

Pure tensor maths of Modarressi et al. (2022), section 3; knows no model, no hook, no Captum.

Per layer and receiver i, source j:

    T_ij  = sum_h a[h,i,j] W_O^h v[h,j]           N       = ||T_ij||      Kobayashi et al. (2020)
    R_ij  = T_ij + [i=j] x_i                      N-Res   = ||R_ij||      Kobayashi et al. (2021)
    R_ij read through the first normalisation     N-ResLN                 Kobayashi et al. (2021)
    R_ij read through the layer's output          N-Enc                   eq. 9

Every map after the attention is linear once its statistics are known, M with one scale per
receiver, so it is folded into the output projection: A = M W_O. With u[h,j] = A^h v[h,j] and the
Gram matrices K[j] = u[j] u[j]^T, the norms are ||.||_ij^2 = scale_i^2 a[:,i,j]^T K[j] a[:,i,j]:
no vector of the size of a token is ever made for a pair of tokens. On the diagonal the residual
joins in through its scalar products with u.

Letters: B batch, N tokens, H heads, D hidden size, d head size, R receivers in a tile.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_globenc.attention import Attention, share_heads

TILE = 128
"""Receivers handled at once, and four times as many as sources: what a tile needs stays in the cache."""


@dataclass(frozen=True)
class Normalization:
    """A LayerNorm or RMSNorm, linear once the deviation it really divided by is known.

    Args:
        gain: `(D,)`, or None where the norm has no weight.
        centred: whether the mean is taken off (LayerNorm) or not (RMSNorm).
        scale: `(B, N)`, one over the deviation of the vector the norm saw, eps included.
    """

    gain: Tensor | None
    centred: bool
    scale: Tensor

    def linear(self, vectors: Tensor) -> Tensor:
        """Return the map without its scale, applied to `(..., D)`."""
        image = vectors.clone()
        self.linear_(image)
        return image

    def linear_(self, vectors: Tensor) -> None:
        """Apply the same in place."""
        if self.centred:
            vectors -= vectors.mean(dim=-1, keepdim=True)
        if self.gain is not None:
            vectors *= self.gain


@dataclass(frozen=True)
class LayerRecord:
    """What one encoder layer did in one forward pass, as far as its decomposition needs it.

    All floating-point tensors share one dtype, at least float32.

    Args:
        index: the layer's number in the pass, from 0.
        attention: the layer's attention probabilities.
        value: `(B, H or fewer, N, d)` value vectors, biases included.
        output: `(D, H*d)` output projection, a layer scale folded in.
        output_bias: `(D,)` its bias, likewise; None where it has none.
        stream: `(B, N, D)` what the residual connection carries past the attention.
        attended: `(B, N, D)` the stream with the attention's output added.
        after_attention: what N-ResLN reads R through.
        after_layer: what N-Enc reads R through.
        real: `(B, N)`, False at padding; None where every token is real.
    """

    index: int
    attention: Attention
    value: Tensor
    output: Tensor
    output_bias: Tensor | None
    stream: Tensor
    attended: Tensor
    after_attention: tuple[Normalization, ...] = ()
    after_layer: tuple[Normalization, ...] = ()
    real: Tensor | None = None


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Compute without gradients, and without the caller's autocast, which would lower the precision.

    Args:
        like: lies on the device that is computed on.
    """
    device = like.device.type
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


class Workspace:
    """Memory that the tiles of all layers share.

    The pages of a fresh tensor of a few megabytes cost about as much time as what is computed in it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor with whatever it holds, valid until `name` is taken again.

        Args:
            name: which piece of memory.
            shape: of the tensor.
            like: has the dtype and the device that are wanted.
        """
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < size
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
        ):
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(*shape)


def mixing_norms(record: LayerRecord, mixing: str = "N-Enc", workspace: Workspace | None = None) -> Tensor:
    """Return what the layer passes from every source to every receiver.

    Args:
        record: one layer of one forward pass.
        mixing: one of :data:`MIXINGS`.
        workspace: memory to work in, for layers after one another.

    Returns:
        `(B, N, N)`, [receiver, source], not negative, exactly 0 in rows and columns of padding.
    """
    workspace = Workspace() if workspace is None else workspace
    return _without_padding(MIXINGS[mixing](record, workspace), record)


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
        for receivers in _tiles(tokens):
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


def _vector_norms(record: LayerRecord, mixing: str, workspace: Workspace) -> Tensor:
    """Return the norms of T, R, or R through the layer's normalisations, `(B, N, N)`."""
    fold = _Fold.of(record, mixing, workspace)
    batch, tokens, size = record.stream.shape
    by_head = fold.projection.reshape(size, fold.heads, -1).permute(1, 2, 0)
    squares = record.stream.new_empty(batch, tokens, tokens)  # [source, receiver] while it is filled
    gram = record.stream.new_empty(tokens, fold.heads, fold.heads)
    crossed = record.stream.new_zeros(fold.heads, tokens)
    for example in range(batch):
        value = share_heads(record.value[example], fold.heads)
        for sources in _tiles(tokens, max(TILE // 4, 1)):
            count = sources.stop - sources.start
            u = workspace.take("u", (fold.heads, count, size), like=gram)
            torch.bmm(value[:, sources], by_head, out=u)
            torch.bmm(u.transpose(0, 1), u.permute(1, 2, 0), out=gram[sources])
            if fold.images is not None:
                crossed[:, sources] = u.mul_(fold.images[example, sources]).sum(dim=-1)
        for receivers in _tiles(tokens):
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


def _attention_weights(record: LayerRecord, workspace: Workspace) -> Tensor:
    """Return W: attention averaged over heads, `(B, N, N)`."""
    batch, tokens, _ = record.stream.shape
    weights = record.stream.new_empty(batch, tokens, tokens)  # [source, receiver]
    for example in range(batch):
        for receivers in _tiles(tokens):
            shape = (record.attention.heads, tokens, receivers.stop - receivers.start)
            room = workspace.take("weights", shape, like=weights)
            tile = record.attention.tile(example, receivers, out=room)
            weights[example][:, receivers] = tile.mean(dim=0)
    return weights.transpose(1, 2)


def _fixed_residual(mixture: Tensor, record: LayerRecord) -> Tensor:
    """Return half the mixture, its rows made to sum to 1, and half the identity.

    Abnar and Zuidema (2020), section 3: the residual connection taken to weigh as much as attention.
    """
    mixture = _row_normalized(_without_padding(mixture, record))
    mixture.diagonal(dim1=1, dim2=2).add_(1)
    return mixture / 2


def _residual_weights(record: LayerRecord, workspace: Workspace) -> Tensor:
    """Return W-Res: attention to the other tokens, in the proportion that N-Enc's ratio tells.

    Modarressi et al. (2022), section 3.3. A token that has no other keeps itself.
    """
    weights = _without_padding(_attention_weights(record, workspace), record).contiguous()
    ratio = mixing_ratio(record, "N-Enc")
    weights.diagonal(dim1=1, dim2=2).zero_()
    weights = _row_normalized(weights) * ratio[:, :, None]
    weights.diagonal(dim1=1, dim2=2).copy_(1 - ratio)
    return weights


MIXINGS: dict[str, Callable[[LayerRecord, Workspace], Tensor]] = {
    "W": _attention_weights,
    "W-FixedRes": lambda record, space: _fixed_residual(_attention_weights(record, space), record),
    "W-Res": _residual_weights,
    "N": lambda record, space: _vector_norms(record, "N", space),
    "N-FixedRes": lambda record, space: _fixed_residual(_vector_norms(record, "N", space), record),
    "N-Res": lambda record, space: _vector_norms(record, "N-Res", space),
    "N-ResLN": lambda record, space: _vector_norms(record, "N-ResLN", space),
    "N-Enc": lambda record, space: _vector_norms(record, "N-Enc", space),
}
"""The kinds of mixing by the paper's names (section 3.3), each from a record to `(B, N, N)`."""


def _tiles(tokens: int, size: int | None = None) -> Iterator[slice]:
    """Cut `tokens` into slices of at most `size`, or :data:`TILE`."""
    size = TILE if size is None else size
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


def _diagonal(tile: Tensor, receivers: slice) -> Tensor:
    """Return a view of what the receivers of a tile `(..., N, R)` take from themselves, `(..., R)`."""
    return tile[..., receivers, :].diagonal(dim1=-2, dim2=-1)


def _without_padding(mixture: Tensor, record: LayerRecord) -> Tensor:
    """Zero the rows and columns `(B, N, N)` of padding, NaN included."""
    if record.real is None:
        return mixture
    return mixture.where(record.real[:, :, None] & record.real[:, None, :], 0)


def _row_normalized(mixture: Tensor) -> Tensor:
    """Make each row of `(B, N, N)` sum to 1; rows of zeros stay zero."""
    total = mixture.sum(dim=-1, keepdim=True)
    return mixture / total.where(total > 0, 1)
