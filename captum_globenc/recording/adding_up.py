"""Whether the parts of each layer add up to what it really wrote: one receiver per example, in every pass.

What is decomposed are weights, queries, keys and values as they were read. Where the model did anything
else with them, the parts of any receiver miss the whole. B batch, N tokens, H heads, D hidden size,
d head size.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders.walk import every
from captum_globenc.recording.linear import is_plain
from captum_globenc.recording.refusal import RecordingError

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""How far off an attention block computed in a dtype may be, as a share of what it writes."""

ALLOWED_IN_INTEGERS = 0.1
"""The same of a projection that rounds what it is given to 8 bits."""

ROUNDINGS = 4
"""Steps of the stream's dtype that are lost where the block is read off as a difference of streams."""


class Sums:
    """The parts that one receiver of each example is sent, held against what was written into its stream.

    Args:
        shape: `(B, N)`.
        real: `(B, N)`, False at padding; None where every token is real.
        layers: how many there are, each with other receivers.
        device: which one.
    """

    def __init__(self, shape: Sequence[int], real: Tensor | None, layers: int, device: torch.device) -> None:
        batch, tokens = shape
        self._example = torch.arange(batch, device=device)
        self._judged = None if real is None else real.expand(batch, tokens).any(dim=1)
        places = 3 + 7 * torch.arange(layers, device=device)[:, None]
        if real is None:
            self._receivers = (places % tokens).expand(layers, batch)
        else:
            real = real.expand(batch, tokens)
            number = places % real.sum(dim=1).clamp(min=1) + 1
            self._receivers = ((real.cumsum(dim=1) == number[..., None]) & real).int().argmax(dim=-1)
        # Of each layer: its number, the largest entries, and which shares of them are rounding.
        self._found: list[tuple[int, Tensor, tuple[float, float]]] = []

    def see(self, layer: LayerRecord, dtypes: Iterable[torch.dtype], projection: nn.Module) -> None:
        """Measure one layer.

        Args:
            layer: what it did.
            dtypes: in which it did it: those of the stream, of what attends, and of the values.
            projection: the output projection that ran.
        """
        batch, tokens = layer.stream.shape[:2]
        device = layer.stream.device
        example = self._example.to(device)
        receivers = self._receivers[layer.index % len(self._receivers)].to(device)
        weights = layer.attention.to(layer.stream.dtype).rows(receivers)
        value = layer.value
        # (B G, H/G, N): the heads of a group share their values.
        shared = weights.reshape(batch * value.shape[1], -1, tokens)
        parts = torch.bmm(shared, value.flatten(0, 1)).view(batch, -1) @ layer.output.T
        stream, attended = layer.stream[example, receivers], layer.attended[example, receivers]
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
        # (5, B), measured at once.
        largest = torch.stack([parts - whole, parts, whole, stream, attended]).abs().amax(dim=-1)
        self._found.append((layer.index, largest, (allowed, step)))

    def missed(self) -> tuple[Tensor, Callable[[int], RecordingError]] | None:
        """Return in which of the layers parts do not add up, and what makes the error of one.

        Returns:
            `(L,)`, which nobody has looked at; None where there is nothing.
        """
        if not self._found:
            return None
        device = self._example.device
        error, *others = torch.stack([found.to(device) for _, found, _ in self._found], dim=1)
        largest = torch.maximum(*others[:2])
        shares = largest.new_tensor([shares for *_, shares in self._found])
        bound = shares[:, :1] * largest + shares[:, 1:] * torch.maximum(*others[2:])
        wrong = ~(error <= bound)  # NaN is
        if self._judged is not None:
            wrong &= self._judged

        def make(number: int) -> RecordingError:
            worst = int(
                (error[number] / bound[number]).nan_to_num(torch.inf).where(wrong[number], 0).argmax()
            )
            share = largest[number, worst]
            return RecordingError(
                f"In encoder layer {self._found[number][0]}, example {worst}, what the attention passes on "
                f"does not add up to what it wrote: off by {float(error[number, worst] / share):.1g} of the "
                f"largest entry, where {float(bound[number, worst] / share):.1g} is rounding. Something acts "
                "on it that cannot be seen: a hook or an attention function of your own, several adapters in "
                "one batch, or a spec that does not fit. Take it off, or see captum_globenc.check_encoder."
            )

        return wrong.any(dim=1), make


def rounds_to_integers(module: nn.Module) -> bool:
    """Tell whether a projection is quantised, so that it may round what it is given."""
    for part in every(module):
        weight = getattr(part, "weight", None)
        if "quant" in type(part).__module__ or (isinstance(weight, Tensor) and not is_plain(weight)):
            return True
    return False
