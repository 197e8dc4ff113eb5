"""Checks that keep a wrong number from leaving: contributions sum up, and the recorded model is the model."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.differences import Comparison
from captum_globenc.errors import PrecisionError, PrecisionWarning, ReconstructionError

__all__ = ["Proof", "ProofError", "check_output", "check_sum"]

ProofError = ReconstructionError
"""The earlier name."""

QUICK = {torch.float64: 1e-10, torch.float32: 1e-5}
"""How far a sum may be off, in units of what is summed, for rounding not to be measured."""

OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 0.25}
"""How far the recorded model's output may be off the model's own, in units of the largest output."""

ADVICE = (
    "Choose a baseline that the model can read: for ids the masked text (EncoderForward.masked) or, where "
    'there is no mask token, the mean of the word embeddings (baseline="mean" of explain) in place of zero '
    "embeddings. Or compute in float64: model.double()."
)


class Proof:
    """Remembers for which operations the recorded model was found to give the model's own outputs.

    Costs a forward pass for each run whenever an operation, or types of its arguments, are met first.
    """

    def __init__(self) -> None:
        self._proven: set[Any] = set()

    def __reduce__(self) -> Any:
        """Return an empty one to copies and pickles: torch functions cannot be pickled."""
        return Proof, ()

    def check(
        self,
        run: Comparison,
        plain: Callable[[], Any],
        model: nn.Module | None,
        plain_base: Callable[[], Any] | None = None,
    ) -> None:
        """Check a recorded run.

        Args:
            run: the run.
            plain: runs the same function at the inputs without being recorded, with the same random numbers.
            model: the model, whose dtype tells the precision.
            plain_base: the same at the baseline; None where there is none.

        Raises:
            TypeError: the output is not a tensor.
            ReconstructionError: outputs differ by more than rounding.
        """
        if not isinstance(run.output, Tensor):
            raise TypeError(
                f"forward_func returned a {type(run.output).__name__}, and a tensor is explained: wrap the "
                "model in EncoderForward."
            )
        if self._proven.issuperset(run.trace.operations):
            return
        with torch.no_grad():
            check_output(run.output.detach(), plain(), model, run.trace.rounded)
            if plain_base is not None:
                check_output(run.base, plain_base(), model, run.trace.rounded, "baseline")
        self._proven |= run.trace.operations


def check_sum(
    contributions: Sequence[Tensor],
    output: Tensor,
    base: Tensor,
    lowest: torch.dtype,
    rounding: Callable[[int], float],
) -> Tensor:
    """Return how far contributions are off the difference of an output, once that is within rounding.

    A sum that is off by little of what is summed, and of the difference, is right. For others rounding is
    measured, which costs another comparison.

    Args:
        contributions: of all inputs, each with the batch first.
        output: `(B,)` at the inputs.
        base: `(B,)` at the baseline.
        lowest: the precision that was computed in.
        rounding: from the number of an example to how far rounding may move its sum.

    Returns:
        `(B,)`, their sum minus the difference.

    Raises:
        ValueError: an output is not finite.
        ReconstructionError: contributions do not sum to the difference within rounding.
        PrecisionError: rounding is larger than the difference.
    """
    if not (output.isfinite().all() and base.isfinite().all()):
        raise ValueError("the output is NaN or infinite at the inputs or at the baseline")
    sums = [part.reshape(len(output), -1) for part in contributions]
    total = torch.stack([part.sum(1).to(output.device) for part in sums]).sum(0)
    size = torch.stack([part.abs().sum(1).to(output.device) for part in sums]).sum(0)
    change = output - base
    delta = total - change
    sure = (delta.abs() <= QUICK[lowest] * size) & (size <= 1e3 * change.abs())
    if not sure.all():
        for example in (~sure).nonzero().flatten().tolist():
            _judge(
                example,
                *(float(it[example]) for it in (total, size, output, base)),
                rounding=rounding(example),
                eps=torch.finfo(lowest).eps,
            )
    return delta.detach()


def _judge(
    example: int, total: float, size: float, output: float, base: float, *, rounding: float, eps: float
) -> None:
    """Judge the sum of one example, once its rounding is measured; `check_sum` tells of the errors."""
    change, delta = abs(output - base), abs(total - (output - base))
    rounding_of_outputs = eps * (abs(output) + abs(base))
    bound = rounding + rounding_of_outputs
    found = (
        f"The contributions of example {example} sum to {total:.6g}, and its output changes by "
        f"{output - base:.6g} from the baseline"
    )
    if not delta <= bound:
        raise ReconstructionError(
            f"{found}, where rounding explains {bound:.2g}: something in the model depends on the inputs in "
            "a way that is not seen, such as weights that are indexed by ids, weight[ids] instead of an "
            "embedding, masks made of ids, functions outside of torch, or other examples of the batch."
        )
    ordinary = size <= 100 * (abs(output) + abs(base))
    if change <= 8 * rounding_of_outputs or (change <= bound and ordinary):
        return  # the output does not change but by rounding: contributions are what they are
    if delta > change:
        raise PrecisionError(f"{found}: nothing but the rounding of large contributions is left. {ADVICE}")
    if delta > 1e-2 * change or size > 1e4 * change:
        warnings.warn(
            f"{found}; their sizes sum to {size:.3g}, so that nearly all of them cancels. {ADVICE}",
            PrecisionWarning,
            stacklevel=5,
        )


def check_output(
    recorded: Tensor,
    plain: Tensor,
    model: nn.Module | None,
    rounded: set[torch.dtype] | frozenset[torch.dtype] = frozenset(),
    at: str = "input",
) -> None:
    """Check that the recorded model gives what it gives by itself.

    Args:
        recorded: its output in the recorded run.
        plain: its output without recording.
        model: the model, whose dtype tells the precision.
        rounded: lower precisions that the model rounds to, and the recorded run does not.
        at: where both ran, for the message.

    Raises:
        ReconstructionError: they differ by more than rounding.
    """
    dtypes = {plain.dtype, *(it.dtype for it in (model.parameters() if model is not None else ())), *rounded}
    # A float64 model may compute parts of itself in float32.
    allowed = max(OUTPUT_TOLERANCE.get(dtype, 0.0) for dtype in {*dtypes, torch.float32})
    finite = plain.isfinite()  # check_sum tells of what is not
    largest = float(plain[finite].abs().max()) if finite.any() else 0.0
    off = float((recorded - plain)[finite].abs().max()) if finite.any() else 0.0
    if not off <= allowed * max(largest, 1e-3):
        raise ReconstructionError(
            f"The recorded model's output at the {at} is off its own by {off:.6g} (its largest is "
            f"{largest:.6g}): forward_func has to do the same each time it is called. Does it draw random "
            "numbers, or does a function replace one of torch's?"
        )
