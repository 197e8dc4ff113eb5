"""Run the model once for GlobEnc, and decompose each layer.

B batch, L layers, N tokens, D embedding size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.attr.arguments import as_tensors, unmasked_padding, warn_of_padding
from captum_globenc.captum_api import run_forward
from captum_globenc.decomposition.mixing import Mixture, matrix_of, mix
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Workspace
from captum_globenc.encoders import Encoder, find_encoder
from captum_globenc.encoders.search import pooled_by
from captum_globenc.encoders.tokens import Grid
from captum_globenc.recording.checks import Failure, not_finite
from captum_globenc.recording.recorder import record


@dataclass(frozen=True)
class Run:
    """The inputs and results of one recorded pass.

    Args:
        encoder: the encoder; its `pooled` holds for the forward function.
        inputs: the input tensor.
        grid: layout of tokens on the inputs; None if each has an entry of its own.
        output: the output of the forward function.
        mixtures: the token-to-token matrix of each layer.
        real: `(B, N)`, False at padding.
        unmasked: `(B, N)`, True at padding without a mask; None if the padding token is unknown.
    """

    encoder: Encoder
    inputs: Tensor
    grid: Grid | None
    output: Any
    mixtures: Sequence[Mixture | Tensor]
    real: Tensor
    unmasked: Tensor | None = None

    @property
    def leading(self) -> tuple[int, ...]:
        """The dimensions of the inputs that number the texts: `(B,)`, or several whose product is B."""
        return tuple(self.inputs.shape[:-1]) if _numbers_texts(self.inputs, self.real) else (len(self.real),)


def run(
    forward_func: Callable[..., Any],
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object | None,
    mixing: str,
) -> Run:
    """Run the model once, and decompose each layer as soon as it has run, or several small ones together.

    Args:
        forward_func: the forward function, as in Captum.
        model: the module that holds the encoder.
        inputs: a tensor, or a tuple of one.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.
        mixing: one of :data:`~captum_globenc.decomposition.mixing.MIXINGS`.

    Raises:
        Exception: raised by :meth:`captum_globenc.GlobEnc.attribute`.
    """
    # The model may have changed since the last call, so the encoder is searched again.
    encoder = find_encoder(model)
    encoder = replace(encoder, pooled=pooled_by(forward_func, model, encoder))
    tensor = single_tensor(inputs, encoder)
    mixtures: list[Mixture | Tensor] = []
    padding: list[Tensor | None] = []
    workspace = Workspace.on(tensor.device)

    def decompose(layers: LayerRecord) -> None:
        # Not the last layer, of which only the explained receivers are needed.
        if mixtures and isinstance(mixtures[-1], Mixture):
            mixtures[-1].materialize()
        mixtures.extend(mix(layers, mixing, workspace))
        padding.append(layers.real)

    output = record(
        lambda: run_forward(forward_func, tensor, additional_forward_args),
        encoder,
        decompose,
        check_tokens=True,
        budget=workspace.budget,
    )
    first, real = mixtures[0], padding[0]
    batch, tokens = first.shape[:2]
    if real is None:
        real = torch.ones(batch, tokens, dtype=torch.bool, device=first.device)
    real = real[:batch]
    unmasked = None
    grid = grid_on(tensor, encoder, real)
    if not tensor.is_floating_point():
        unmasked = unmasked_padding(tensor, model, real, additional_forward_args)
    return Run(encoder, tensor, grid, output, mixtures, real, unmasked)


def finite(values: Tensor, mixtures: Sequence[Mixture | Tensor]) -> Tensor:
    """Return values computed from mixtures.

    Raises:
        ValueError: they are not finite; the message names the first layer whose matrix is not.
    """
    if not bool(values.isfinite().all()):
        broken = (it for it, mixture in enumerate(mixtures) if not bool(matrix_of(mixture).isfinite().all()))
        raise not_finite(next(broken, len(mixtures) - 1))
    return values


def finite_scores(values: Tensor, ran: Run, failure: Failure) -> Tensor:
    """Return scores `(B, ..., N)` computed from mixtures; warn if padding without a mask has scores.

    Args:
        values: the scores.
        ran: the recorded pass.
        failure: of the explained tokens.

    Raises:
        ValueError: `failure`; or scores are not finite, and the message names the first such layer.
    """
    flags = [failure.flag, ~values.isfinite().all()]
    if ran.unmasked is not None:
        scored = values.flatten(1, -2).ne(0).any(1)
        flags.append((scored & ran.unmasked.to(values.device)).any())
    # All are read with one device sync.
    failed, broken, *padded = torch.stack([it.to(values.device) for it in flags]).tolist()
    if failed:
        raise failure.error()
    if broken:
        return finite(values, ran.mixtures)
    if any(padded):
        warn_of_padding()
    return values


def single_tensor(inputs: Tensor | tuple[Tensor, ...], encoder: Encoder) -> Tensor:
    """Return the one input tensor; reject token ids that are floats."""
    tensors = as_tensors(inputs, ids_of_texts=encoder.grid is None)
    if len(tensors) != 1:
        raise ValueError(
            f"inputs is a tuple of {len(tensors)}: GlobEnc scores one tensor; pass the others in "
            "additional_forward_args."
        )
    tensor = tensors[0]
    if encoder.grid is None and tensor.ndim == 2 and tensor.is_floating_point():
        raise TypeError(
            f"inputs are {tensor.dtype} of shape {tuple(tensor.shape)}: token ids must be integers. "
            "To perturb inputs by small amounts (NoiseTunnel), use embeddings, (B, N, D)."
        )
    return tensor


def _numbers_texts(inputs: Tensor, real: Tensor) -> bool:
    """Whether inputs are ids `(B1, B2, ..., N)` of several texts per example, such as choices."""
    several = inputs.ndim > 2 and not inputs.is_floating_point() and inputs.shape[-1] == real.shape[1]
    return several and math.prod(inputs.shape[:-1]) == len(real)


def grid_on(inputs: Tensor, encoder: Encoder, real: Tensor) -> Grid | None:
    """Return the layout of tokens on the inputs; None if each token has an entry of its own."""
    batch, tokens = real.shape
    shape = tuple(inputs.shape)
    grid = encoder.grid
    if grid is not None and shape[0] == batch and grid.fits(shape, tokens):
        return grid
    if shape[:2] != (batch, tokens) and not _numbers_texts(inputs, real):
        virtual = tokens - shape[-1] if shape == (batch, *shape[-1:]) else 0
        if virtual > 0:
            raise ValueError(
                f"The encoder read {tokens} tokens, {virtual} more than the inputs {shape} hold: virtual "
                "tokens, as of prompt tuning, belong to no input, so their scores cannot be assigned."
            )
        raise ValueError(
            f"inputs are {shape}, but the encoder read (batch, tokens) = {(batch, tokens)}. Pass the "
            "encoder's inputs: ids or embeddings, one for each token, or its pixels or sound."
        )
    return None
