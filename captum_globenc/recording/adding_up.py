"""Check that the decomposition of each layer sums to the layer's attention output.

Every pass checks one receiver token per example, and the first pass of a model all of them. The decomposition
is made of the weights, queries, keys and values that were recorded. If the model did anything else with them,
the parts miss the whole. B batch, N tokens, R receivers, H heads, D hidden size, d head size.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.weights import share_heads
from captum_globenc.decomposition.workspace import Tile, Workspace, slices
from captum_globenc.encoders.walk import every
from captum_globenc.errors import RecordingError
from captum_globenc.recording.linear import is_plain

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""How far off an attention block computed in a dtype may be, as a share of what it writes."""

ALLOWED_IN_INTEGERS = 0.1
"""The same of a projection that rounds what it is given to 8 bits."""

ROUNDINGS = 4
"""Steps of the stream's dtype that are lost where the block is read off as a difference of streams."""


class Sums:
    """Compares what receivers are sent with what was written into their streams.

    Args:
        shape: `(B, N)`.
        real: `(B, N)`, False at padding; None where every token is real.
        layers: number of layers, each of which has other receivers.
        device: where the layers run.
        every: whether all tokens are checked, and not one of each example.
    """

    def __init__(
        self,
        shape: Sequence[int],
        real: Tensor | None,
        layers: int,
        device: torch.device,
        *,
        every: bool = False,
    ) -> None:
        batch, tokens = shape
        self._every = every
        self._example = torch.arange(batch, device=device)
        real = None if real is None else real.expand(batch, tokens)
        if real is None or every:
            self._judged = real
        else:
            self._judged = real.any(dim=1, keepdim=True)
        places = 3 + 7 * torch.arange(layers, device=device)[:, None]
        if real is None:
            self._receivers = (places % tokens).expand(layers, batch)
        else:
            number = places % real.sum(dim=1).clamp(min=1) + 1
            self._receivers = ((real.cumsum(dim=1) == number[..., None]) & real).int().argmax(dim=-1)
        # Of each layer: its number, the largest entries, and which shares of them are rounding.
        self._found: list[tuple[int, Tensor, tuple[float, float]]] = []

    def see(self, layer: LayerRecord, dtypes: Iterable[torch.dtype], projection: nn.Module) -> None:
        """Measure one layer.

        Args:
            layer: what it did.
            dtypes: in which it did it: those of the stream, of the attention, and of the values.
            projection: the output projection that ran.
        """
        if self._every:
            parts, stream, attended = attention_output(layer), layer.stream, layer.attended
        else:
            receivers = self._receivers[layer.index % len(self._receivers)].to(layer.stream.device)
            example = self._example.to(receivers.device)
            parts = _one_receiver(layer, receivers)[:, None]
            stream, attended = (it[example, receivers][:, None] for it in (layer.stream, layer.attended))
        whole = attended - stream
        if layer.output_bias is not None:
            whole = whole - layer.output_bias
        dtypes = tuple(dtypes)
        allowed = max(ALLOWED.get(dtype, 0.0) for dtype in dtypes)
        if torch.get_float32_matmul_precision() != "highest":
            allowed = max(allowed, ALLOWED[torch.float16])
        if rounds_to_integers(projection):
            allowed = max(allowed, ALLOWED_IN_INTEGERS)
        step = ROUNDINGS * max(torch.finfo(dtype).eps for dtype in dtypes)
        # (5, B, R), measured at once.
        largest = torch.stack(
            [it.abs().amax(dim=-1) for it in (parts - whole, parts, whole, stream, attended)]
        )
        self._found.append((layer.index, largest, (allowed, step)))

    def missed(self) -> tuple[Tensor, Callable[[int], RecordingError]] | None:
        """Return in which of the layers parts do not add up, and what makes the error of one.

        Returns:
            `(L,)`, not read yet, as that waits for the device; None where no layer was measured.
        """
        if not self._found:
            return None
        device = self._example.device
        error, *others = torch.stack([found.to(device) for _, found, _ in self._found], dim=1)
        largest = torch.maximum(*others[:2])
        shares = largest.new_tensor([shares for *_, shares in self._found])[..., None]
        bound = shares[:, :1] * largest + shares[:, 1:] * torch.maximum(*others[2:])
        wrong = ~(error <= bound)  # NaN is
        if self._judged is not None:
            wrong &= self._judged

        def make(number: int) -> RecordingError:
            excess = (error[number] / bound[number]).nan_to_num(torch.inf).where(wrong[number], 0)
            worst, token = divmod(int(excess.argmax()), excess.shape[1])
            share = largest[number, worst, token]
            return RecordingError(
                f"In encoder layer {self._found[number][0]}, example {worst}, what the attention passes on "
                f"does not add up to what it wrote: off by {float(error[number, worst, token] / share):.1g} "
                f"of the largest entry, where {float(bound[number, worst, token] / share):.1g} is rounding. "
                "Something acts on it that cannot be seen: a hook or an attention function of your own, "
                "several adapters in one batch, or a spec that does not fit. Take it off, or see "
                "captum_globenc.check_encoder."
            )

        return wrong.flatten(1).any(dim=1), make


def _one_receiver(layer: LayerRecord, receivers: Tensor) -> Tensor:
    """Return the attention output `(B, D)`, without the bias, of one receiver of each example, `(B,)`."""
    batch, tokens = layer.stream.shape[:2]
    weights = layer.attention.to(layer.stream.dtype).rows(receivers)
    value = layer.value
    # (B G, H/G, N): the heads of a group share their values.
    shared = weights.reshape(batch * value.shape[1], -1, tokens)
    return torch.bmm(shared, value.flatten(0, 1)).view(batch, -1) @ layer.output.T


def attention_output(layer: LayerRecord) -> Tensor:
    """Return the attention output `(B, N, D)` that the recorded weights and values give, without the bias."""
    batch, tokens, _ = layer.stream.shape
    heads = layer.attention.heads
    weights = layer.attention.weights(layer.stream.dtype)
    value = share_heads(layer.value, heads)
    size = max(1, Workspace.on(value.device).room.cells // (heads * tokens))
    contexts = []
    for example in slices(batch, 1):
        parts = [
            weights.tile(Tile(example, receivers, slice(0, tokens))).transpose(2, 3) @ value[example]
            for receivers in slices(tokens, size)
        ]
        contexts.append(torch.cat(parts, 2).transpose(1, 2).flatten(2))
    return torch.cat(contexts) @ layer.output.T


def rounds_to_integers(module: nn.Module) -> bool:
    """Tell whether a projection is quantised, so that it may round what it is given."""
    for part in every(module):
        weight = getattr(part, "weight", None)
        if "quant" in type(part).__module__ or (isinstance(weight, Tensor) and not is_plain(weight)):
            return True
    return False
