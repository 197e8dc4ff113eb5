"""Run a function at its inputs and at a baseline, and compute the contributions to the difference."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import CheckpointError

from captum_globenc.differences.call import leaves, replaced
from captum_globenc.differences.frozen import FROZEN, FrozenMode, Rules
from captum_globenc.differences.mode import DifferenceMode
from captum_globenc.differences.rules import EXACT
from captum_globenc.differences.trace import Route, SavedTensor, Snapshot, Source, Trace
from captum_globenc.errors import UnsupportedOperationError


@dataclass(frozen=True)
class Comparison:
    """Two runs of a function.

    Attributes:
        output: the output at the inputs, with a graph whose backward pass gives multipliers.
        base: the output at the baseline.
        trace: the recorded operations.
    """

    output: Any
    base: Any
    trace: Trace

    @property
    def sources(self) -> Sequence[Source]:
        """The tensors that the function reads: floating-point inputs, then embeddings looked up by ids."""
        return self.trace.sources

    def multipliers(self, output: Tensor, at: Sequence[Tensor | Snapshot]) -> list[Tensor]:
        """Return the multipliers of tensors of the run at the inputs for an output.

        Args:
            output: the explained output, computed from `self.output`; several numbers are summed.
            at: leaves of sources, or snapshots that a hook took in the run at the inputs.

        Returns:
            One tensor for each, in its shape. The graph is kept for further calls.

        Raises:
            ValueError: `output` was computed while gradients were off.
        """
        edges = [it.edge if isinstance(it, Snapshot) else it for it in at]
        gradients = iter(self._gradients(output, [it for it in edges if it is not None]))
        found = [None if it is None else next(gradients) for it in edges]
        values = [it.value if isinstance(it, Snapshot) else it for it in at]
        return [
            torch.zeros_like(value) if it is None else it for value, it in zip(values, found, strict=True)
        ]

    def _gradients(self, output: Tensor, at: Sequence[Tensor | GradientEdge]) -> Sequence[Tensor | None]:
        whole = [leaf for leaf in leaves(self.output) if isinstance(leaf, Tensor)]
        if not output.requires_grad and any(leaf.requires_grad for leaf in whole):
            raise ValueError("output was computed while gradients were off: use torch.enable_grad()")
        return _pulled([output], at, [torch.ones_like(output)])

    def pull(self, multipliers: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Return the multipliers of the sources from the multipliers of the outputs; the graph is freed.

        Args:
            multipliers: one for each output tensor, in its shape.

        Returns:
            One tensor for each source, in its shape; None for zeros.
        """
        at = [source.leaf for source in self.sources]
        return _pulled(leaves(self.output), at, multipliers, keep=False)

    def contributions(self, output: Tensor) -> list[Tensor]:
        """Return the contributions of every source, in its shape; they sum to the output's difference."""
        differences = [source.difference for source in self.sources]
        changed = [bool(it.any()) for it in differences]
        made = iter(
            self.multipliers(output, [it.leaf for it, one in zip(self.sources, changed, strict=True) if one])
        )
        return [next(made) * one if it else one for one, it in zip(differences, changed, strict=True)]

    def rounding(self, output: Tensor) -> float:
        """Return the rounding error of the sum of contributions to an output, to first order.

        Every tensor y of the run at the inputs that depends on them is rounded, and its multiplier m is the
        share of the error that reaches the output. The arguments u of calls with a rule are rounded in both
        runs:

            eps (sum |m| 2 |y| + sum |m_u| (|u| + |u0|) + |f(x)| + |f(x0)|)

        Args:
            output: the explained output, one number computed from `self.output`. The last two terms are not
                included.

        Raises:
            ValueError: `measure_rounding` was False.
        """
        if not self.trace.measured:
            raise ValueError("rounding was not measured: use compare(..., measure_rounding=True)")
        self.trace.rounding.clear()
        self._gradients(output, [source.leaf for source in self.sources])
        return torch.finfo(self.trace.lowest).eps * sum(map(float, self.trace.rounding))


