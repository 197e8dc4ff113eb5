"""Hidden Token Attribution: what a layer's output does when its input moves, by gradients.

Slow and independent of the decomposition: the reference for single layers that Modarressi et al. (2022)
compare mixing norms with. B batch, L layers, N tokens, D hidden size.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.captum_api import run_forward
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.encoders import find_encoder
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

    It takes N D backward passes through every layer, or N `directions`: minutes for a text of a large
    model. Texts of a batch share the passes.

    Args:
        forward_func: the forward function, as for every Captum method. It must not turn gradients
            off.
        model: the module that holds the encoder.
        inputs: what `forward_func` takes first; a tensor or a tuple of one.
        additional_forward_args: its other arguments.
        normalize: whether each row sums to 1, as Brunner et al. define it, or holds the norms.
        directions: left out, the norms are exact. Otherwise they are estimated from this many random
            directions for each output token: the squared norm without bias, and with a relative
            deviation of at most `sqrt(2 / directions)` (Hutchinson's estimator).
        generator: where the directions come from; left out, torch's own.

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
        raise ValueError(f"directions is {directions}; at least one is needed.")
    encoder = find_encoder(model)
    padding: list[Tensor | None] = []

    def run() -> Any:
        return run_forward(forward_func, inputs, additional_forward_args)

    def see(layer: LayerRecord) -> None:
        padding.append(layer.real)

    record(run, encoder, see)
    real = padding[0]
    layers: list[Tensor] = []
    open_layer: list[Tensor] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        stream = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        open_layer[:] = [stream]
        # A copy, so that a layer that works in place does not write to what is differentiated.
        given = stream.clone()
        return ((given, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": given})

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        after = output[0] if isinstance(output, tuple) else output
        if not after.requires_grad:
            raise RuntimeError("forward_func turns gradients off (torch.no_grad), and they are needed here.")
        layers.append(_jacobian_norms(open_layer.pop(), after, real, directions, generator))
        # The next layer starts anew, so the graph of this one can go.
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
    """Return what to project each output on: the axes, or random signs, `(axes or directions, D)`."""
    if directions is None:
        return torch.eye(size)
    return torch.randint(2, (directions, size), generator=generator) * 2.0 - 1
