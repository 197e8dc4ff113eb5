"""A function run at its inputs and at a baseline, and what its difference is made of."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from captum_globenc.differences.call import leaves, replaced
from captum_globenc.differences.frozen import FROZEN, FrozenMode, Rules
from captum_globenc.differences.mode import DifferenceMode
from captum_globenc.differences.rules import EXACT
from captum_globenc.differences.trace import Route, SavedTensor, Snapshot, Source, Trace


@dataclass(frozen=True)
class Comparison:
    """Two runs of a function.

    Attributes:
        output: what it returned at the inputs, with a graph whose backward pass gives multipliers.
        base: what it returned at the baseline.
        trace: of the operations that it was made of.
    """

    output: Any
    base: Any
    trace: Trace

    @property
    def sources(self) -> Sequence[Source]:
        """The tensors that the function reads: first inputs of floats, then embeddings looked up by ids."""
        return self.trace.sources

    def multipliers(self, output: Tensor, at: Sequence[Tensor | Snapshot]) -> list[Tensor]:
        """Return the multipliers of some tensors of the run at the inputs for an output.

        Args:
            output: what is explained, one number or the sum of several: made of `self.output`.
            at: the leaves of sources, or snapshots that a hook took in the run at the inputs.

        Returns:
            One for each, of its shape; they can be asked for again.

        Raises:
            ValueError: `output` was made of the run's output where gradients are off.
        """
        edges = [it.edge if isinstance(it, Snapshot) else it for it in at]
        found = iter(self._gradients(output, [it for it in edges if it is not None]))
        made = [None if it is None else next(found) for it in edges]
        values = [it.value if isinstance(it, Snapshot) else it for it in at]
        return [torch.zeros_like(value) if it is None else it for value, it in zip(values, made, strict=True)]

    def _gradients(self, output: Tensor, at: Sequence[Tensor | GradientEdge]) -> Sequence[Tensor | None]:
        whole = [leaf for leaf in leaves(self.output) if isinstance(leaf, Tensor)]
        if not output.requires_grad and any(leaf.requires_grad for leaf in whole):
            raise ValueError("output was made where gradients are off: make it under torch.enable_grad()")
        if not at or not output.requires_grad:
            return [None] * len(at)
        # Where the caller computes in half precision, multipliers are not.
        with (
            torch.inference_mode(False),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
        ):
            made: Sequence[Tensor | None] = torch.autograd.grad(
                output, cast(Any, at), torch.ones_like(output), retain_graph=True, allow_unused=True
            )
        return made

    def contributions(self, output: Tensor) -> list[Tensor]:
        """Return the contributions of every source, in its shape: they add up to the output's difference."""
        differences = [source.difference for source in self.sources]
        changed = [bool(it.any()) for it in differences]
        made = iter(
            self.multipliers(output, [it.leaf for it, one in zip(self.sources, changed, strict=True) if one])
        )
        return [next(made) * one if it else one for one, it in zip(differences, changed, strict=True)]

    def rounding(self, output: Tensor) -> float:
        """Return how far rounding may move the sum of contributions to an output, to first order.

        Every tensor y of the run at the inputs that depends on them was rounded, and its multiplier m is the
        part of that which reaches the output; so were the arguments u of calls with a rule, at both points:

            eps (sum |m| 2 |y| + sum |m_u| (|u| + |u0|) + |f(x)| + |f(x0)|)

        Args:
            output: what is explained, one number: made of `self.output`. The last two terms are the caller's.

        Raises:
            ValueError: the comparison was not asked to measure rounding.
        """
        if not self.trace.measured:
            raise ValueError("compare(..., measure_rounding=True) measures rounding")
        self.trace.rounding.clear()
        self._gradients(output, [source.leaf for source in self.sources])
        return torch.finfo(self.trace.lowest).eps * sum(map(float, self.trace.rounding))


