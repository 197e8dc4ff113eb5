"""Assemble the record of a layer, or of several stacked layers, from the tensors that hooks saw.

B batch, N tokens, H heads, D hidden size, d head size.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.attention import Attention
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import TileBudget, at_least_float32, part
from captum_globenc.encoders import EncoderSpec, Layer
from captum_globenc.recording.linear import is_quantized, linear_map, norm_parameters, normalization
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

    def parts(self, spec: EncoderSpec, next_norm: nn.Module) -> "LayerParts":
        """Return what the record of the layer is made of.

        Args:
            spec: the encoder's family.
            next_norm: the norm that reads the output of a pre-LN layer.
        """
        assert self.attention is not None
        assert self.value is not None
        assert self.output is not None
        layer = self.layer
        input1, input2 = (_join(self.norm_inputs[role]) for role in ("norm1", "norm2"))
        if spec.order == "post-LN":
            norms = {"attended": (layer.norm1, input1), "finished": (layer.norm2, input2)}
        else:
            norms = {"attended": (layer.norm2, input2), "finished": (next_norm, self.output)}
        size = self.attention.heads * self.value.shape[-1]
        output, bias = linear_map(layer.out, size, at_least_float32(self.stream.dtype))
        found = {
            **vars(self.attention),
            "scores": None,  # only needed to find the padding
            "value": self.value,
            "stream": self.stream,
            "output": output,
            "output_bias": bias,
            "layer_scale": layer.layer_scale,
            "dtypes": self.dtypes,
            "quantized": is_quantized(layer.out),
            "attention": type(self.attention),
        }
        for name, (norm, seen) in norms.items():
            gain, *eps = norm_parameters(norm) or (None,)
            found |= {name: seen, f"{name}_gain": gain, f"{name}_eps": eps}
        tensors = {name: it for name, it in found.items() if isinstance(it, Tensor)}
        return LayerParts(tensors, {name: it for name, it in found.items() if name not in tensors})


WEIGHTS = frozenset({"output", "output_bias", "layer_scale", "attended_gain", "finished_gain"})
"""Names of tensors that belong to a layer's modules; all others have the texts as first dimension."""


class LayerParts(NamedTuple):
    """What the record of a layer is made of, or of stacked layers.

    Args:
        tensors: by name.
        constants: all else, by name; only layers of equal constants can be stacked.
    """

    tensors: dict[str, Tensor]
    constants: dict[str, Any]

    @property
    def form(self) -> Any:
        """What layers have in common that can be stacked."""
        return self.constants, {name: (it.shape, it.dtype, it.device) for name, it in self.tensors.items()}

    def room(self, budget: TileBudget) -> int:
        """Return how many such layers fit into a tile, with the largest tensor of their decomposition.

        Only on an accelerator, and only if their matrices are smaller than the queries and keys; otherwise 1.
        """
        batch, tokens, size = self.tensors["stream"].shape
        columns = self.tensors["output"].shape[1]
        if not budget.syncs or tokens > 2 * columns:
            return 1
        heads = self.tensors["query" if "query" in self.tensors else "probabilities"].shape[1]
        return max(budget.cells // max(batch * heads * tokens * max(tokens, size), size * columns), 1)

    def record(self, spec: EncoderSpec, index: int, real: Tensor | None, layers: int = 1) -> LayerRecord:
        """Return the record, in at least float32.

        Args:
            spec: the encoder's family.
            index: number of the layer; of stacked layers, of the first.
            real: `(B, N)`, False at padding; None if every token is real.
            layers: number of stacked layers.
        """
        tensors, constants = self
        dtype = at_least_float32(tensors["stream"].dtype)
        seen = {name: tensors[name].to(dtype) for name in ("attended", "finished")}
        after_attention, after_layer = (
            tuple(
                normalization(tensors.get(f"{name}_gain"), eps, inputs, spec.centred)
                for eps in constants[f"{name}_eps"]
            )
            for name, inputs in seen.items()
        )
        if spec.order == "post-LN":
            after_layer = after_attention + after_layer
        output, output_bias = tensors["output"], tensors.get("output_bias")
        if "layer_scale" in tensors:
            scale = tensors["layer_scale"].to(dtype)
            output = output * scale[..., None]
            output_bias = None if output_bias is None else output_bias * scale
        attention: Any = constants["attention"]
        every = {**constants, **tensors}
        return LayerRecord(
            index=index,
            attention=attention(**{name: every[name] for name in attention.__dataclass_fields__}),
            value=tensors["value"].to(dtype),
            output=output,
            output_bias=output_bias,
            stream=tensors["stream"].to(dtype),
            attended=seen["attended"],
            after_attention=after_attention,
            after_layer=after_layer,
            real=real,
            layers=layers,
        )


class LayerStack:
    """Copies of the parts of successive layers, to decompose the layers together.

    Copies, because the model may write to its own tensors later.

    Args:
        first: the parts of the first layer.
        index: its number.
        room: most layers.
    """

    def __init__(self, first: LayerParts, index: int, room: int) -> None:
        self.constants = first.constants
        self._index = index
        self._layers = 0
        self._form = first.form
        self._copies = {name: _empty(it, room) for name, it in _for_each_text(first)}
        self._places = {name: it.unbind() for name, it in self._copies.items()}

    @property
    def is_full(self) -> bool:
        """Whether there is no room left."""
        return self._layers == len(self._places["stream"])

    def takes(self, layer: LayerParts) -> bool:
        """Whether a layer is like the others."""
        return bool(layer.form == self._form)

    def add(self, layer: LayerParts) -> None:
        """Copy the parts of the next layer."""
        # One kernel copies all tensors of one dtype that have the strides of their copies.
        batches: dict[tuple[torch.dtype, bool], tuple[list[Tensor], list[Tensor]]] = {}
        for name, it in _for_each_text(layer):
            place = self._places[name][self._layers]
            places, tensors = batches.setdefault((it.dtype, it.stride() == place.stride()), ([], []))
            places.append(place)
            tensors.append(it)
        for places, tensors in batches.values():
            torch._foreach_copy_(places, tensors)
        self._layers += 1

    def record(self, spec: EncoderSpec, real: Tensor | None) -> LayerRecord:
        """Return the record of the layers; see :meth:`LayerParts.record` for the arguments."""
        filled = {name: part(it, slice(0, self._layers)) for name, it in self._copies.items()}
        tensors = {name: it if name in WEIGHTS else it.flatten(0, 1) for name, it in filled.items()}
        tensors |= {name: it.unsqueeze(1) for name, it in filled.items() if name.endswith("_gain")}
        if real is not None:
            real = real.expand(filled["stream"].shape[1:3]).repeat(self._layers, 1)
        return LayerParts(tensors, self.constants).record(spec, self._index, real, self._layers)


def _for_each_text(layer: LayerParts) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a layer by name; tensors that hold for all texts are repeated for each."""
    batch = len(layer.tensors["stream"])
    for name, it in layer.tensors.items():
        yield name, it if name in WEIGHTS or len(it) == batch else it.expand(batch, *it.shape[1:])


def _empty(like: Tensor, layers: int) -> Tensor:
    """Return memory for a tensor of each layer, with its strides unless they have gaps or overlaps."""
    dense = torch.empty_like(like, device="meta")
    return like.new_empty_strided((layers, *dense.shape), (dense.numel(), *dense.stride()))


def _join(chunks: list[Tensor]) -> Tensor:
    """Return the tokens of all chunks; no copy if there is one chunk."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=1)
