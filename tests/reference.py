"""The decomposition written from its definition: every vector made, nothing folded, nothing tiled.

Slow on purpose, and shares no code with the engine: the tests hold the engine against it.
"""

import torch
from torch import Tensor

from captum_globenc.decomposition.record import LayerRecord, Normalization


def probabilities(record: LayerRecord) -> Tensor:
    """Attention `(B, H, N, N)`, receivers first, computed the plain way."""
    attention = record.attention
    if hasattr(attention, "probabilities"):
        return attention.probabilities
    group = attention.query.shape[1] // attention.key.shape[1]
    key = torch.stack([attention.key[:, head // group] for head in range(attention.query.shape[1])], 1)
    scores = torch.einsum("bhid,bhjd->bhij", attention.query, key) * attention.scaling
    if attention.mask is not None and attention.mask.dtype == torch.bool:
        scores = torch.where(attention.mask, scores, -torch.inf)
    elif attention.mask is not None:
        scores = scores + attention.mask
    if attention.causal:
        tokens = scores.shape[-1]
        scores = torch.where(torch.ones(tokens, tokens).tril().bool(), scores, -torch.inf)
    return torch.nan_to_num(scores.softmax(-1))


def transformed(record: LayerRecord) -> Tensor:
    """T `(B, N, N, D)`: what each source sends to each receiver through the attention."""
    weights = probabilities(record)
    heads, size = weights.shape[1], record.value.shape[-1]
    total = 0
    for head in range(heads):
        value = record.value[:, head // (heads // record.value.shape[1])]
        columns = record.output[:, head * size : (head + 1) * size]
        sent = torch.einsum("de,bje->bjd", columns, value)
        total = total + weights[:, head, :, :, None] * sent[:, None]
    return total


def residual(record: LayerRecord) -> Tensor:
    """R `(B, N, N, D)`: T with the residual stream on the diagonal."""
    vectors = transformed(record).clone()
    for token in range(vectors.shape[1]):
        vectors[:, token, token] += record.stream[:, token]
    return vectors


def normalize(vectors: Tensor, normalization: Normalization) -> Tensor:
    """Each vector `(B, N, N, D)` through a norm with the statistics of its receiver."""
    if normalization.centred:
        vectors = vectors - vectors.mean(-1, keepdim=True)
    vectors = vectors * normalization.scale[:, :, None, None]
    return vectors if normalization.gain is None else vectors * normalization.gain


def vectors(record: LayerRecord, mixing: str) -> Tensor:
    """The vectors whose norms `mixing` takes."""
    if mixing == "N":
        return transformed(record)
    result = residual(record)
    readings = {"N-Res": (), "N-ResLN": record.after_attention, "N-Enc": record.after_layer}[mixing]
    for normalization in readings:
        result = normalize(result, normalization)
    return result


def real_tokens(record: LayerRecord) -> Tensor:
    if record.real is None:
        return torch.ones(record.stream.shape[:2]).bool()
    return record.real


def reference_ratio(record: LayerRecord, mixing: str) -> Tensor:
    """Kobayashi et al. (2021), eq. 8, example by example and token by token."""
    z = vectors(record, mixing)
    ratio = torch.zeros(z.shape[:2], dtype=z.dtype)
    for b, real in enumerate(real_tokens(record)):
        for i in real.nonzero().flatten().tolist():
            others = [j for j in real.nonzero().flatten().tolist() if j != i]
            mixed = z[b, i, others].sum(0).norm()
            ratio[b, i] = mixed / (mixed + z[b, i, i].norm())
    return ratio


def reference_mixing(record: LayerRecord, mixing: str) -> Tensor:
    """What `mixing_norms` must return, `(B, N, N)`."""
    if mixing.startswith("N") and mixing != "N-FixedRes":
        matrix = vectors(record, mixing).norm(dim=-1)
    elif mixing == "N-FixedRes":
        matrix = vectors(record, "N").norm(dim=-1)
    else:
        matrix = probabilities(record).mean(1)
    result = torch.zeros_like(matrix)
    for b, real in enumerate(real_tokens(record)):
        tokens = real.nonzero().flatten()
        part = matrix[b][tokens][:, tokens]
        if mixing.endswith("FixedRes"):
            part = (part / part.sum(1, keepdim=True) + torch.eye(len(tokens))) / 2
        if mixing == "W-Res":
            ratio = reference_ratio(record, "N-Enc")[b][tokens]
            mixed = torch.zeros_like(part)
            for i in range(len(tokens)):
                others = [j for j in range(len(tokens)) if j != i]
                if part[i, others].sum() > 0:  # otherwise the token keeps itself
                    mixed[i, others] = part[i, others] / part[i, others].sum() * ratio[i]
                mixed[i, i] = 1 - ratio[i]
            part = mixed
        result[b, tokens[:, None], tokens] = part
    return result
