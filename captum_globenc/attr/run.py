"""One run of the model for GlobEnc: what was given, what came out, and what each layer mixed.

B batch, L layers, N tokens, D embedding size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.attr.padded import unmasked_padding, warn_of_padding
from captum_globenc.attr.sources import as_tensors
from captum_globenc.captum_api import run_forward
from captum_globenc.decomposition.mixing import Mixture, mix
from captum_globenc.decomposition.record import LayerRecord
from captum_globenc.decomposition.workspace import Workspace
from captum_globenc.encoders import Encoder, find_encoder
from captum_globenc.encoders.search import pooled_by
from captum_globenc.encoders.tokens import Grid
from captum_globenc.recording.checks import not_finite
from captum_globenc.recording.recorder import record


@dataclass(frozen=True)
class Run:
    """What one recorded pass gave.

    Args:
        encoder: the encoder that ran, and what `forward_func` is known to read of it.
        inputs: the one tensor that was given.
        grid: how its tokens lie on the inputs; None where each has an entry of its own.
        output: what the forward function returned.
        mixtures: what each layer passes from source to receiver.
        real: `(B, N)`, False at padding.
        unmasked: `(B, N)`, True at padding that no mask covers; None where none can be told.
    """

    encoder: Encoder
    inputs: Tensor
    grid: Grid | None
    output: Any
    mixtures: Sequence[Mixture]
    real: Tensor
    unmasked: Tensor | None = None

    @property
    def leading(self) -> tuple[int, ...]:
        """The dimensions of the inputs that number the texts: `(B,)`, or more that multiply to it."""
        return tuple(self.inputs.shape[:-1]) if _numbers_texts(self.inputs, self.real) else (len(self.real),)


def run(
    forward_func: Callable[..., Any],
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    additional_forward_args: object | None,
    mixing: str,
) -> Run:
    """Run the model once, and decompose each layer as it is done.

    Args:
        forward_func: as for :class:`~captum_globenc.GlobEnc`.
        model: likewise.
        inputs: as for its `attribute`.
        additional_forward_args: likewise.
        mixing: as for :class:`~captum_globenc.GlobEnc`.

    Raises:
        Exception: as `attribute` does, as far as the run itself is concerned.
    """
    # The model may have changed between two calls, so the encoder is looked up anew.
    encoder = find_encoder(model)
    encoder = replace(encoder, pooled=pooled_by(forward_func, model, encoder))
    tensor = single_tensor(inputs, encoder)
    mixtures: list[Mixture] = []
    padding: list[Tensor | None] = []
    workspace = Workspace.on(tensor.device)

    def decompose(layer: LayerRecord) -> None:
        # The last layer's tiles are left to be made, for the receivers that are explained.
        if mixtures:
            mixtures[-1].materialize()
        mixtures.append(mix(layer, mixing, workspace))
        padding.append(layer.real)

    output = record(
        lambda: run_forward(forward_func, tensor, additional_forward_args),
        encoder,
        decompose,
        check_tokens=True,
    )
    first = mixtures[0]
    real = (
        torch.ones(first.shape, dtype=torch.bool, device=first.device) if padding[0] is None else padding[0]
    )
    unmasked = None
    grid = grid_on(tensor, encoder, real)
    if not tensor.is_floating_point():
        unmasked = unmasked_padding(tensor, model, real, additional_forward_args)
    return Run(encoder, tensor, grid, output, mixtures, real, unmasked)


def finite(values: Tensor, mixtures: Sequence[Mixture]) -> Tensor:
    """Return what was made of mixtures.

    Raises:
        ValueError: it is not finite; the message names the first layer that passes on what is not.
    """
    if not bool(values.isfinite().all()):
        broken = (it for it, mixture in enumerate(mixtures) if not bool(mixture.matrix().isfinite().all()))
        raise not_finite(next(broken, len(mixtures) - 1))
    return values


def finite_scores(values: Tensor, ran: Run) -> Tensor:
    """Return scores `(B, ..., N)` that were made of mixtures; warn where padding has some of them.

    Raises:
        ValueError: as `finite` does.
    """
    if ran.unmasked is None:
        return finite(values, ran.mixtures)
    scored = values.flatten(1, -2).ne(0).any(1) & ran.unmasked.to(values.device)
    # One look at both, because looking waits for the device.
    whole, padded = torch.stack([values.isfinite().all(), scored.any()]).tolist()
    if not whole:
        return finite(values, ran.mixtures)
    if padded:
        warn_of_padding()
    return values


def single_tensor(inputs: Tensor | tuple[Tensor, ...], encoder: Encoder) -> Tensor:
    """Return the one tensor that inputs are, refusing token ids given as floats."""
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
    """Whether inputs are ids `(B1, B2, ..., N)` of several texts an example, such as choices or sentences."""
    several = inputs.ndim > 2 and not inputs.is_floating_point() and inputs.shape[-1] == real.shape[1]
    return several and math.prod(inputs.shape[:-1]) == len(real)


def grid_on(inputs: Tensor, encoder: Encoder, real: Tensor) -> Grid | None:
    """Return how the tokens lie on the inputs: as the family cuts them, or one entry for each (None)."""
    batch, tokens = real.shape
    shape = tuple(inputs.shape)
    grid = encoder.grid
    if grid is not None and shape[0] == batch and grid.fits(shape, tokens):
        return grid
    if shape[:2] != (batch, tokens) and not _numbers_texts(inputs, real):
        virtual = tokens - shape[-1] if shape == (batch, *shape[-1:]) else 0
        if virtual > 0:
            raise ValueError(
                f"The encoder worked on {tokens} tokens, {virtual} more than the inputs {shape} hold: "
                "virtual ones, such as prompt tuning adds, belong to no input, so that their shares cannot "
                "be laid on any."
            )
        raise ValueError(
            f"inputs are {shape}, but the encoder worked on (batch, tokens) = {(batch, tokens)}: pass "
            "what the encoder reads: ids or embeddings, one for each token, or its pixels or sound."
        )
    return None
