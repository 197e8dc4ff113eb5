"""Whether a decomposition adds up to what the model really computed."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.captum_api import run_forward
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import find_encoder
from captum_globenc.recording.adding_up import attention_output
from captum_globenc.recording.recorder import record


def reconstruction_error(
    forward_func: Callable[..., Any],
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object | None = None,
) -> Tensor:
    """Measure how far the parts of each layer are from adding up to the whole.

    The vectors that an attention block passes from all tokens to one, and the bias of its output
    projection, must sum to what the block really wrote into the residual stream. A wrong order of
    heads, a forgotten scale or a missed mask shows here.

    Args:
        forward_func: as for :class:`~captum_globenc.GlobEnc`.
        model: the module that holds the encoder.
        inputs: what `forward_func` takes.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.

    Returns:
        `(L,)`: for each layer the largest deviation over real tokens, relative to the largest entry.
        About the precision of the model's dtype where the decomposition is right.

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
    """Return how far the parts of one layer are from adding up, relative to the largest entry."""
    parts = attention_output(layer)
    if layer.output_bias is not None:
        parts = parts + layer.output_bias
    whole = layer.attended - layer.stream
    if layer.real is not None:
        parts, whole = parts[layer.real], whole[layer.real]
    largest = whole.abs().max()
    return (parts - whole).abs().max() / largest.where(largest > 0, 1)
