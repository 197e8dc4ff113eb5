"""Assemble one layer's record from the tensors its hooks saw.

B batch, N tokens, H heads, D hidden size, d head size.
"""

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.attention import Attention
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import EncoderSpec, Layer
from captum_globenc.recording.linear import linear_map, linearized_norm
from captum_globenc.recording.residuals import Residual, VersionedTensor


class RunningLayer:
    """The tensors seen so far of the layer that is running.

    Args:
        layer: its modules.
        stream: its input, `(B, N, D)`.
    """

    def __init__(self, layer: Layer, stream: Tensor) -> None:
        self.layer = layer
        self.stream = stream
        self.attention: Attention | None = None
        self.value: Tensor | None = None
        self.projected: Tensor | None = None  # output of the attention's output projection
        self.output: Tensor | None = None
        self.written: VersionedTensor | None = None  # the output, before any hook
        self.returned: Tensor | None = None  # the output after all hooks
        # Inputs of the norms. Lists, because a feed-forward network that runs in chunks of tokens calls the
        # second norm once per chunk.
        self.norm_inputs: dict[str, list[Tensor]] = {"norm1": [], "norm2": []}
        # Starts of the residual connections: the layer's input; then the first norm's output before any hook
        # (post-LN), or the second norm's input (pre-LN).
        self.first_start = VersionedTensor(stream)
        self.second_start: list[VersionedTensor] = []

    def set_attention(self, attention: Attention, value: Tensor) -> None:
        """Record the attention, and its values `(B, H or fewer, N, d)`."""
        tokens = self.stream.shape[1]
        if attention.tokens != tokens:
            raise ValueError(
                f"{type(self.layer.attention).__name__} attends to {attention.tokens} keys for {tokens} "
                "tokens: keys of a cache or of prefix tuning belong to no token, and cannot be scored."
            )
        self.attention = attention
        self.value = value

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes of the residual stream, the values and the attention."""
        assert self.attention is not None
        assert self.value is not None
        return self.stream.dtype, self.norm_inputs["norm2"][0].dtype, self.value.dtype, self.attention.dtype

    def residuals(self, spec: EncoderSpec) -> tuple[Residual, Residual]:
        """Return the start and end of both residual connections."""
        assert self.written is not None
        norms = self.norm_inputs
        if spec.order == "post-LN":
            return ([self.first_start], norms["norm1"]), (self.second_start, norms["norm2"])
        return ([self.first_start], norms["norm2"]), (self.second_start, [self.written.value])

    def record(self, spec: EncoderSpec, index: int, real: Tensor | None, next_norm: nn.Module) -> LayerRecord:
        """Return the record of the layer, in at least float32.

        Args:
            spec: the encoder's family.
            index: number of the layer.
            real: `(B, N)`, False at padding; None if every token is real.
            next_norm: the norm that reads the output of a pre-LN layer.
        """
        assert self.attention is not None
        assert self.value is not None
        assert self.output is not None
        dtype = torch.promote_types(self.stream.dtype, torch.float32)
        layer, centred = self.layer, spec.centred
        input1, input2 = (_join(self.norm_inputs[role]).to(dtype) for role in ("norm1", "norm2"))
        if spec.order == "post-LN":
            attended = input1
            after_attention = linearized_norm(layer.norm1, input1, centred)
            after_layer = after_attention + linearized_norm(layer.norm2, input2, centred)
        else:
            attended = input2
            after_attention = linearized_norm(layer.norm2, input2, centred)
            after_layer = linearized_norm(next_norm, self.output.to(dtype), centred)
        size = self.attention.heads * self.value.shape[-1]
        output, output_bias = linear_map(layer.out, size, dtype)
        if layer.layer_scale is not None:
            scale = layer.layer_scale.to(dtype)
            output = output * scale[:, None]
            output_bias = None if output_bias is None else output_bias * scale
        return LayerRecord(
            index=index,
            attention=self.attention,
            value=self.value.to(dtype),
            output=output,
            output_bias=output_bias,
            stream=self.stream.to(dtype),
            attended=attended,
            after_attention=after_attention,
            after_layer=after_layer,
            real=real,
        )


def _join(chunks: list[Tensor]) -> Tensor:
    """Return the tokens of all chunks; no copy if there is one chunk."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
