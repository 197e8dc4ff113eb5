"""What keeps a wrong number from leaving: contributions add up, and the watched model is the model."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.differences import Comparison

__all__ = ["Proof", "ProofError", "check_output", "check_sum"]

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 0.25}
"""How far a sum may be off, in units of what is summed, by the lowest precision it was computed in."""


class ProofError(RuntimeError):
    """Numbers that were found not to hold: they do not add up, or are those of another function."""


class Proof:
    """Whether a model gives under watch what it gives by itself, for the operations that were met.

    Costs a forward pass whenever an operation is met for the first time.
    """

    def __init__(self) -> None:
        self._proven: set[Callable[..., Any]] = set()

    def __reduce__(self) -> Any:
        """Return one of nothing proven to copies and pickles, which torch's own functions may not go into."""
        return Proof, ()

    def check(self, run: Comparison, plain: Callable[[], Any], model: nn.Module | None) -> None:
        """Check a run that was watched.

        Args:
            run: the run.
            plain: runs the same without being watched, with the same random numbers.
            model: the model, whose dtype tells the precision.

        Raises:
            TypeError: the output is no tensor.
            ProofError: the outputs differ by more than rounding.
        """
        if not isinstance(run.output, Tensor):
            raise TypeError(
                f"forward_func returned a {type(run.output).__name__}, and a tensor is explained: wrap the "
                "model in EncoderForward."
            )
        if self._proven.issuperset(run.ledger.functions):
            return
        with torch.no_grad():
            check_output(run.output.detach(), plain(), model, run.ledger.autocast)
        self._proven |= run.ledger.functions


def check_sum(contributions: Sequence[Tensor], output: Tensor, base: Tensor, lowest: torch.dtype) -> Tensor:
    """Return how far contributions are off the difference of an output, once that is within rounding.

    Args:
        contributions: of all inputs, each with the batch ahead.
        output: `(B,)` at the inputs.
        base: `(B,)` at the baseline.
        lowest: the precision that was computed in.

    Returns:
        `(B,)`, their sum less the difference.

    Raises:
        ValueError: something is not finite.
        ProofError: they do not add up.
    """
    if not (output.isfinite().all() and base.isfinite().all()):
        raise ValueError("the output is NaN or infinite at the inputs or at the baseline")
    sums = [part.reshape(len(output), -1) for part in contributions]
    total = torch.stack([part.sum(1).to(output.device) for part in sums]).sum(0)
    size = torch.stack([part.abs().sum(1).to(output.device) for part in sums]).sum(0)
    delta = total - (output - base)
    scale = torch.stack([output.abs(), base.abs(), size]).amax(0)
    wrong = ~(delta.abs() <= TOLERANCE[lowest] * scale)
    if wrong.any():
        example = int(wrong.nonzero()[0])
        raise ProofError(
            f"the contributions of example {example} add up to {float(total[example]):.6g}, and its output "
            f"changed by {float(output[example] - base[example]):.6g}: something in the model depends on the "
            "inputs in a way that was not seen, such as a function outside of torch, masks that are made of "
            "ids, or other examples of the batch."
        )
    return delta.detach()


def check_output(watched: Tensor, plain: Tensor, model: nn.Module | None, autocast: bool = False) -> None:
    """Check that the model gave what it gives when nobody watches.

    Args:
        watched: its output under watch.
        plain: its output without.
        model: the model, whose dtype tells the precision.
        autocast: whether autocast was on, in or around the model.

    Raises:
        ProofError: they differ by more than rounding.
    """
    dtypes = {plain.dtype, *(it.dtype for it in (model.parameters() if model is not None else ()))}
    if autocast:
        dtypes.add(torch.bfloat16)
    # A float64 model may compute parts of itself in float32.
    allowed = max(TOLERANCE.get(dtype, 0.0) for dtype in {*dtypes, torch.float32} & TOLERANCE.keys())
    finite = plain.isfinite()  # what is not is told of by check_sum
    largest = float(plain[finite].abs().max()) if finite.any() else 0.0
    off = float((watched - plain)[finite].abs().max()) if finite.any() else 0.0
    if not off <= allowed * max(largest, 1e-3):
        raise ProofError(
            f"the model's output under watch is off its own by {off:.6g} (its largest is {largest:.6g}): "
            "forward_func has to do the same each time it is called. Does it draw random numbers, or does a "
            "function replace one of torch's?"
        )
