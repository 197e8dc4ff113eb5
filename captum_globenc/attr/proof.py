"""Checks that keep a wrong number from leaving: contributions sum up, and the recorded model is the model."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from captum_globenc.differences import Comparison, RandomNumbers
from captum_globenc.errors import PrecisionError, PrecisionWarning, ReconstructionError

__all__ = ["Proof", "ProofError", "Scored", "check_output", "check_sum", "run_plainly"]

ProofError = ReconstructionError
"""The earlier name."""

QUICK = {torch.float64: 1e-10, torch.float32: 1e-5}
"""How far a sum may be off, in units of what is summed, to be right at first sight."""

SLACK = {torch.float64: 1e3, torch.float32: 4.0}
"""How much more than its first order counts as rounding: in float64 there is room for what rules round."""

OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 0.25}
"""How far the recorded model's output may be off the model's own, in units of the largest output."""

ADVICE = (
    "Choose a baseline that the model can read: for ids the masked text (EncoderForward.masked) or, where "
    'there is no mask token, the mean of the word embeddings (baseline="mean" of explain) in place of zero '
    "embeddings."
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
            plain_base: runs the function at the baseline without being recorded; None skips that check.

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


def run_plainly(function: Callable[..., Any], tensors: Sequence[Tensor], numbers: RandomNumbers) -> Any:
    """Run a function as it runs when it is not recorded, with the random numbers of the recorded runs.

    Args:
        function: the function.
        tensors: its inputs, which it gets copies of.
        numbers: the random numbers.
    """
    # A mode that does nothing keeps torch off its fast path, which sets padding to 0.
    with numbers.again(), BaseTorchFunctionMode():
        return function(*(tensor.clone() for tensor in tensors))


@dataclass(frozen=True)
class Scored:
    """Contributions and the outputs whose difference they sum to.

    Args:
        contributions: of all inputs, each with the batch first.
        output: `(B,)` at the inputs.
        base: `(B,)` at the baseline.
        lowest: the precision that was computed in.
        rounding: from the number of an example to how far rounding may move its sum; costs a comparison.
    """

    contributions: tuple[Tensor, ...]
    output: Tensor
    base: Tensor
    lowest: torch.dtype
    rounding: Callable[[int], float]

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return `(B,)`, the sum of contributions, and that of their sizes."""
        parts = [part.reshape(len(self.output), -1).to(self.output.device) for part in self.contributions]
        both = torch.stack([torch.stack([part.sum(1), part.abs().sum(1)]) for part in parts]).sum(0)
        return both[0], both[1]


def check_sum(first: Scored, finer: Callable[[], Scored]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return contributions that sum to the difference of their output.

    A sum that is off by little of what is summed, and by little more than the rounding of the outputs, is
    right, unless contributions are much larger than the outputs. For other examples everything is computed
    once more in float64, whose contributions are then returned. What is still off by more than rounding is
    an error.

    Args:
        first: contributions in the model's precision.
        finer: computes them in float64; where that cannot be, returns those in the model's precision.

    Returns:
        The contributions, and `(B,)`, their sum minus the difference.

    Raises:
        ValueError: an output is not finite.
        ReconstructionError: contributions do not sum to the difference.
        PrecisionError: rounding in float64 is larger than the difference.
    """
    if not (first.output.isfinite().all() and first.base.isfinite().all()):
        raise ValueError("the output is NaN or infinite at the inputs or at the baseline")
    total, size = first.sums()
    change = first.output - first.base
    both = first.output.abs() + first.base.abs()
    close = QUICK[first.lowest] * size + 8 * torch.finfo(first.lowest).eps * both
    sure = ((total - change).abs() <= close) & (size <= 1e3 * torch.maximum(change.abs(), both))
    if sure.all():
        return first.contributions, (total - change).detach()
    better = first if first.lowest is torch.float64 else finer()
    sums = torch.stack(better.sums()).tolist()
    for example in (~sure).nonzero().flatten().tolist():
        total_and_size = (sums[0][example], sums[1][example])
        _judge(example, better, total_and_size, torch.finfo(first.output.dtype).eps)
    chosen = tuple(
        torch.where(sure.to(old.device).reshape(-1, *[1] * (old.dim() - 1)), old, new.to(old.dtype))
        for old, new in zip(first.contributions, better.contributions, strict=True)
    )
    total, _ = replace(first, contributions=chosen).sums()
    return chosen, (total - change).detach()


def _judge(example: int, scored: Scored, sums: tuple[float, float], eps: float) -> None:
    """Raise or warn if the sum of one example is wrong or cancels.

    Args:
        example: its number.
        scored: contributions, the finer ones.
        sums: of its contributions, and of their sizes.
        eps: the rounding of the model's own output.

    Raises:
        ReconstructionError: the sum is off by more than rounding.
        PrecisionError: rounding is larger than the difference.
    """
    total, size = sums
    output, base = (float(it[example]) for it in (scored.output, scored.base))
    change, delta = abs(output - base), abs(total - (output - base))
    resolution = eps * (abs(output) + abs(base))
    if not delta <= QUICK[scored.lowest] * size + resolution:
        rounding = scored.rounding(example)
        if size <= 1e-6 * rounding / torch.finfo(scored.lowest).eps:
            return  # an output that does not depend on the inputs: contributions are rounding themselves
        bound = SLACK[scored.lowest] * rounding + 4 * resolution
        found = (
            f"The contributions of example {example} sum to {total:.6g}, and its output changes by "
            f"{output - base:.6g} from the baseline"
        )
        if not delta <= bound:
            raise ReconstructionError(
                f"{found}, where rounding explains {bound:.2g}: something in the model depends on the inputs "
                "in a way that is not seen, such as weights that are indexed by ids, weight[ids] instead of "
                "an embedding, masks made of ids, functions outside of torch, or other examples of the batch."
            )
        if delta > change > resolution:
            raise PrecisionError(f"{found}: the rounding of contributions that cancel is larger. {ADVICE}")
    # An output that does not change but by rounding is no reason to warn: contributions are what they are.
    if size > 1e4 * change and change > 8 * resolution and size > 100 * (abs(output) + abs(base)):
        warnings.warn(
            f"The contributions of example {example} cancel: their sizes sum to {size:.3g}, and its output "
            f"changes by {output - base:.3g}. {ADVICE}",
            PrecisionWarning,
            stacklevel=6,
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
    finite = plain.isfinite()  # check_sum rejects other values
    largest = float(plain[finite].abs().max()) if finite.any() else 0.0
    off = float((recorded - plain)[finite].abs().max()) if finite.any() else 0.0
    if not off <= allowed * max(largest, 1e-3):
        raise ReconstructionError(
            f"The recorded model's output at the {at} is off its own by {off:.6g} (its largest is "
            f"{largest:.6g}): forward_func has to do the same each time it is called. Does it draw random "
            "numbers, or does a function replace one of torch's?"
        )
