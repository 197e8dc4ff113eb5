"""Check that the decomposition of each layer sums to the layer's attention output.

Every pass checks one receiver token per example; the first pass of a model checks all of them. The
decomposition uses the recorded weights, queries, keys and values. If the model did anything else with them,
the parts do not sum to the recorded output. B batch, N tokens, R receivers, H heads, D hidden size, d head
size.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.attention import share_heads
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Tile, Workspace, slices
from captum_globenc.errors import RecordingError
from captum_globenc.recording.checks import QUANTIZED_TOLERANCE, ROUNDING_STEPS, TOLERANCE, Failure
from captum_globenc.recording.linear import is_quantized


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
        self._every_token = every_token
        self._example = torch.arange(batch, device=device)
        real = None if real is None else real.expand(batch, tokens)
        self._checked = real if real is None or every_token else real.any(dim=1, keepdim=True)
        spread = 3 + 7 * torch.arange(layers, device=device)[:, None]
        if real is None:
            self._receivers = (spread % tokens).expand(layers, batch)
        else:
            number = spread % real.sum(dim=1).clamp(min=1) + 1
            self._receivers = ((real.cumsum(dim=1) == number[..., None]) & real).int().argmax(dim=-1)
        # Per layer: its index, the largest entries, and the tolerances relative to them.
        self._measured: list[tuple[int, Tensor, tuple[float, float]]] = []

    def measure(self, layer: LayerRecord, dtypes: Iterable[torch.dtype], projection: nn.Module) -> None:
        """Measure one layer.

        Args:
            layer: the layer's record.
            dtypes: the dtypes of the residual stream, the attention and the values.
            projection: the output projection.
        """
        if self._every_token:
            parts, stream, attended = attention_output(layer), layer.stream, layer.attended
        else:
            receivers = self._receivers[layer.index % len(self._receivers)].to(layer.stream.device)
            example = self._example.to(receivers.device)
            parts = _receiver_output(layer, example, receivers)
            stream, attended = layer.stream[example, receivers], layer.attended[example, receivers]
        whole = attended - stream
        if layer.output_bias is not None:
            whole = whole - layer.output_bias
        dtypes = tuple(dtypes)
        tolerance = max(TOLERANCE.get(dtype, 0.0) for dtype in dtypes)
        if torch.get_float32_matmul_precision() != "highest":
            tolerance = max(tolerance, TOLERANCE[torch.float16])
        if is_quantized(projection):
            tolerance = max(tolerance, QUANTIZED_TOLERANCE)
        # `whole` is a difference of streams, and so has their rounding errors.
        rounding = ROUNDING_STEPS * max(torch.finfo(dtype).eps for dtype in dtypes)
        compared = parts - whole, parts, whole, stream, attended
        largest = torch.stack([torch.linalg.vector_norm(it, torch.inf, dim=-1) for it in compared])
        self._measured.append((layer.index, largest, (tolerance, rounding)))

    def failures(self) -> Iterable[Failure]:
        """Return one failure per layer."""
        if not self._measured:
            return []
        device = self._example.device
        measured = torch.stack([largest.to(device) for _, largest, _ in self._measured], dim=1)
        error, *others = measured if self._every_token else measured[..., None]  # each (L, B, R)
        largest = torch.maximum(*others[:2])
        factors = largest.new_tensor([factors for *_, factors in self._measured])[..., None]
        bound = factors[:, :1] * largest + factors[:, 1:] * torch.maximum(*others[2:])
        wrong = ~(error <= bound)  # also True for NaN
        if self._checked is not None:
            wrong &= self._checked

        def make_error(row: int) -> RecordingError:
            excess = (error[row] / bound[row]).nan_to_num(torch.inf).where(wrong[row], 0)
            example, token = divmod(int(excess.argmax()), excess.shape[1])
            scale = largest[row, example, token]
            return RecordingError(
                f"In encoder layer {self._measured[row][0]}, example {example}, the decomposition does not "
                "sum to the attention's output: the error is "
                f"{float(error[row, example, token] / scale):.1g} of the largest entry, the tolerance "
                f"{float(bound[row, example, token] / scale):.1g}. "
                "Something that cannot be recorded changes the attention: a hook or an attention function of "
                "your own, several adapters in one batch, or a spec that does not fit the model. Remove it, "
                "or see captum_globenc.check_encoder."
            )

        return [
            Failure(flag, partial(make_error, row), self._measured[row][0])
            for row, flag in enumerate(wrong.flatten(1).any(dim=1).unbind())
        ]


def _receiver_output(layer: LayerRecord, examples: Tensor, receivers: Tensor) -> Tensor:
    """Return the attention output `(B, D)`, without bias, of one receiver per example, both `(B,)`."""
    batch, tokens = layer.stream.shape[:2]
    value = layer.value
    # (B G, H/G, N): the heads of a group share their values.
    grouped = layer.weights.rows(examples, receivers).view(batch * value.shape[1], -1, tokens)
    return torch.bmm(grouped, value.flatten(0, 1)).view(batch, -1) @ layer.output.T


def attention_output(layer: LayerRecord) -> Tensor:
    """Return the attention output `(B, N, D)`, without bias, of the recorded weights and values."""
    batch, tokens, _ = layer.stream.shape
    heads = layer.attention.heads
    value = share_heads(layer.value, heads)
    size = max(1, Workspace.on(value.device).budget.cells // (heads * tokens))
    contexts = []
    for example in slices(batch, 1):
        parts = [
            layer.weights.tile(Tile(example, receivers, slice(0, tokens))).transpose(2, 3) @ value[example]
            for receivers in slices(tokens, size)
        ]
        contexts.append(torch.cat(parts, 2).transpose(1, 2).flatten(2))
    return torch.cat(contexts) @ layer.output.T