def freeze(function: Callable[..., Any], inputs: Sequence[Tensor], rules: Rules = FROZEN) -> Comparison:
    """Run a function once, frozen: for its multipliers only, as there is nothing to compare with.

    Args:
        function: as for :func:`compare`.
        inputs: as for :func:`compare`.
        rules: what it goes by; left out, the frozen network's.

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
        mode = FrozenMode(trace, rules)
        with torch.inference_mode(False), uncompiled(), numbers.again() if written else nullcontext():
            seen = _seen(mode, inputs)
            with mode, _kept(trace), torch.enable_grad():
                output = function(*seen)
        if trace.written is written:  # else once more, with all that is written into protected
            break
    return Comparison(mode.completed(output), None, trace)


class RandomNumbers:
    """Random numbers from here on, which can come again: what is dropped at random is the same in all runs.

    Args:
        tensors: on whose devices, besides the CPU.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._devices = sorted({tensor.device.index for tensor in tensors if tensor.device.type == "cuda"})
        self._cpu = torch.get_rng_state()
        self._states = [torch.cuda.get_rng_state(device) for device in self._devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Give a context with the same numbers once more, after which the generators are as before it."""
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
        inputs: tensors of floats, or of ids that the function looks up embeddings by.
        baselines: one for each, of its shape.
        values: what the sources are taken to be in either run instead, in the order of
            :attr:`Comparison.sources`.
        table: of rules.
        precision: the lowest dtype that is computed in: tensors of a lower one, weights too, are converted
            for the call.
        decisions: what holds for routers, branches and other decisions: "same", that they are the same in
            both runs; or "follow", that the run at the baseline takes those of the run at the inputs, which
            costs one more run. Then contributions sum to f(x) - f_x(x0), f_x the function along the route
            of x.
        measure_rounding: whether :meth:`Comparison.rounding` can be asked for; it keeps every tensor of the
            run at the inputs.

    Raises:
        UnsupportedOperationError: an operation has no rule, or the function does something else at the
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
) -> Iterator[Comparison]:
    """Run a function at every point of a path, and compare each point with the one before.

    Each point runs once: it is the input of one comparison and the baseline of the next.

    Args:
        function: as for :func:`compare`.
        points: the inputs of the function at each point, from the baseline to the input.
        values: what the sources are taken to be at each point instead, in the order of
            :attr:`Comparison.sources`.
        table: as for :func:`compare`.
        precision: as for :func:`compare`.
        decisions: as for :func:`compare`; all points follow the last one.
        measure_rounding: as for :func:`compare`.

    Yields:
        One comparison less than there are points. The memory of a comparison is free once it is dropped.

    Raises:
        UnsupportedOperationError: as :func:`compare` does.

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
        mode = DifferenceMode(
            None, None, table, values[-1] if values else None, precision=precision, route=route
        )
        with torch.inference_mode(False), uncompiled(), numbers.again():
            seen = _seen(mode, points[-1])
            with mode, torch.enable_grad():
                function(*seen)
    trace, base = None, None
    for number, tensors in enumerate(points):
        last = number == len(points) - 1
        record = None if last else Trace(measured=measure_rounding)
        follower = None if route is None else Route(route.decisions, met=0)
        mode = DifferenceMode(
            trace, record, table, values[number] if values else None, precision=precision, route=follower
        )
        with torch.inference_mode(False), uncompiled(), nullcontext() if last else numbers.again():
            seen = _seen(mode, tensors)
            # With gradients in all runs: without them torch may take other kernels, which round otherwise.
            with mode, _kept(trace), torch.enable_grad():
                output = function(*seen)
            output = mode.completed(output)
        if record is not None:
            record.route = follower
        if trace is not None:
            yield Comparison(output, base, trace)
        base = replaced(output, lambda it: it.detach() if isinstance(it, Tensor) else it)
        trace = record
        del output, mode


def _seen(mode: DifferenceMode, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the inputs as the function sees them: sources of floats come first, in order."""
    return [mode.source(tensor) if tensor.is_floating_point() else mode.ids(tensor) for tensor in tensors]


def _kept(trace: Trace | None) -> AbstractContextManager[Any]:
    """Let the model write into what torch saves for its backward pass: the trace copies that before."""
    if trace is None or not trace.written:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(trace.save, SavedTensor.restore)


class _Stance:
    """The compiler's stance, which is the process's: the first thread sets it, the last puts it back."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._set = ExitStack()

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run what is compiled as it was written."""
        with self._guard:
            if not self._users:
                self._set.enter_context(torch.compiler.set_stance("force_eager"))
            self._users += 1
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                if not self._users:
                    self._set.close()


uncompiled = _Stance().eager
