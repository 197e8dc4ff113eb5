"""Check that a spec fits its model, and that the decomposition of each layer sums to its output.

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
from captum_globenc.recording.linear import norm_error
from captum_globenc.recording.reconstruction import attention_output
from captum_globenc.recording.recorder import record


@dataclass(frozen=True)
class EncoderReport:
    """The errors that :func:`check_encoder` measured, relative to the largest entry.

    Args:
        reconstruction: largest error of a layer's decomposition.
        norms: largest error of a linearized norm.
        output: difference between the output of the recorded pass and the model's own.
        batch: difference between a batch and its examples alone; None for one example without padding.
        padding: whether the inputs contained padding, so that it was checked.
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
    """Check that a spec describes what a model computes.

    Use a float64 model with random weights and biases instead of the initial zeros and ones, and a padded
    batch of texts of different lengths; only what occurs can be checked.

    Args:
        spec: the family, registered or not.
        model: holds one encoder of the family.
        inputs: a batch, `(B, N)` ids or whatever the model reads.
        additional_forward_args: further arguments of `forward_func`, after `inputs`. Tensors of shape
            `(B, N, ...)` are cut to each example's own tokens when it runs alone.
        forward_func: runs the model; `model` itself by default.
        tolerance: the largest accepted error. By default 1000 times the eps of the model's dtype, and at
            least 1e-6, because models of every dtype may compute their norms in float32.

    Returns:
        The measured errors.

    Raises:
        ValueError: the spec does not fit; the message lists every failed check.

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
        raise ValueError(f"The spec of {spec.model_type!r} does not fit: no layer ran.")
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
        try:  # every pass also checks residual connections, and that only the attention mixes tokens
            record(
                lambda: run_forward(forward, inputs, extra), encoder, lambda layer: None, check_tokens=True
            )
        except RecordingError as error:
            failures.append(str(error).rstrip("."))
    if _state(model) != before:
        failures.append(
            "the model is not as it was: its hooks, attention implementation or training flags changed"
        )
    if failures:
        raise ValueError(f"The spec of {spec.model_type!r} does not fit: {'; '.join(failures)}.")
    return report


def reconstruction_error(
    forward_func: Callable[..., Any],
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object | None = None,
) -> Tensor:
    """Return the error of each layer's decomposition.

    The vectors that an attention block passes from all tokens to one, and the bias of its output
    projection, must sum to the block's output. A wrong order of heads, a missing scale or a missing mask
    gives a large error.

    Args:
        forward_func: the forward function, as in Captum.
        model: the module that holds the encoder.
        inputs: first argument of `forward_func`.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.

    Returns:
        `(L,)`: the largest error of each layer over real tokens, relative to the largest entry; about the
        eps of the model's dtype if the decomposition is right.

    Raises:
        ValueError: the encoder is not found or not supported.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> model = BertModel(BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )).eval().double()
        >>> reconstruction_error(model, model, torch.tensor([[2, 5, 7, 3]])).max() < 1e-12
        tensor(True)
    """
    errors: list[Tensor] = []
    record(
        lambda: run_forward(forward_func, inputs, additional_forward_args),
        find_encoder(model),
        lambda layer: errors.append(layer_error(layer)),
        check=False,
    )
    return torch.stack(errors)


def layer_error(layer: LayerRecord) -> Tensor:
    """Return the error of one layer's decomposition, relative to the largest entry."""
    parts = attention_output(layer)
    if layer.output_bias is not None:
        parts = parts + layer.output_bias
    whole = layer.attended - layer.stream
    if layer.real is not None:
        parts, whole = parts[layer.real], whole[layer.real]
    largest = whole.abs().max()
    return (parts - whole).abs().max() / largest.where(largest > 0, 1)


def _failures(report: EncoderReport, tolerance: float) -> Iterator[str]:
    """Describe the errors above the tolerance, and NaN."""
    measures = (
        (
            report.reconstruction,
            "the values, through `out`, do not sum to the attention's output: check attention, out, "
            "layer_scale, order and the order of heads",
        ),
        (report.norms, "the norms do not return what they should: check norm1, norm2, final_norm, centred"),
        (report.output, "the model's output changes while it is recorded: please report it"),
        (report.batch or 0.0, "a batch gives other numbers than its examples alone: check the padding"),
    )
    for error, meaning in measures:
        if not error <= tolerance:
            yield f"{meaning} (error {error:.1g})"


def _padding_failures(layers: list[LayerRecord]) -> Iterator[str]:
    for layer in layers:
        if layer.real is None:
            continue
        pairs = layer.real[:, :, None] & layer.real[:, None, :]
        if bool((mixing_norms(layer)[~pairs] != 0).any()):
            yield f"padding is mixed with tokens in layer {layer.index}"


def _single_errors(
    forward: Callable[..., Any],
    encoder: Encoder,
    inputs: Tensor,
    extra: tuple[Any, ...],
    layers: list[LayerRecord],
) -> Iterator[float]:
    """Yield the difference between each example alone, without padding, and in the batch, per layer."""
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
            if len(mixture) == tokens:  # inputs without a token dimension, so padding was not cut
                mixture = mixture[keep][:, keep]
            yield _apart(mixing_norms(whole)[example][keep][:, keep], mixture)


@contextmanager
def _norm_errors(encoder: Encoder) -> Iterator[list[float]]:
    """Collect the error of the linear map of each norm that runs."""
    errors: list[float] = []

    def measure(norm: nn.Module, args: Any, output: Tensor) -> None:
        error = norm_error(norm, args[0], output, encoder.spec.centred).max()
        errors.append(float(error / output.abs().max()))

    norms = {id(n): n for layer in encoder.layers for n in (layer.norm1, layer.norm2)}
    norms[id(encoder.final_norm)] = encoder.final_norm
    handles = [norm.register_forward_hook(measure) for norm in norms.values()]
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
    """Return the first tensor in a model's output."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values())) if isinstance(output, Mapping) else output[0]
    return output


def _apart(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, relative to the largest entry."""
    return float((one - other).abs().max() / other.abs().max())


def _state(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return all that recording might change in a model."""
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
