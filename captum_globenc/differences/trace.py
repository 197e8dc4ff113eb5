"""The trace of a comparison: records the run at the baseline, and pairs the run at the input with it."""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from captum_globenc.differences.call import Backward, Call, Pair, Rule, leaves, replaced
from captum_globenc.differences.ids import Positions
from captum_globenc.differences.op_sets import display_name
from captum_globenc.errors import UnsupportedOperationError


@dataclass
class Source:
    """A floating-point tensor that the function reads: an input, or embeddings looked up by ids.

    Attributes:
        base: its value at the baseline; None in a run without a baseline.
        leaf: its value at the input, a leaf of the graph; before that run, its value at the baseline.
        looked_up: whether it was looked up by ids.
        positions: the ids that each element of the index comes from; None if it was not looked up.
    """

    base: Tensor | None
    leaf: Tensor
    looked_up: bool = False
    positions: Positions | None = None

    @property
    def value(self) -> Tensor:
        """Its value at the input."""
        return self.leaf.detach()

    @property
    def difference(self) -> Tensor:
        """Its value at the input minus that at the baseline."""
        assert self.base is not None
        return self.value - self.base


@dataclass
class RecordedCall:
    """A call in the run at the baseline: a function with a rule, or a decision.

    Attributes:
        function: the torch function.
        arguments: arguments that depend on the input, in order; empty for a decision.
        outputs: floating-point outputs; all outputs of a decision.
        indices: integer outputs, in addition to `outputs`.
    """

    function: Callable[..., Any]
    arguments: list[Tensor]
    outputs: list[Any]
    indices: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions = [tensor._version for tensor in self.arguments]


@dataclass
class Route:
    """The decisions of a run, which other runs follow.

    Attributes:
        decisions: the results of all decisions, in order.
        met: number of decisions that the following run has reached; None for the deciding run.
        differing: number of elements that the following run would have decided differently.
        total: number of elements of all its decisions: indices, truth values and numbers of Python, not the
            values that `topk` and `sort` return with their indices.
    """

    decisions: list[Any] = field(default_factory=list)
    met: int | None = None
    differing: int = 0
    total: int = 0

    def decided(self, output: Any) -> Any:
        """Return the deciding run's result for `output`."""
        if self.met is None:
            self.decisions.append(output)
            return output
        if self.met >= len(self.decisions):
            raise _differs("it makes more decisions there")
        followed = self.decisions[self.met]
        self.met += 1
        for own, other in zip(leaves(output), leaves(followed), strict=True):
            if isinstance(own, Tensor):
                if own.shape != other.shape:
                    raise _differs("its decisions have other shapes there")
                if not own.is_floating_point():
                    self.total += own.numel()
                    self.differing += int((own != other).sum())
            else:
                self.total += 1
                self.differing += own != other
        return replaced(followed, lambda it: it.clone() if isinstance(it, Tensor) else it)


