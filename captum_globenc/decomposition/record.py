"""The record of encoder layers in one forward pass: all that their decomposition needs.

Layers of one shape can be stacked into one record: their tokens are a longer batch, their weights have one
more dimension. B batch, L stacked layers, N tokens, H heads, D hidden size, d head size.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import Attention, Weights


@dataclass(frozen=True)
class Normalization:
    """A LayerNorm or RMSNorm as a linear map, with the standard deviation of the recorded pass.

    Args:
        gain: `(D,)`, `(L, 1, D)` of stacked layers, or None if the norm has no weight.
        centred: whether the mean is subtracted (LayerNorm) or not (RMSNorm).
        scale: `(B, N)`, the reciprocal of the standard deviation of the norm's input, eps included.
    """

    gain: Tensor | None
    centred: bool
    scale: Tensor

    def linear(self, vectors: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the map without the scale of vectors `(..., D)`; of stacked layers, `(L, V, D)`.

        Args:
            vectors: the vectors.
            out: memory for the result, which may be `vectors`; not used if the map is the identity.
        """
        if self.centred:
            vectors = torch.sub(vectors, vectors.mean(dim=-1, keepdim=True), out=out)
        if self.gain is not None:
            vectors = torch.mul(vectors, self.gain, out=out)
        return vectors


@dataclass(frozen=True)
class LayerRecord:
    """The record of one encoder layer in one forward pass, or of several layers that are stacked.

    All floating-point tensors have one dtype, at least float32; only the attention keeps the model's dtype.
    Of stacked layers, B stands for L*B, layer by layer, and the weights have L as their first dimension.

    Args:
        index: number of the layer in the pass, from 0; of successive layers, which are stacked, of the first.
        attention: the attention probabilities.
        value: `(B, H or fewer, N, d)`, value vectors, biases included.
        output: `(D, H*d)`, matrix of the output projection, multiplied by the layer scale if there is one.
        output_bias: `(D,)`, bias of the output projection, multiplied by the layer scale; None without bias.
        stream: `(B, N, D)`, the residual stream before the attention.
        attended: `(B, N, D)`, the residual stream with the attention's output added.
        after_attention: the normalization that N-ResLN applies.
        after_layer: the normalizations that N-Enc applies.
        real: `(B, N)`, False at padding; None if every token is real.
        layers: number of stacked layers.
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
    layers: int = 1

    @cached_property
    def weights(self) -> Weights:
        """The attention probabilities in tiles, in the dtype of the other tensors."""
        return self.attention.weights(self.stream.dtype)

    def project(self, contexts: Tensor) -> Tensor:
        """Return the output projection `(B, ..., D)`, without bias, of the heads' outputs `(B, ..., H*d)`."""
        return (self.by_layer(contexts) @ self.output.mT).view(*contexts.shape[:-1], -1)

    def by_layer(self, vectors: Tensor) -> Tensor:
        """Return vectors `(B, ..., D)` as `(L, V, D)` if layers are stacked, else as `(V, D)`."""
        return vectors.reshape(*self.output.shape[:-2], -1, vectors.shape[-1])
