"""Hidden Token Attribution: how much a layer's outputs depend on its inputs, by gradients.

Modarressi et al. (2022) compare the mixing norms of single layers with it. It is slow, and independent of the
decomposition. B batch, L layers, N tokens, D hidden size.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.captum_api import run_forward
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import find_encoder
from captum_globenc.recording.hooks import layer_input, layer_output, with_layer_input
from captum_globenc.recording.recorder import record


def hidden_token_attribution(
    forward_func: Callable[..., Any],
    model: nn.Module,
    inputs: Tensor | tuple[Tensor],
    additional_forward_args: object | None = None,
    *,
    normalize: bool = True,
    directions: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return how much each layer's outputs depend on each of its inputs.

    Brunner et al. (2020), "On Identifiability in Transformers", section 5, from layer to layer: the
    Frobenius norm of the Jacobian of token i after a layer in token j before it,
    `||d e_i^l / d e_j^(l-1)||`, as a share of its sum over j.

    Exact norms take N D backward passes through every layer, estimates N times `directions`: minutes for one
    text and a large model. The texts of a batch share the passes.

    Args:
        forward_func: the forward function, as in Captum. It must not turn gradients off.
        model: the module that holds the encoder.
        inputs: first argument of `forward_func`; a tensor or a tuple of one.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.
        normalize: whether each row sums to 1, as Brunner et al. define it, or holds the norms.
        directions: number of random directions per output token from which the norms are estimated
            (Hutchinson's estimator): the squared norm has no bias, and a relative standard deviation of at
            most `sqrt(2 / directions)`. None for exact norms.
        generator: source of the directions; None for torch's default.

    Returns:
        `(B, L, N, N)`, [receiver, source], at least float32; 0 in the rows and columns of padding.

    Raises:
        ValueError: the encoder is not found or not supported, or `directions` is less than 1.
        RuntimeError: `forward_func` never runs the encoder, runs it more than once, or turns
            gradients off.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> from captum_globenc import EncoderForward
        >>> config = BertConfig(
        ...     vocab_size=30, hidden_size=8, num_attention_heads=2, num_hidden_layers=2,
        ...     intermediate_size=8,
        ... )
        >>> model = BertForSequenceClassification(config).eval()
        >>> hidden_token_attribution(EncoderForward(model), model, torch.tensor([[2, 5, 3]])).shape
        torch.Size([1, 2, 3, 3])
    """
    if directions is not None and directions < 1:
        raise ValueError(f"directions is {directions}; pass at least 1, or None for exact norms.")
    encoder = find_encoder(model)
    padding: list[Tensor | None] = []

    def run() -> Any:
        return run_forward(forward_func, inputs, additional_forward_args)

    def keep_padding(layer: LayerRecord) -> None:
        padding.append(layer.real)

    record(run, encoder, keep_padding)
    real = padding[0]
    layers: list[Tensor] = []
    open_layer: list[Tensor] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        stream = layer_input(args, kwargs).detach().requires_grad_()
        open_layer[:] = [stream]
        # A copy, so that a layer that works in place does not change the differentiated tensor.
        return with_layer_input(args, kwargs, stream.clone())

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        after = layer_output(output)
        if not after.requires_grad:
            raise RuntimeError("forward_func turns gradients off (torch.no_grad); this method needs them.")
        layers.append(_jacobian_norms(open_layer.pop(), after, real, directions, generator))
        # The next layer starts a new graph, so this layer's memory is freed.
        after = after.detach()
        return (after, *output[1:]) if isinstance(output, tuple) else after

    with ExitStack() as stack:
        for layer in encoder.layers:
            stack.enter_context(layer.module.register_forward_pre_hook(enter, with_kwargs=True))
            stack.enter_context(layer.module.register_forward_hook(leave))
        stack.enter_context(torch.enable_grad())
        run()
    norms = torch.stack(layers, dim=1)
    if normalize:
        total = norms.sum(dim=-1, keepdim=True)
        norms = norms / total.where(total > 0, 1)
    return norms


def _jacobian_norms(
    stream: Tensor,
    after: Tensor,
    real: Tensor | None,
    directions: int | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Return the Frobenius norms of `d after_i / d stream_j`, both `(B, N, D)`, as `(B, N, N)`."""
    batch, tokens, size = after.shape
    dtype = torch.promote_types(after.dtype, torch.float32)
    kept = torch.ones(batch, tokens, device=after.device) if real is None else real
    squares = torch.zeros(batch, tokens, tokens, dtype=dtype, device=after.device)
    for receiver in range(tokens):
        if not bool(kept[:, receiver].any()):
            continue
        for vector in _vectors(size, directions, generator):
            cotangent = torch.zeros_like(after)
            cotangent[:, receiver] = vector.to(after)
            (gradient,) = torch.autograd.grad(after, stream, cotangent, retain_graph=True)
            squares[:, receiver] += gradient.to(dtype).square().sum(dim=-1)
    if directions is not None:
        squares /= directions
    return squares.sqrt() * kept[:, :, None] * kept[:, None, :]


def _vectors(size: int, directions: int | None, generator: torch.Generator | None) -> Tensor:
    """Return the vectors to multiply the Jacobian with: the axes, or random signs `(directions, D)`."""
    if directions is None:
        return torch.eye(size)
    return torch.randint(2, (directions, size), generator=generator) * 2.0 - 1
