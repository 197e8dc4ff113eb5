"""Mixing: how much of every token one encoder layer passes to every other, by the paper's kinds.

Modarressi et al. (2022), section 3. Per layer and receiver i, source j:

    T_ij  = sum_h a[h,i,j] W_O^h v[h,j]           N       = ||T_ij||      Kobayashi et al. (2020)
    R_ij  = T_ij + [i=j] x_i                      N-Res   = ||R_ij||      Kobayashi et al. (2021)
    R_ij read through the first normalisation     N-ResLN                 Kobayashi et al. (2021)
    R_ij read through the layer's output          N-Enc                   eq. 9

Letters: B batch, N tokens.
"""

from collections.abc import Callable

from torch import Tensor

from captum_globenc.decomposition.norms import mixing_ratio, tiles, vector_norms
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Workspace


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


def _attention_weights(record: LayerRecord, workspace: Workspace) -> Tensor:
    """Return W: attention averaged over heads, `(B, N, N)`."""
    batch, tokens, _ = record.stream.shape
    weights = record.stream.new_empty(batch, tokens, tokens)  # [source, receiver]
    for example in range(batch):
        for receivers in tiles(tokens):
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
    "N": lambda record, space: vector_norms(record, "N", space),
    "N-FixedRes": lambda record, space: _fixed_residual(vector_norms(record, "N", space), record),
    "N-Res": lambda record, space: vector_norms(record, "N-Res", space),
    "N-ResLN": lambda record, space: vector_norms(record, "N-ResLN", space),
    "N-Enc": lambda record, space: vector_norms(record, "N-Enc", space),
}
"""The kinds of mixing by the paper's names (section 3.3), each from a record to `(B, N, N)`."""


def _without_padding(mixture: Tensor, record: LayerRecord) -> Tensor:
    """Zero the rows and columns `(B, N, N)` of padding, NaN included."""
    if record.real is None:
        return mixture
    return mixture.where(record.real[:, :, None] & record.real[:, None, :], 0)


def _row_normalized(mixture: Tensor) -> Tensor:
    """Make each row of `(B, N, N)` sum to 1; rows of zeros stay zero."""
    total = mixture.sum(dim=-1, keepdim=True)
    return mixture / total.where(total > 0, 1)