def _pulled(
    outputs: Sequence[Tensor],
    at: Sequence[Tensor | GradientEdge],
    multipliers: Sequence[Tensor],
    keep: bool = True,
) -> Sequence[Tensor | None]:
    """Return the multipliers of tensors of a graph from the multipliers of its outputs."""
    known = [pair for pair in zip(outputs, multipliers, strict=True) if pair[0].requires_grad]
    if not at or not known:
        return [None] * len(at)
    try:
        # The caller's autocast must not lower the precision of multipliers.
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            made: Sequence[Tensor | None] = torch.autograd.grad(
                [output for output, _ in known],
                cast(Any, at),
                [multiplier for _, multiplier in known],
                retain_graph=keep,
                allow_unused=True,
            )
    except CheckpointError:
        raise UnsupportedOperationError(
            "forward_func calls torch.utils.checkpoint, which runs parts of it again without recording: turn "
            "it off. To keep less memory, use TransformerDeepLift(forward_func, recompute=True)."
        ) from None
    return made


def freeze(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    rules: Rules = FROZEN,
    *,
    mode: Callable[..., FrozenMode] = FrozenMode,
) -> Comparison:
    """Run a function once with frozen rules, which need no baseline, for its multipliers.

    Args:
        function: takes as many tensors as there are inputs.
        inputs: floating-point tensors, or ids by which the function looks up embeddings.
        rules: the rules; by default the frozen network's (DecompX).
        mode: makes the mode of the run, as `Recomputation.frozen_mode` does.

    Raises:
        UnsupportedOperationError: an operation has no rule.

    Example:
        >>> x = torch.tensor([2.0, 1.0])
        >>> run = freeze(lambda x: x.relu() * 3, [x])
        >>> run.multipliers(run.output, [run.sources[0].leaf])
        [tensor([3., 3.])]
    """
    numbers = RandomNumbers(inputs)
    for written in (False, True):
        trace = Trace(written=written)
        active = mode(trace, rules)
        with torch.inference_mode(False), uncompiled(), numbers.again() if written else nullcontext():
            tracked = _tracked(active, inputs)
            with active, _saved(trace), torch.enable_grad():
                output = function(*tracked)
        if trace.written is written:  # if the model writes in place, run again and protect what it overwrites
            break
    return Comparison(active.completed(output), None, trace)


