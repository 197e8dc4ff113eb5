"""Check contributions: they sum to the output's difference, and recording does not change the output."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

from captum_globenc.attr.base import ModelAttribution
from captum_globenc.differences import Comparison, RandomNumbers
from captum_globenc.encoders.search import submodules
from captum_globenc.errors import PrecisionError, PrecisionWarning, ReconstructionError
from captum_globenc.forward import Wrapper
from captum_globenc.recording.passed import Fingerprint, Passed, fingerprint_of, reference

ProofError = ReconstructionError
"""The earlier name."""

QUICK = {torch.float64: 1e-10, torch.float32: 1e-5}
"""Error of a sum, relative to the sum of absolute terms, below which no further check is needed."""

SLACK = {torch.float64: 1e3, torch.float32: 4.0}
"""Factor on the first-order estimate of rounding; large in float64, where rules round as well."""

LOWERED = {"high": 2**-9, "medium": 2**-6}
"""Accepted error of a sum in float32, relative to the sum of absolute terms, for lower matmul precisions.

Four steps (eps) of TF32 and bfloat16, to which matrix products then round their factors.
"""

OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 0.25}
"""Accepted difference between the recorded model's output and its own, relative to the largest output."""

ADVICE = (
    "Choose a baseline that the model can read: for ids the masked text (EncoderForward.masked) or, without "
    'a mask token, the mean of the word embeddings (baseline="mean" of explain) instead of zero embeddings.'
)


_passed = Passed()
"""For each model: the operations that were checked."""


class OutputCheck:
    """Check that recording does not change the output, once for each operation and types of its arguments.

    A check costs one forward pass per run. Methods share it if they run the same function of the same model,
    and neither the model's modules nor their hooks or functions changed.
    """

    def __init__(self) -> None:
        self._checked: set[Any] = set()

    def __reduce__(self) -> Any:
        """Return an empty object for copies and pickles, because torch functions cannot be pickled."""
        return OutputCheck, ()

    def check(
        self,
        run: Comparison,
        plain: Callable[[], Any],
        method: ModelAttribution,
        settings: Sequence[Any],
        plain_base: Callable[[], Any] | None = None,
    ) -> None:
        """Check a recorded run.

        Args:
            run: the run.
            plain: runs the same function at the inputs without recording, with the same random numbers.
            method: the method, whose model's dtype sets the tolerance.
            settings: the settings of the method that decide how it records the function.
            plain_base: runs the function at the baseline without recording; None skips that check.

        Raises:
            TypeError: the output is not a tensor.
            ReconstructionError: outputs differ by more than rounding.
        """
        if not isinstance(run.output, Tensor):
            raise TypeError(
                f"forward_func returned a {type(run.output).__name__}, not a tensor: wrap the model in "
                "EncoderForward."
            )
        operations = run.trace.operations
        if self._checked >= operations:
            return
        shared = _shared(method, settings)
        known = frozenset() if shared is None else _passed.get(*shared) or frozenset()
        if not known >= operations:
            with torch.no_grad():
                check_output(run.output.detach(), plain(), method.model, run.trace.rounded)
                if plain_base is not None:
                    check_output(run.base, plain_base(), method.model, run.trace.rounded, "baseline")
            if shared is not None:
                _passed.add(*shared, known | operations)
        self._checked |= operations


def _shared(method: ModelAttribution, settings: Sequence[Any]) -> tuple[nn.Module, Fingerprint] | None:
    """Return the model of a method, and all that decides how the method runs; None if that is unknown."""
    function, model = method.forward_func, method.model
    # Other callables, such as instances with attributes, may compute something else each time.
    if not isinstance(getattr(function, "__self__", function), nn.Module | FunctionType):
        return None
    roots = [it for it in (function, model) if isinstance(it, nn.Module)]
    modules = list(dict.fromkeys(module for root in roots for module in submodules(root)))
    for module in modules:
        if not isinstance(module, Wrapper):
            found = [reference(type(method)), *settings, None if function in roots else reference(function)]
            return module, [*found, [it.training for it in modules], *fingerprint_of(modules)]
    return None


def run_plainly(function: Callable[..., Any], tensors: Sequence[Tensor], numbers: RandomNumbers) -> Any:
    """Run a function without recording, with the random numbers of the recorded runs.

    Args:
        function: the function.
        tensors: its inputs, which are copied.
        numbers: the random numbers.
    """
    # An empty mode turns off torch's fast path, which sets padding to 0.
    with numbers.again(), BaseTorchFunctionMode():
        return function(*(tensor.clone() for tensor in tensors))