@dataclass
class Trace:
    """The shared state of both runs of a comparison. The run at the baseline comes first.

    Attributes:
        calls: calls of the run at the baseline that the run at the input has not reached yet.
        sources: the sources, in order.
        operations: every function that was called with a value that depends on the input, and the types of
            its arguments.
        lowest: the dtype of the lowest precision of the computation.
        rounded: lower precisions that the model asks for, but the comparison does not use.
        measured: whether rounding is measured.
        rounding: with `measured`, the weights of the rounding errors of each tensor and each call's
            arguments, collected in a backward pass.
        written: whether the run at the baseline wrote to tensors; only then constants are protected, too.
        route: the decisions that the run at the baseline followed; None if it made its own.
        once: whether there is only one backward pass, so that each call frees its tensors when it is passed.
    """

    calls: deque[RecordedCall] = field(default_factory=deque)
    sources: list[Source] = field(default_factory=list)
    operations: set[Any] = field(default_factory=set)
    lowest: torch.dtype = torch.float64
    rounded: set[torch.dtype] = field(default_factory=set)
    measured: bool = False
    rounding: list[Tensor] = field(default_factory=list)
    route: Route | None = None
    written: bool = False
    once: bool = False
    _kept: list[weakref.ref["AppliedRule | SavedTensor"]] = field(default_factory=list)
    _written: list[weakref.ref[Tensor]] = field(default_factory=list)
    _sources_met: int = 0

    def recorded(self, function: Callable[..., Any], arguments: Sequence[Tensor] = ()) -> RecordedCall:
        """Return the call of the run at the baseline that is paired with the next call at the input.

        Args:
            function: the function that is called at the input.
            arguments: its arguments that depend on the input.

        Raises:
            UnsupportedOperationError: the run at the baseline called another function, or its arguments were
                modified later outside of torch functions.
        """
        if not self.calls:
            raise _differs(f"at the input it calls {display_name(function)} once more")
        call = self.calls.popleft()
        if call.function != function:
            names = display_name(call.function), display_name(function)
            raise _differs(f"it calls {names[0]} there, and {names[1]} at the input")
        if [tensor.shape for tensor in call.arguments] != [tensor.shape for tensor in arguments]:
            raise _differs(f"{display_name(function)} is called with other shapes")
        if [tensor._version for tensor in call.arguments] != call.versions:
            raise _changed_later(display_name(function))
        return call

    def next_source(self) -> Source:
        """Return the source of the run at the baseline that is paired with the next source at the input.

        Raises:
            UnsupportedOperationError: the run at the baseline has fewer sources.
        """
        if self._sources_met >= len(self.sources):
            raise _differs("it looks up fewer inputs there")
        self._sources_met += 1
        return self.sources[self._sources_met - 1]

    def check_finished(self) -> None:
        """Check, after the run at the input, that all calls and sources were paired.

        Raises:
            UnsupportedOperationError: the run at the baseline has more.
        """
        if self.calls:
            raise _differs(f"at the input it never calls {display_name(self.calls[0].function)}")
        if self._sources_met < len(self.sources):
            raise _differs("it looks up more inputs there")

    def keep(self, kept: "AppliedRule | SavedTensor") -> None:
        """Protect tensors of a backward pass from in-place writes of the model."""
        self._kept.append(weakref.ref(kept))

    def save(self, tensor: Tensor) -> "SavedTensor":
        """Save a tensor for torch's own backward pass; the hook of `torch.autograd.graph`."""
        with torch._C.DisableTorchFunction():
            saved = SavedTensor(tensor.detach(), tensor._version)
        self.keep(saved)
        return saved

    def protect(self, target: Tensor) -> None:
        """Copy all kept values that share memory with `target`, which is about to be overwritten."""
        self.written = True
        self._written.append(weakref.ref(target if target._base is None else target._base))
        self._protect({target.untyped_storage().data_ptr()})

    def protect_written(self) -> None:
        """Copy all kept values in memory that was written to, because the next run may write there again."""
        written = [target for reference in self._written if (target := reference()) is not None]
        self._protect({target.untyped_storage().data_ptr() for target in written})

    def _protect(self, memory: set[int]) -> None:
        for call in self.calls:
            call.arguments, before = [_copy_if_in(it, memory) for it in call.arguments], call.arguments
            call.outputs = [_copy_if_in(it, memory) for it in call.outputs]
            call.versions = [
                version if new is old else new._version
                for new, old, version in zip(call.arguments, before, call.versions, strict=True)
            ]
        self._kept = [reference for reference in self._kept if reference() is not None]
        for reference in self._kept:
            if (kept := reference()) is not None:
                kept.protect(memory)

    def measure(self, tensor: Tensor) -> None:
        """If rounding is measured, have backward passes collect the weight of a tensor's rounding error."""
        if not (self.measured and tensor.requires_grad):
            return
        # A hook of the tensor, not of its node, would move to the result of an in-place write.
        saved, (node, output_index, *_) = self.save(tensor), get_gradient_edge(tensor)

        def collect(grads: Sequence[Tensor | None]) -> None:
            if (grad := grads[output_index]) is not None:
                value = saved.restore()
                self.rounding.append(_weight(grad, value, value))

        node.register_prehook(collect)

    def check_independent(self, tensor: Tensor) -> None:
        """Check that a tensor without a tag does not depend on the input.

        Raises:
            UnsupportedOperationError: its graph leads to a source.
        """
        leaves = {id(source.leaf) for source in self.sources}
        nodes = list(_nodes(tensor))
        if any(id(getattr(node, "variable", None)) in leaves for node in nodes):
            raise not_intercepted(
                next((function for node in nodes if (function := own_function(node))), None)
            )


