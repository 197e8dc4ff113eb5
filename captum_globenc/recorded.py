"""One recorded forward pass of GlobEnc, and the questions asked of it.

B batch, L layers, N tokens, D embedding size.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from captum._utils.common import _format_tensor_into_tuples, _run_forward, _select_targets
from captum._utils.typing import TargetType
from torch import Tensor, nn

from captum_globenc.aggregation import AGGREGATIONS
from captum_globenc.encoders import Encoder, find_encoder
from captum_globenc.mixing import LayerRecord, Workspace, full_precision, mixing_norms
from captum_globenc.position import Position, default_position, start_weights
from captum_globenc.recording import not_finite, record
from captum_globenc.tokens import spread


class RecordedPass:
    """One recorded forward pass: what each layer mixed, and what follows for the tokens.

    Args:
        forward_func: as for :class:`~captum_globenc.GlobEnc`, like everything else here.
        model: likewise.
        mixing: likewise.
        aggregation: likewise.
        inputs: as for its `attribute`, like what follows.
        target: likewise.
        additional_forward_args: likewise.

    Raises:
        Exception: as `attribute` does.
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        model: nn.Module,
        mixing: str,
        aggregation: str,
        inputs: Tensor | tuple[Tensor, ...],
        target: TargetType,
        additional_forward_args: object | None,
    ) -> None:
        # The model may have changed between two calls, so the encoder is looked up anew.
        self.encoder = find_encoder(model)
        self._grid = self.encoder.grid
        self.inputs = _single_tensor(inputs, self.encoder)
        self.target = target
        self.mixtures: list[Tensor] = []
        self.real: Tensor | None = None
        self._aggregate = AGGREGATIONS[aggregation]
        self._mixing = mixing
        self._workspace = Workspace()
        self._output = record(
            lambda: _run_forward(forward_func, (self.inputs,), None, additional_forward_args),
            self.encoder,
            self._add,
        )
        self._check_shape()
        self._check_target()

    def _add(self, layer: LayerRecord) -> None:
        mixture = mixing_norms(layer, self._mixing, self._workspace)
        if not bool(torch.isfinite(mixture).all()):
            raise not_finite(layer.index)
        self.mixtures.append(mixture)
        self.real = layer.real

    def _check_shape(self) -> None:
        """Find out how the tokens lie on the inputs: as the family cuts them, or one entry for each."""
        batch, tokens = self.mixtures[0].shape[:2]
        shape = tuple(self.inputs.shape)
        if self._grid is not None and shape[0] == batch and self._grid.fits(shape, tokens):
            return
        self._grid = None
        if shape[:2] != (batch, tokens):
            raise ValueError(
                f"inputs are {shape}, but the encoder worked on (batch, tokens) = {(batch, tokens)}: pass "
                "what the encoder reads: ids or embeddings, one for each token, or its pixels or sound."
            )

    def spread(self, scores: Tensor) -> Tensor:
        """Spread the scores of the tokens `(B, N)` over the inputs."""
        device = self.inputs.device
        real = None if self.real is None else self.real.to(device)
        return spread(scores.to(device), self.inputs.shape, self._grid, real)

    def _check_target(self) -> None:
        if self.target is None:
            return
        if not isinstance(self._output, Tensor):
            raise TypeError(
                f"forward_func returned a {type(self._output).__name__}, and target needs a tensor: "
                "wrap the model in captum_globenc.EncoderForward(model), which returns its logits."
            )
        _select_targets(self._output, self.target)

    def start(self, position: Position | None) -> Tensor:
        """Return the weights `(B, 1, N)` of the tokens that are explained."""
        first = self.mixtures[0]
        real = first.new_ones(first.shape[:2], dtype=torch.bool) if self.real is None else self.real
        if position is None:
            chosen = default_position(
                self.encoder, self.inputs, self._output, self.target, tokens=real.shape[1]
            )
            return start_weights(chosen, real, first.dtype)
        given: Any = position
        # A tuple is a list like any other here: one index for each example.
        given = list(given) if isinstance(given, tuple) else given
        return start_weights(given, real, first.dtype)

    def gather(self, start: Tensor, layers: int, normalize: bool) -> Tensor:
        """Return what the tokens `start` have gathered from each after `layers`, `(B, N)`."""
        with full_precision(start):
            rows, log_scale = self._aggregate(self.mixtures[:layers], start)
        row = rows.squeeze(1)
        if normalize:
            total = row.sum(dim=-1, keepdim=True)
            return row / total.where(total > 0, 1)
        limits = torch.finfo(row.dtype)
        if bool((log_scale > math.log(limits.max)).any()):
            raise OverflowError(
                f"After {layers} layers the raw scale is 10^{log_scale.max().item() / math.log(10):.0f}, "
                f"more than {row.dtype} holds: use normalize=True, or a float64 model."
            )
        return (row.double() * log_scale.exp()).to(row.dtype)


def _single_tensor(inputs: Tensor | tuple[Tensor, ...], encoder: Encoder) -> Tensor:
    """Return the one tensor that inputs are, refusing token ids given as floats."""
    tensors = _format_tensor_into_tuples(inputs)
    if len(tensors) != 1:
        raise ValueError(
            f"inputs is a tuple of {len(tensors)}: GlobEnc scores one tensor; pass the others in "
            "additional_forward_args."
        )
    tensor = cast(Tensor, tensors[0])
    if encoder.grid is None and tensor.ndim == 2 and tensor.is_floating_point():
        raise TypeError(
            f"inputs are {tensor.dtype} of shape {tuple(tensor.shape)}: token ids must be integers. "
            "To perturb inputs by small amounts (NoiseTunnel), use embeddings, (B, N, D)."
        )
    return tensor
