"""One layer's record, assembled from what hooks saw of it.

B batch, N tokens, H heads, D hidden size, d head size.
"""

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.attention import Attention
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import EncoderSpec, Layer
from captum_globenc.recording.linear import linear_map, linearized_norm
from captum_globenc.recording.streams import Written

Residual = tuple[list[Written], list[Tensor]]
"""Where a residual connection starts, and where it ends."""


class OpenLayer:
    """What has been seen of the layer that is running."""

    def __init__(self, layer: Layer, stream: Tensor) -> None:
        self.layer = layer
        self.stream = stream
        self.output: Tensor | None = None
        self.written: Written | None = None
        self.returned: Tensor | None = None  # what hooks made of the output
        self.attention: Attention | None = None
        self.value: Tensor | None = None
        self.written_by_attention: Tensor | None = None  # what the output projection returned
        # Where the residual connections start: the stream; then the first norm's output, before any hook on
        # it, of a post-LN layer, or the second norm's input of a pre-LN layer.
        self.given = Written(stream)
        self.normed: list[Written] = []
        self.read: list[Written] = []
        # Lists, because a model that works through the feed-forward network in chunks calls the
        # second norm once for each.
        self.seen: dict[str, list[Tensor]] = {"norm1": [], "norm2": []}

    def see_attention(self, attention: Attention, value: Tensor) -> None:
        """Take note of the attention of this layer, and of its values `(B, H or fewer, N, d)`."""
        tokens = self.stream.shape[1]
        if attention.tokens != tokens:
            raise ValueError(
                f"{type(self.layer.attention).__name__} attends to {attention.tokens} keys for {tokens} "
                "tokens: what a cache or prefix tuning adds belongs to no token, and cannot be scored."
            )
        self.attention = attention
        self.value = value

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The dtypes in which the attention was computed, and its output added."""
        assert self.attention is not None
        assert self.value is not None
        return self.stream.dtype, self.seen["norm2"][0].dtype, self.value.dtype, self.attention.dtype

    def residuals(self, spec: EncoderSpec) -> tuple[Residual, Residual]:
        """Return the start and end of both residual connections, `(B, N, D)` or chunks along the tokens."""
        assert self.written is not None
        if spec.order == "post-LN":
            return ([self.given], self.seen["norm1"]), (self.normed, self.seen["norm2"])
        return ([self.given], self.seen["norm2"]), (self.read, [self.written.value])

    def record(self, spec: EncoderSpec, index: int, real: Tensor | None, next_norm: nn.Module) -> LayerRecord:
        """Return the record of the layer, in the precision that it is decomposed in."""
        assert self.attention is not None
        assert self.value is not None
        assert self.output is not None
        dtype = torch.promote_types(self.stream.dtype, torch.float32)
        layer, centred = self.layer, spec.centred
        before1, before2 = (_joined(self.seen[role]).to(dtype) for role in ("norm1", "norm2"))
        if spec.order == "post-LN":
            attended = before1
            after_attention = linearized_norm(layer.norm1, before1, centred)
            after_layer = after_attention + linearized_norm(layer.norm2, before2, centred)
        else:
            attended = before2
            after_attention = linearized_norm(layer.norm2, before2, centred)
            after_layer = linearized_norm(next_norm, self.output.to(dtype), centred)
        value = self.value
        size = self.attention.heads * value.shape[-1]
        output, output_bias = linear_map(layer.out, size, dtype)
        if layer.layer_scale is not None:
            scale = layer.layer_scale.to(dtype)
            output = output * scale[:, None]
            output_bias = None if output_bias is None else output_bias * scale
        return LayerRecord(
            index=index,
            attention=self.attention,
            value=value.to(dtype),
            output=output,
            output_bias=output_bias,
            stream=self.stream.to(dtype),
            attended=attended,
            after_attention=after_attention,
            after_layer=after_layer,
            real=real,
        )


def _joined(chunks: list[Tensor]) -> Tensor:
    """Return the tokens of all chunks, without a copy where there is one."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