class RandomNumbers:
    """The state of the random generators, to repeat the same random numbers in all runs.

    Args:
        tensors: tensors whose devices are included, besides the CPU.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
        self._cpu = torch.get_rng_state()
        self._states = [torch.cuda.get_rng_state(device) for device in self._devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Repeat the same random numbers in a context, and restore the generators after it."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._states, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def compare(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    *,
    values: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
    table: Any = EXACT,
    precision: torch.dtype = torch.float32,
    decisions: Literal["same", "follow"] = "same",
    measure_rounding: bool = False,
) -> Comparison:
    """Run a function at its inputs and at a baseline.

    Args:
        function: takes as many tensors as there are inputs.
        inputs: floating-point tensors, or ids by which the function looks up embeddings.
        baselines: one for each input, in its shape.
        values: replacements of the sources at the inputs and at the baseline, in the order of
            :attr:`Comparison.sources`.
        table: the rules.
        precision: the lowest dtype to compute in. Tensors of a lower one, including weights, are converted
            for the call.
        decisions: "same" requires routers, branches and other decisions to be the same in both runs; "follow"
            applies the decisions of the run at the inputs to the baseline, which costs one more run.
            Contributions then sum to f(x) - f_x(x0), with f_x the function with the decisions of x.
        measure_rounding: whether to enable :meth:`Comparison.rounding`, which keeps every tensor of the run
            at the inputs.

    Raises:
        UnsupportedOperationError: an operation has no rule, or the function runs other operations at the
            baseline.

    Example:
        >>> x, x0 = torch.tensor([2.0, 1.0]), torch.tensor([0.0, 1.0])
        >>> both = compare(lambda x: (x * x).sum().tanh(), [x], [x0])
        >>> (contributions,) = both.contributions(both.output)
        >>> torch.allclose(contributions.sum(), both.output - both.base)
        True
    """
    (comparison,) = compare_path(
        function,
        [baselines, inputs],
        values=values and values[::-1],
        table=table,
        precision=precision,
        decisions=decisions,
        measure_rounding=measure_rounding,
    )
    return comparison


def compare_path(
    function: Callable[..., Any],
    points: Sequence[Sequence[Tensor]],
    *,
    values: Sequence[Sequence[Tensor]] | None = None,
    table: Any = EXACT,
    precision: torch.dtype = torch.float32,
    decisions: Literal["same", "follow"] = "same",
    measure_rounding: bool = False,
    mode: Callable[..., DifferenceMode] = DifferenceMode,
) -> Iterator[Comparison]:
    """Run a function at every point of a path, and compare each point with the previous one.

    Each point runs once: it is the input of one comparison and the baseline of the next.

    Args:
        function: takes as many tensors as there are inputs.
        points: the inputs of the function at each point, from the baseline to the input.
        values: replacements of the sources at each point, in the order of :attr:`Comparison.sources`.
        table: the rules.
        precision: the lowest dtype to compute in.
        decisions: "same" requires equal decisions at all points; "follow" applies the last point's decisions.
        measure_rounding: whether to enable :meth:`Comparison.rounding`.
        mode: makes the mode of each run, as `Recomputation.mode` does.

    Yields:
        One comparison for each point but the first. Drop a comparison to free its memory.

    Raises:
        UnsupportedOperationError: an operation has no rule, or the function runs other operations at another
            point.

    Example:
        >>> points = [[torch.tensor([1.0, 1.0])], [torch.tensor([1.0, 3.0])], [torch.tensor([2.0, 3.0])]]
        >>> product = lambda x: x[0] * x[1]
        >>> [it.contributions(it.output)[0].tolist() for it in compare_path(product, points)]
        [[0.0, 2.0], [3.0, 0.0]]
    """
    numbers = RandomNumbers(points[0])
    route = None
    if decisions == "follow":
        route = Route()
        active = mode(None, None, table, values[-1] if values else None, precision=precision, route=route)
        with torch.inference_mode(False), uncompiled(), numbers.again():
            tracked = _tracked(active, points[-1])
            with active, torch.enable_grad():
                function(*tracked)
    trace, base = None, None
    for number, tensors in enumerate(points):
        last = number == len(points) - 1
        record = None if last else Trace(measured=measure_rounding)
        follower = None if route is None else Route(route.decisions, met=0)
        active = mode(
            trace, record, table, values[number] if values else None, precision=precision, route=follower
        )
        with torch.inference_mode(False), uncompiled(), nullcontext() if last else numbers.again():
            tracked = _tracked(active, tensors)
            # Gradients are on in all runs, because torch may choose other kernels without them.
            with active, _saved(trace), torch.enable_grad():
                output = function(*tracked)
            output = active.completed(output)
        if record is not None:
            record.route = follower
        if trace is not None:
            yield Comparison(output, base, trace)
        base = replaced(output, lambda it: it.detach() if isinstance(it, Tensor) else it)
        trace = record
        del output, active


def _tracked(mode: DifferenceMode, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the inputs as tensors that the mode tracks; floating-point inputs become the first sources."""
    return [mode.source(tensor) if tensor.is_floating_point() else mode.ids(tensor) for tensor in tensors]


def _saved(trace: Trace | None) -> AbstractContextManager[Any]:
    """Save torch's tensors for the backward pass in the trace, which copies them before in-place writes."""
    if trace is None or not trace.written:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(trace.save, SavedTensor.restore)


class _Stance:
    """The compiler's stance, which is global: the first thread sets it, the last restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stance = ExitStack()

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run compiled functions without compilation."""
        with self._lock:
            if not self._users:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._stance.close()


uncompiled = _Stance().eager
