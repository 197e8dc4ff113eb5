"""Whether the parts of each layer add up to what it really wrote: one receiver per example, in every pass.

What is decomposed are weights, queries, keys and values as they were read. Where the model did anything
else with them, the parts of any receiver miss the whole. B batch, N tokens, H heads, D hidden size,
d head size.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.recording.linear import is_plain

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""How far off an attention block computed in a dtype may be, as a share of what it writes."""

ALLOWED_IN_INTEGERS = 0.1
"""The same of a projection that rounds what it is given to 8 bits."""

ROUNDINGS = 4
"""Steps of the stream's dtype that are lost where the block is read off as a difference of streams."""


def check_sum(
    layer: LayerRecord, dtypes: Iterable[torch.dtype], projection: nn.Module
) -> tuple[Tensor, Callable[[], RuntimeError]]:
    """Hold the parts that one receiver of each example is sent against what was written into its stream.

    Args:
        layer: what one layer did.
        dtypes: in which it did it: those of the stream, of what attends, and of the values.
        projection: the output projection that ran.

    Returns:
        Whether they do not add up, within what the dtypes allow, a tensor that nobody has looked at, and what
        makes the error that says so.
    """
    batch, tokens = layer.stream.shape[:2]
    example = torch.arange(batch, device=layer.stream.device)
    receivers = _receivers(layer, batch, tokens)
    weights = layer.attention.to(layer.stream.dtype).rows(receivers)
    value = layer.value
    # (B, G, H/G, N): the heads of a group share their values.
    shared = weights.reshape(batch, value.shape[1], -1, tokens)
    parts = (shared @ value).reshape(batch, -1) @ layer.output.T
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
    largest = torch.maximum(_largest(parts), _largest(whole))
    bound = allowed * largest + step * torch.maximum(_largest(stream), _largest(attended))
    error = _largest(parts - whole)
    wrong = ~(error <= bound)  # NaN is
    if layer.real is not None:
        wrong &= layer.real.any(dim=1)
    index = layer.index  # and not the layer, which would be held

    def missed() -> RuntimeError:
        worst = int((error / bound).nan_to_num(torch.inf).where(wrong, 0).argmax())
        return RuntimeError(
            f"In encoder layer {index}, example {worst}, what the attention passes on does not add up to "
            f"what it wrote: off by {float(error[worst] / largest[worst]):.1g} of the largest entry, where "
            f"{float(bound[worst] / largest[worst]):.1g} is rounding. Something acts on it that cannot be "
            "seen: a hook or an attention function of your own, several adapters in one batch, or a spec "
            "that does not fit. Take it off, or see captum_globenc.check_encoder."
        )

    return wrong.any(), missed


def rounds_to_integers(module: nn.Module) -> bool:
    """Tell whether a projection is quantised, so that it may round what it is given."""
    for part in module.modules():
        weight = getattr(part, "weight", None)
        if "quant" in type(part).__module__ or (isinstance(weight, Tensor) and not is_plain(weight)):
            return True
    return False


def _receivers(layer: LayerRecord, batch: int, tokens: int) -> Tensor:
    """Return one real token of each example, `(B,)`, another one in every layer."""
    place = 3 + 7 * layer.index
    if layer.real is None:
        return torch.full((batch,), place % tokens, device=layer.stream.device)
    real = layer.real.expand(batch, tokens)
    number = real.sum(dim=1, keepdim=True)
    return ((real.cumsum(dim=1) == place % number.clamp(min=1) + 1) & real).int().argmax(dim=1)


def _largest(vectors: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(vectors, ord=torch.inf, dim=-1)
    return largest
