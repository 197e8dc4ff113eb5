"""Context-mixing methods of other papers with rollout: ALTI and Value Zeroing.

Their scores do not depend on the class. Shapes: B batch, N tokens, H heads, D hidden size.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.attr.decompx import value_map
from captum_globenc.attr.position import Position, explained
from captum_globenc.attr.run import Run, run
from captum_globenc.decomposition.aggregation import gather
from captum_globenc.decomposition.attention import share_heads
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Tile
from captum_globenc.encoders import Encoder, find_encoder
from captum_globenc.forward import EncoderForward
from captum_globenc.recording.recorder import record

__all__ = ["alti", "value_zeroing", "with_whole_layers"]


def alti(
    forward: EncoderForward, inputs: Tensor, extra: Sequence[Any], position: Position | None = None
) -> Tensor:
    """ALTI, Ferrando et al. 2022 (arXiv 2203.04212), with rollout.

    y is the output of the first normalization after attention, T_ij the part of y_i from token j:
    c_ij = max(0, |y_i| - |y_i - T_ij|) in the L1 norm, with rows normalized to sum to 1.

    Args:
        forward: the forward function.
        inputs: the first argument of the forward function.
        extra: the other arguments of the forward function.
        position: the explained token; by default the token that the model's head pools.

    Returns:
        Scores `(B, N)`.

    Raises:
        ValueError: the encoder is not supported, the pooled token is unknown, or norms run on chunks of
            tokens.
    """
    ran = run(forward, forward.model, inputs, tuple(extra), "W")
    post = ran.encoder.spec.order == "post-LN"
    outputs: list[Tensor] = []
    near: list[Tensor] = []
    with ExitStack() as handles:
        for layer in ran.encoder.layers:
            norm = layer.norm1 if post else layer.norm2
            handles.enter_context(norm.register_forward_hook(lambda *seen: outputs.append(seen[-1])))
        record(
            lambda: forward(inputs, *extra),
            ran.encoder,
            lambda layer: near.append(_proximity(layer, outputs[layer.index])),
        )
    return _rolled_out(near, ran, position)


def _proximity(layer: LayerRecord, output: Tensor) -> Tensor:
    """Return max(0, |y_i| - |y_i - T_ij|), `(B, N, N)`; one text at a time, with a vector per token pair."""
    if output.shape != layer.stream.shape:
        raise ValueError("ALTI needs norms that see all tokens at once: set chunk_size_feed_forward to 0")
    heads, tokens = layer.attention.heads, layer.stream.shape[1]
    values = share_heads(layer.value, heads)
    by_head = layer.output.reshape(len(layer.output), heads, -1)
    whole = slice(0, tokens)
    near = []
    for text in range(len(layer.stream)):
        one = slice(text, text + 1)
        attention = layer.weights.tile(Tile(one, whole, whole))[0]
        sent = torch.einsum("dhe,hse->hsd", by_head, values[text])
        parts = torch.einsum("hsr,hsd->rsd", attention, sent)
        parts.diagonal().add_(layer.stream[text].mT)
        for norm in layer.after_attention:
            parts = norm.linear(parts) * norm.scale[text, :, None, None]
        y = output[text].to(parts.dtype)
        distance = (y[:, None] - parts).abs().sum(-1)
        near.append((y.abs().sum(-1, keepdim=True) - distance).clamp(min=0))
    return torch.stack(near)


def value_zeroing(
    forward: EncoderForward, inputs: Tensor, extra: Sequence[Any], position: Position | None = None
) -> Tensor:
    """Value Zeroing, Mohebbi et al. 2023 (arXiv 2301.12971), with rollout.

    Measures the cosine distance that a token's layer output moves when the value vector of another token is
    zero, with rows normalized to sum to 1. Runs each layer once per token.

    Args:
        forward: the forward function.
        inputs: the first argument of the forward function.
        extra: the other arguments of the forward function.
        position: the explained token; by default the token that the model's head pools.

    Returns:
        Scores `(B, N)`.

    Raises:
        ValueError: the encoder is not supported, the pooled token is unknown, or the value projection of a
            layer is unknown.
    """
    encoder = with_whole_layers(forward.model)
    layers = {layer.module: layer for layer in encoder.layers}
    ran = run(forward, forward.model, inputs, tuple(extra), "W")
    calls: list[tuple[nn.Module, Any, Any, Any]] = []
    with torch.no_grad():
        with ExitStack() as handles:
            for module in layers:
                handles.enter_context(
                    module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True)
                )
            forward(inputs, *extra)
        moved = []
        for module, args, kwargs, output in calls:
            values, fused = value_map(layers[module].attention)
            columns = []
            for token in range(ran.real.shape[1]):
                with values.register_forward_hook(_without(token, fused)):
                    columns.append(_cosine_distance(_stream(module(*args, **kwargs)), _stream(output)))
            moved.append(torch.stack(columns, dim=-1))
    return _rolled_out(moved, ran, position)


def _without(token: int, fused: bool) -> Callable[..., Tensor]:
    """Return a hook that sets a token's value vector to 0: the last third of a fused QKV output."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, token, 2 * output.shape[-1] // 3 if fused else 0 :] = 0
        return output

    return hook


def _stream(output: Any) -> Tensor:
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def _cosine_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return 1 - cos as half the squared distance of unit vectors, exactly 0 for equal vectors."""
    one, other = (nn.functional.normalize(side, dim=-1) for side in (one, other))
    return (one - other).square().sum(-1) / 2


def _rolled_out(matrices: Sequence[Tensor], ran: Run, position: Position | None) -> Tensor:
    """Roll out the matrices `(B, N, N)` [receiver, source] of all layers, with normalized rows."""
    start, failure = explained(ran, None, position)
    if bool(failure.flag):
        raise failure.error()
    rows = []
    for matrix in matrices:
        matrix = matrix.to(start.dtype) * (ran.real[:, None] & ran.real[:, :, None])
        total = matrix.sum(-1, keepdim=True)
        rows.append(matrix / total.where(total > 0, 1))
    return gather(rows, start)[:, 0]


def with_whole_layers(model: nn.Module) -> Encoder:
    """Return the encoder of a model whose layers are single modules.

    Raises:
        ValueError: the encoder is not supported, or parts of its layers are outside the layer's module.
    """
    encoder = find_encoder(model)
    if any("*" in path for path in encoder.spec.roles.values()):
        raise ValueError(f"the layers of {encoder.spec.model_type} are not single modules")
    return encoder
