"""What one encoder layer did in one forward pass, as far as its decomposition needs it.

Letters: B batch, N tokens, H heads, D hidden size, d head size.
"""

from dataclasses import dataclass

from torch import Tensor

from captum_globenc.decomposition.attention import Attention


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

    All floating-point tensors but the attention's, which is as the model computed it, share one dtype, at
    least float32.

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
