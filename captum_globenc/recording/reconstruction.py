"""Check that the decomposition of each layer sums to the layer's attention output.

Every pass checks one receiver token per example; the first pass of a model checks all of them. The
decomposition uses the recorded weights, queries, keys and values. If the model did anything else with them,
the parts do not sum to the recorded output. B batch, N tokens, R receivers, H heads, D hidden size, d head
size.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from captum_globenc.decomposition.attention import share_heads
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Tile, Workspace, part, slices
from captum_globenc.errors import RecordingError
from captum_globenc.recording.checks import QUANTIZED_TOLERANCE, ROUNDING_STEPS, TOLERANCE, Failure


class ReconstructionCheck:
    """Compare the recorded attention output of receiver tokens with the sum of its parts.

    Args:
        shape: `(B, N)`.
        real: `(B, N)`, False at padding; None if every token is real.
        layers: number of layers; each checks other receivers.
        device: device of the first layer.
        every_token: whether to check all tokens instead of one per example.
    """

    def __init__(
        self,
        shape: Sequence[int],
        real: Tensor | None,
        layers: int,
        device: torch.device,
        *,
        every_token: bool = False,
    ) -> None:
        batch, tokens = shape
        self._batch = batch
        self._every_token = every_token
        self._examples = torch.arange(layers * batch, device=device)
        real = None if real is None else real.expand(batch, tokens)
        self._checked = real if real is None or every_token else real.any(dim=1, keepdim=True)
        spread = 3 + 7 * torch.arange(layers, device=device)[:, None]
        if real is None:
            receivers = (spread % tokens).expand(layers, batch)
        else:
            number = spread % real.sum(dim=1).clamp(min=1) + 1
            receivers = ((real.cumsum(dim=1) == number[..., None]) & real).int().argmax(dim=-1)
        self._receivers = receivers.flatten()  # (L B,)
        # The largest entries if every token is checked, else vectors, which are compared after the pass.
        self._largest: list[Tensor] = []
        self._vectors: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        # Per layer: its index, and the tolerances relative to the largest entries.
        self._layers: list[tuple[int, tuple[float, float]]] = []

    def measure(self, layer: LayerRecord, dtypes: Sequence[torch.dtype], quantized: bool) -> None:
        """Measure one layer, or stacked layers.

        Args:
            layer: the record.
            dtypes: the dtypes of the residual stream, the attention and the values.
            quantized: whether the output projection is quantized.
        """
        stream, attended, bias = layer.stream, layer.attended, layer.output_bias
        size = stream.shape[-1]
        bias = stream.new_zeros(layer.layers, size) if bias is None else bias.view(-1, size)
        if self._every_token:
            self._largest.append(self._measure(attention_output(layer), stream, attended, bias))
        else:
            start, count = layer.index * self._batch % len(self._receivers), len(stream)
            examples = part(self._examples, slice(0, count)).to(stream.device)
            receivers = part(self._receivers, slice(start, start + count)).to(stream.device)
            parts = _receiver_output(layer, examples, receivers)
            self._vectors.append((parts, stream[examples, receivers], attended[examples, receivers], bias))
        tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in dtypes)
        if torch.get_float32_matmul_precision() != "highest":
            tolerance = max(tolerance, TOLERANCE[torch.float16])
        if quantized:
            tolerance = max(tolerance, QUANTIZED_TOLERANCE)
        # The layer's output is a difference of streams, and so has their rounding errors.
        rounding = ROUNDING_STEPS * max(torch.finfo(dtype).eps for dtype in dtypes)
        self._layers += [(layer.index + number, (tolerance, rounding)) for number in range(layer.layers)]

    def _measure(self, parts: Tensor, stream: Tensor, attended: Tensor, bias: Tensor) -> Tensor:
        """Return the largest entries `(5, L, B, R)` of the error, both sides, and both streams.

        Args:
            parts: the sum of the parts, `(L B, R, D)` or, of one receiver, `(L B, D)`.
            stream: the stream before the attention, in the same shape.
            attended: the stream after it, in the same shape.
            bias: `(L, D)`.
        """
        bias = bias[:, None, None]
        parts, stream, attended = (
            it.reshape(len(bias), self._batch, -1, it.shape[-1]) for it in (parts, stream, attended)
        )
        whole = attended - stream - bias
        compared = parts - whole, parts, whole, stream, attended
        return torch.stack([torch.linalg.vector_norm(it, torch.inf, dim=-1) for it in compared])

    def failures(self) -> Iterable[Failure]:
        """Return one failure per layer."""
        if not self._layers:
            return []
        device = self._examples.device
        if self._every_token:
            measured = torch.cat([it.to(device) for it in self._largest], dim=1)
        else:
            vectors = zip(*self._vectors, strict=True)
            measured = self._measure(*(torch.cat([it.to(device) for it in some]) for some in vectors))
        error, *others = measured.unbind()  # each (L, B, R)
        largest = torch.maximum(*others[:2])
        relative, rounding = largest.new_tensor([factors for _, factors in self._layers]).T[..., None, None]
        bound = relative * largest + rounding * torch.maximum(*others[2:])
        wrong = ~(error <= bound)  # also True for NaN
        if self._checked is not None:
            wrong &= self._checked

        def make_error(row: int) -> RecordingError:
            excess = (error[row] / bound[row]).nan_to_num(torch.inf).where(wrong[row], 0)
            example, token = divmod(int(excess.argmax()), excess.shape[1])
            scale = largest[row, example, token]
            return RecordingError(
                f"In encoder layer {self._layers[row][0]}, example {example}, the decomposition does not "
                "sum to the attention's output: the error is "
                f"{float(error[row, example, token] / scale):.1g} of the largest entry, the tolerance "
                f"{float(bound[row, example, token] / scale):.1g}. "
                "Something that cannot be recorded changes the attention: a hook or an attention function of "
                "your own, several adapters in one batch, or a spec that does not fit the model. Remove it, "
                "or see captum_globenc.check_encoder."
            )

        return [
            Failure(flag, partial(make_error, row), self._layers[row][0])
            for row, flag in enumerate(wrong.flatten(1).any(dim=1).unbind())
        ]


def _receiver_output(layer: LayerRecord, examples: Tensor, receivers: Tensor) -> Tensor:
    """Return the attention output `(B, D)`, without bias, of one receiver per example, both `(B,)`."""
    batch, tokens = layer.stream.shape[:2]
    value = layer.value
    # (B G, H/G, N): the heads of a group share their values.
    grouped = layer.weights.rows(examples, receivers).view(batch * value.shape[1], -1, tokens)
    return layer.project(torch.bmm(grouped, value.flatten(0, 1)).view(batch, -1))


def attention_output(layer: LayerRecord) -> Tensor:
    """Return the attention output `(B, N, D)`, without bias, of the recorded weights and values."""
    batch, tokens, _ = layer.stream.shape
    heads = layer.attention.heads
    value = share_heads(layer.value, heads)
    size = max(1, Workspace.on(value.device).budget.cells // (heads * tokens))
    contexts = []
    for example in slices(batch, 1):
        tiles = [
            layer.weights.tile(Tile(example, receivers, slice(0, tokens))).transpose(2, 3) @ value[example]
            for receivers in slices(tokens, size)
        ]
        contexts.append(torch.cat(tiles, 2).transpose(1, 2).flatten(2))
    return layer.project(torch.cat(contexts))
