"""Checks of a recorded pass: what they have in common, and the check for NaN and infinity.

A check measures layers while the model runs, without synchronizing the device. After the pass,
:func:`raise_first_failure` reads the flags of all checks with one device sync.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from captum_globenc.decomposition.workspace import at_least_float32

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""Accepted error of an attention block computed in a dtype, relative to the largest entry of its output."""

QUANTIZED_TOLERANCE = 0.1
"""Tolerance for projections that quantize their input to 8 bits."""

ROUNDING_STEPS = 4
"""Accepted error of one sum in the residual stream, in steps (eps) of its dtype."""


class Failure(NamedTuple):
    """A condition measured during the pass, and the error to raise if it is true.

    Args:
        flag: boolean scalar on any device, read after the pass.
        error: returns the exception.
        layer: the layer it belongs to; failures of the first layer are raised first.
    """

    flag: Tensor
    error: Callable[[], Exception]
    layer: float = math.inf


class Check(Protocol):
    """Collects measurements during a pass."""

    def failures(self) -> Iterable[Failure]:
        """Return what may have failed; does not synchronize the device."""
        ...


def raise_first_failure(checks: Iterable[Check]) -> None:
    """Raise the error of the first layer that failed a check; within a layer, of the first check.

    Args:
        checks: in order of precedence.

    Raises:
        Exception: the error of the failure.
    """
    failures = sorted(chain.from_iterable(it.failures() for it in checks), key=lambda it: it.layer)
    if failures:
        device = failures[0].flag.device
        flags = torch.stack([it.flag.to(device) for it in failures]).tolist()
        for failed, failure in zip(flags, failures, strict=True):
            if failed:
                raise failure.error()


class FiniteCheck:
    """Check that the output of every layer is finite. B batch, N tokens, D hidden size."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._real: Tensor | None = None

    @property
    def layers(self) -> int:
        """Number of measured layers."""
        return len(self._sums)

    def measure(self, output: Tensor, real: Tensor | None) -> None:
        """Measure the output `(B, N, D)` of the next layer.

        Args:
            output: the layer's output.
            real: `(B, N)`, False at padding, which may hold anything; None if every token is real.
        """
        # A sum is infinite or NaN if a term is, and takes a tenth of the time of testing every entry.
        self._real = real
        self._sums.append(output.sum(dim=None if real is None else -1, dtype=at_least_float32(output.dtype)))

    def failures(self) -> Iterable[Failure]:
        """Return one failure per layer."""
        if not self._sums:
            return []
        device = self._sums[0].device
        sums = torch.stack([it.to(device) for it in self._sums])
        if self._real is not None:
            sums = sums.where(self._real, 0).sum(dim=(1, 2))
        infinite = ~sums.isfinite()
        return [
            Failure(flag, partial(not_finite, layer), layer) for layer, flag in enumerate(infinite.unbind())
        ]


def not_finite(layer: int) -> ValueError:
    """Return the error for a layer in which something is NaN or infinite."""
    return ValueError(
        f"NaN or infinity in encoder layer {layer}: its inputs, weights or outputs are not finite, so no "
        "scores can be computed. Check the model's hidden states there."
    )