class Snapshot(NamedTuple):
    """A tensor of a run at the time a hook saw it, unaffected by later in-place writes.

    Attributes:
        value: a copy.
        edge: its edge in the graph; None without a graph.
    """

    value: Tensor
    edge: GradientEdge | None

    @classmethod
    def of(cls, tensor: Tensor) -> "Snapshot":
        """Return a snapshot of a tensor."""
        with torch._C.DisableTorchFunction():
            edge = get_gradient_edge(tensor) if tensor.requires_grad else None
            return cls(tensor.detach().clone(), edge)


@dataclass(eq=False)
class SavedTensor:
    """A tensor that torch saves for the backward pass of a linear function.

    Attributes:
        value: the tensor.
        version: at the time of the call; None once `value` is a copy.
    """

    value: Tensor
    version: int | None

    def protect(self, memory: set[int]) -> None:
        """Copy the tensor if it lies in `memory`, which is about to be overwritten."""
        if _lies_in(self.value, memory):
            self.value, self.version = self.value.clone(), None

    def restore(self) -> Tensor:
        """Return the tensor as it was when it was saved.

        Raises:
            UnsupportedOperationError: it was modified later outside of torch functions.
        """
        if self.version not in (None, self.value._version):
            raise _changed_later("a function")
        return self.value


