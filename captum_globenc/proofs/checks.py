"""Whether a spec fits its model: the proofs that every supported family is held to, for anybody's.

B batch, N tokens, L layers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.captum_api import format_arguments, run_forward
from captum_globenc.decomposition.mixing import mixing_norms
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import Encoder, EncoderSpec, find_encoder
from captum_globenc.errors import RecordingError
from captum_globenc.proofs.reconstruction import layer_error
from captum_globenc.recording.linear import linearized_norm
from captum_globenc.recording.recorder import record


@dataclass(frozen=True)
class EncoderReport:
    """What :func:`check_encoder` measured, each relative to the largest entry.

    Args:
        reconstruction: how far the parts of the attention are from adding up, over all layers.
        norms: how far the linearised norms are from what the norms returned.
        output: how far the recorded pass is from the model's own.
        batch: how far a batch is from its examples alone; None where it holds one without padding.
        padding: whether the inputs held padding, so that it was checked.
    """

    reconstruction: float
    norms: float
    output: float
    batch: float | None
    padding: bool


@torch.no_grad()
def check_encoder(
    spec: EncoderSpec,
    model: nn.Module,
    inputs: Tensor,
    additional_forward_args: Any = None,
    *,
    forward_func: Callable[..., Any] | None = None,
    tolerance: float | None = None,
) -> EncoderReport:
    """Check that a spec describes what a model really computes.

    Use a model with random weights and biases, none of them 0 or 1 as they are made, in float64, and
    a batch of texts of different lengths, padded: what is not there cannot be checked.

    Args:
        spec: the family, registered or not.
        model: holds one encoder of it.
        inputs: a batch, `(B, N)` ids or whatever the model reads.
        additional_forward_args: further arguments of `forward_func`, after `inputs`. Those of shape
            `(B, N, ...)` are cut to each example's own tokens where it is run alone.
        forward_func: as for :class:`~captum_globenc.GlobEnc`; `model` itself where it is left out.
        tolerance: the largest deviation to accept. By default a thousand times the smallest step of the
            model's dtype, and no less than 1e-6: many norms are in single precision in any model.

    Returns:
        What was measured.

    Raises:
        ValueError: the spec does not fit; the message lists everything that is off.

    Example:
        >>> from captum_globenc.encoders import BERT
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertModel(config).eval().double()
        >>> ids = torch.tensor([[2, 5, 7, 3], [2, 5, 3, 0]])
        >>> report = check_encoder(BERT, model, ids, (ids > 0).long())
        >>> report.padding, report.reconstruction < 1e-12
        (True, True)
    """
    encoder = find_encoder(model, spec)
    extra = format_arguments(additional_forward_args)
    forward = model if forward_func is None else forward_func
    before = _state(model)
    own = _first_tensor(run_forward(forward, inputs, extra))
    layers: list[LayerRecord] = []
    with _norm_errors(encoder) as norm_errors:
        seen = _first_tensor(_record(forward, encoder, inputs, extra, layers))
    if not layers:
        raise ValueError(f"The spec of {spec.model_type!r} does not fit: no layer was seen to run.")
    real = layers[0].real
    report = EncoderReport(
        reconstruction=max(layer_error(layer).item() for layer in layers),
        norms=max(norm_errors, default=0.0),
        output=_apart(seen, own),
        batch=max(_single_errors(forward, encoder, inputs, extra, layers), default=None),
        padding=real is not None and not bool(real.all()),
    )
    if tolerance is None:
        tolerance = max(1e-6, 1e3 * torch.finfo(own.dtype).eps)
    failures = [*_failures(report, tolerance), *_padding_failures(layers)]
    if not failures:
        try:  # the checks of every pass, of residual connections and of what mixes tokens among them
            record(lambda: run_forward(forward, inputs, extra), encoder, lambda layer: None, again=True)
        except RecordingError as error:
            failures.append(str(error).rstrip("."))
    if _state(model) != before:
        failures.append("the model is not as it was: its hooks, attention implementation or training flags")
    if failures:
        raise ValueError(f"The spec of {spec.model_type!r} does not fit: {'; '.join(failures)}.")
    return report


def _failures(report: EncoderReport, tolerance: float) -> Iterator[str]:
    """Say what is measured to be off; a NaN is."""
    measures = (
        (
            report.reconstruction,
            "the values, through `out`, do not add up to what the attention wrote into the stream: look at "
            "attention, out, layer_scale, order and the order of heads",
        ),
        (report.norms, "the norms do not return what they should: look at norm1, norm2, final_norm, centred"),
        (report.output, "the model computes something else while it is recorded: please report it"),
        (report.batch or 0.0, "a batch gives other numbers than its examples alone: look at padding"),
    )
    for error, meaning in measures:
        if not error <= tolerance:
            yield f"{meaning} (off by {error:.1g})"


def _padding_failures(layers: list[LayerRecord]) -> Iterator[str]:
    for layer in layers:
        if layer.real is None:
            continue
        pairs = layer.real[:, :, None] & layer.real[:, None, :]
        if bool((mixing_norms(layer)[~pairs] != 0).any()):
            yield f"padding takes part in layer {layer.index}"


def _single_errors(
    forward: Callable[..., Any],
    encoder: Encoder,
    inputs: Tensor,
    extra: tuple[Any, ...],
    layers: list[LayerRecord],
) -> Iterator[float]:
    """Yield how far each example alone, without its padding, is from the same in the batch."""
    batch, tokens = layers[0].stream.shape[:2]
    real = layers[0].real
    if batch == 1 and (real is None or bool(real.all())):
        return
    for example in range(batch):
        keep = torch.ones(tokens, device=inputs.device).bool() if real is None else real[example]

        def alone(value: Any, example: int = example, keep: Tensor = keep) -> Any:
            if not isinstance(value, Tensor) or value.shape[:1] != (batch,):
                return value
            one = value[example : example + 1]
            return one[:, keep] if value.shape[1:2] == (tokens,) else one

        single: list[LayerRecord] = []
        _record(forward, encoder, alone(inputs), tuple(map(alone, extra)), single)
        for layer, whole in zip(single, layers, strict=True):
            mixture = mixing_norms(layer)[0]
            if len(mixture) == tokens:  # what the model reads are no tokens, so padding was not cut
                mixture = mixture[keep][:, keep]
            yield _apart(mixing_norms(whole)[example][keep][:, keep], mixture)


@contextmanager
def _norm_errors(encoder: Encoder) -> Iterator[list[float]]:
    """Collect how far each norm that runs is from the linear map that it is taken for."""
    errors: list[float] = []

    def see(norm: nn.Module, args: Any, output: Tensor) -> None:
        for reading in linearized_norm(norm, args[0], encoder.spec.centred):
            bias: Any = getattr(norm, "bias", None)
            linear = reading.linear(args[0]) * reading.scale[..., None]
            errors.append(_apart(linear if bias is None else linear + bias, output))

    norms = {id(n): n for layer in encoder.layers for n in (layer.norm1, layer.norm2)}
    norms[id(encoder.final_norm)] = encoder.final_norm
    handles = [norm.register_forward_hook(see) for norm in norms.values()]
    try:
        yield errors
    finally:
        for handle in handles:
            handle.remove()


def _record(
    forward: Callable[..., Any],
    encoder: Encoder,
    inputs: Tensor,
    extra: tuple[Any, ...],
    layers: list[LayerRecord],
) -> Any:
    return record(lambda: run_forward(forward, inputs, extra), encoder, layers.append, check=False)


def _first_tensor(output: Any) -> Tensor:
    """Return the first tensor of what a model returned."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return float((one - other).abs().max() / other.abs().max())


def _state(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return what recording touches in a model."""
    return [
        (
            module.training,
            vars(module).get("forward"),
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            getattr(getattr(module, "config", None), "_attn_implementation", None),
        )
        for module in model.modules()
    ]