@dataclass(frozen=True)
class Scored:
    """Contributions and the outputs whose difference they sum to.

    Args:
        contributions: one tensor per input, batch first.
        output: `(B,)`, the output at the inputs.
        base: `(B,)`, the output at the baseline.
        lowest: the lowest precision of the computation.
        rounding: returns the rounding error of an example's sum, given its number; costs a comparison.
    """

    contributions: tuple[Tensor, ...]
    output: Tensor
    base: Tensor
    lowest: torch.dtype
    rounding: Callable[[int], float]

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return the sum of contributions, and of their absolute values, each `(B,)`."""
        parts = [part.reshape(len(self.output), -1).to(self.output.device) for part in self.contributions]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        return whole.sum(1), torch.linalg.vector_norm(whole, 1, 1)


def check_sum(first: Scored, finer: Callable[[], Scored]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return contributions that sum to the difference of their output.

    A sum passes if its error is small relative to the contributions and to the rounding of the outputs, and
    contributions are not much larger than the outputs. For other examples, contributions are computed again
    in float64, and these are returned. An error above rounding is then raised.

    Args:
        first: contributions in the model's precision.
        finer: computes them in float64 if the model supports it, else in the model's precision.

    Returns:
        The contributions, and `(B,)`, their sum minus the difference.

    Raises:
        ValueError: an output is not finite.
        ReconstructionError: contributions do not sum to the difference.
        PrecisionError: rounding in float64 is larger than the difference.
    """
    total, size = first.sums()
    error = total - (first.output - first.base)
    both = first.output.abs() + first.base.abs()
    close = torch.add(QUICK[first.lowest] * size, both, alpha=8 * torch.finfo(first.lowest).eps)
    sure = (error.abs() <= close) & (size <= 1e3 * both) & (both < torch.inf)
    if sure.all():
        return first.contributions, error.detach()
    if not (first.output.isfinite().all() and first.base.isfinite().all()):
        raise ValueError("the output is NaN or infinite at the inputs or at the baseline")
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
    return chosen, (total - (first.output - first.base)).detach()


def _judge(example: int, scored: Scored, sums: tuple[float, float], eps: float) -> None:
    """Raise or warn if the sum of one example is wrong or cancels.

    Args:
        example: its number.
        scored: contributions, the finer ones.
        sums: the sum of its contributions, and of their absolute values.
        eps: of the dtype of the model's output.

    Raises:
        ReconstructionError: the error of the sum is larger than rounding.
        PrecisionError: rounding is larger than the difference.
    """
    total, size = sums
    output, base = (float(it[example]) for it in (scored.output, scored.base))
    change, delta = abs(output - base), abs(total - (output - base))
    resolution = eps * (abs(output) + abs(base))
    if not delta <= QUICK[scored.lowest] * size + resolution:
        rounding = scored.rounding(example)
        if size <= 1e-6 * rounding / torch.finfo(scored.lowest).eps:
            return  # the output does not depend on the inputs: contributions are rounding errors
        bound = SLACK[scored.lowest] * rounding + 4 * resolution
        if scored.lowest is torch.float32:
            bound += LOWERED.get(torch.get_float32_matmul_precision(), 0.0) * size
        found = (
            f"The contributions of example {example} sum to {total:.6g}, but its output differs from the "
            f"baseline's by {output - base:.6g}"
        )
        if not delta <= bound:
            raise ReconstructionError(
                f"{found}; rounding explains at most {bound:.2g}. The model depends on the inputs in a way "
                "that is not recorded, such as weights indexed by ids (weight[ids] instead of an embedding), "
                "masks computed from ids, functions outside of torch, or other examples of the batch."
            )
        if delta > change > resolution:
            raise PrecisionError(f"{found}: contributions cancel, and their rounding is larger. {ADVICE}")
    # No warning if the output only changes by rounding.
    if size > 1e4 * change and change > 8 * resolution and size > 100 * (abs(output) + abs(base)):
        warnings.warn(
            f"The contributions of example {example} cancel: their absolute values sum to {size:.3g}, and "
            f"its output changes by {output - base:.3g}. {ADVICE}",
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
    """Check that recording does not change the model's output.

    Args:
        recorded: its output in the recorded run.
        plain: its output without recording.
        model: the model, whose dtype sets the tolerance.
        rounded: lower precisions that only the run without recording rounds to.
        at: "input" or "baseline", for the message.

    Raises:
        ReconstructionError: they differ by more than rounding.
    """
    dtypes = {plain.dtype, *(it.dtype for it in (model.parameters() if model is not None else ())), *rounded}
    # A float64 model may compute parts of itself in float32.
    allowed = max(OUTPUT_TOLERANCE.get(dtype, 0.0) for dtype in {*dtypes, torch.float32})
    finite = plain.isfinite()  # check_sum rejects other values
    largest = float(plain[finite].abs().max()) if finite.any() else 0.0
    error = float((recorded - plain)[finite].abs().max()) if finite.any() else 0.0
    if not error <= allowed * max(largest, 1e-3):
        raise ReconstructionError(
            f"Recording changes the model's output at the {at} by {error:.6g} (the largest output is "
            f"{largest:.6g}): forward_func must compute the same in every call. Check whether it draws "
            "random numbers, or replaces functions of torch."
        )