@dataclass(eq=False)
class AppliedRule:
    """A call of the run at the input, with the backward pass of its rule.

    Attributes:
        function: the torch function.
        pairs: its arguments that depend on the input, in order.
        constants: its other tensors, as aliases that only the rule holds, each with its version at the time
            of the call, or None once it is a copy.
        backward: returns the multipliers of the pairs from the multipliers of the outputs.
        trace: the trace that collects rounding errors; None if rounding is not measured.
        once: whether the backward pass may free the call.
    """

    function: Callable[..., Any]
    pairs: list[Pair]
    constants: list[tuple[Tensor, int | None]]
    backward: Backward
    trace: Trace | None = None
    once: bool = False

    @classmethod
    def of(cls, rule: Rule, call: Call, trace: Trace) -> "AppliedRule":
        """Apply a rule to a call.

        Args:
            rule: the rule.
            call: the call, with both runs.
            trace: the trace of the comparison.

        Raises:
            UnsupportedOperationError: the rule does not support these arguments.
        """
        constants: list[tuple[Tensor, int | None]] = []

        def constant(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            # An alias, because the model may write to a tensor, or exchange the data of a parameter.
            alias = trace.written or leaf.requires_grad
            constants.append((leaf.detach() if alias else leaf, leaf._version))
            return constants[-1][0]

        args, kwargs = replaced((call.args, dict(call.kwargs)), constant)
        try:
            with torch.no_grad():
                backward = rule(replace(call, args=args, kwargs=kwargs))
        except ValueError as error:
            raise UnsupportedOperationError(
                f"{display_name(call.function)} has no rule for exact differences here: {error}"
            ) from None
        made = cls(
            call.function, call.pairs, constants, backward, trace if trace.measured else None, trace.once
        )
        trace.keep(made)
        return made

    def protect(self, memory: set[int]) -> None:
        """Copy the tensors that lie in `memory`, which is about to be overwritten."""
        for pair in self.pairs:
            pair.value, pair.base = _copy_if_in(pair.value, memory), _copy_if_in(pair.base, memory)
        for index, (constant, _) in enumerate(self.constants):
            if _lies_in(constant, memory):
                # The rule holds this tensor object, so it gets new memory.
                constant.data = constant.clone()
                self.constants[index] = constant, None

    def multipliers(self, *grads: Tensor) -> list[Tensor | None]:
        """Return the multipliers of the pairs for multipliers of the outputs.

        Raises:
            UnsupportedOperationError: a constant was modified later outside of torch functions.
        """
        if any(version not in (None, tensor._version) for tensor, version in self.constants):
            raise _changed_later(display_name(self.function))
        made: dict[int, Tensor] = {}
        for pair, multiplier in self.backward(*grads):
            made[id(pair)] = made[id(pair)] + multiplier if id(pair) in made else multiplier
        if self.trace is not None:
            for pair in self.pairs:
                if id(pair) in made:
                    self.trace.rounding.append(_weight(made[id(pair)], pair.value, pair.base))
        return [made.get(id(pair)) for pair in self.pairs]


class Node(torch.autograd.Function):
    """A call with a rule, as a node of the graph whose backward pass gives multipliers."""

    @staticmethod
    def forward(ctx: Any, applied: AppliedRule, outputs: tuple[Tensor, ...], *dependents: Tensor) -> Any:
        """Return the outputs as results of the dependents."""
        ctx.applied = applied
        ctx.set_materialize_grads(False)
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the multipliers of the dependents."""
        applied: AppliedRule = ctx.applied
        if applied.once:
            del ctx.applied
        if all(it is None for it in grads):  # the outputs only reach constants
            return None, None, *(None for _ in applied.pairs)
        return None, None, *applied.multipliers(*grads)


def connected(
    applied: AppliedRule, outputs: tuple[Tensor, ...], dependents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the outputs of a call, connected to its dependents in the graph."""
    with torch.enable_grad():
        made: Any = Node.apply(applied, outputs, *dependents)  # type: ignore[no-untyped-call]
    return made if len(outputs) > 1 else (made,)


def own_function(node: Any) -> type | None:
    """Return the custom autograd function that made a node of the graph, if it is not :class:`Node`."""
    function: type | None = getattr(node, "_forward_cls", None)
    return None if function is Node else function


def not_intercepted(function: type | None) -> UnsupportedOperationError:
    """Return the error for values that change outside of torch functions.

    Args:
        function: the autograd function that changes them; None if it is unknown.
    """
    if function is not None and function.__name__ == "BackwardHookFunction":
        return UnsupportedOperationError(
            "A module has a full backward hook, which cannot be intercepted and may change multipliers: "
            "remove the hook, handle.remove(), before explaining the model."
        )
    what = "Something" if function is None else f"The autograd function {function.__name__}"
    return UnsupportedOperationError(
        f"{what} changes values that depend on the input, and cannot be intercepted, like scripted functions "
        "and autograd functions that do not call torch functions. Use torch functions instead, and turn off "
        "gradient checkpointing."
    )


def _differs(what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"forward_func runs other operations at the baseline than at the input: {what}. Exact differences "
        "need the same operations in both runs."
    )


def _changed_later(function: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"An argument of {function} was later modified in place outside of torch functions, but exact "
        "differences need its original value."
    )


def _weight(multiplier: Tensor, *values: Tensor) -> Tensor:
    """Return sum |m| |y| over values; nansum, because masked scores may be infinite, with m = 0."""
    return torch.stack([(multiplier * value).abs().nansum() for value in values]).sum()


def _lies_in(value: Any, memory: set[int]) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in memory


def _copy_if_in(value: Any, memory: set[int]) -> Any:
    """Return a copy of a tensor that lies in `memory`, and any other value unchanged."""
    return value.detach().clone() if _lies_in(value, memory) else value


def _nodes(tensor: Tensor) -> Iterator[Any]:
    """Iterate over the graph of a tensor."""
    waiting, seen = [tensor.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]
