"""The trace of a comparison: what the run at the baseline records and the run at the input is paired with."""

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
from captum_globenc.differences.op_sets import spelt
from captum_globenc.errors import UnsupportedOperationError


@dataclass
class Source:
    """A tensor of floats that the function reads: an input itself, or embeddings looked up by ids.

    Attributes:
        base: its value at the baseline; None in a single run.
        leaf: its value at the input, a leaf of the graph; before that run, its value at the baseline.
        looked_up: whether it was looked up by ids.
        positions: which ids each element of a look-up's index comes from; None where nothing was looked up.
    """

    base: Tensor | None
    leaf: Tensor
    looked_up: bool = False
    positions: Positions | None = None

    @property
    def places(self) -> Tensor | None:
        """The position of each element of a look-up's index among all ids; see :mod:`.ids` for others."""
        return None if self.positions is None else self.positions.values

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
        arguments: those that depend on the input, in order; empty for a decision.
        outputs: the floats that it returned; for a decision, all that it returned.
        indices: the integers that it returned beside the floats.
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
        decisions: what each decision returned, in order.
        met: how many of them the run that follows has met; None for the run that decides.
        differing: of a run that follows, the number of elements that it would have decided otherwise.
        total: the number of elements that it decided.
    """

    decisions: list[Any] = field(default_factory=list)
    met: int | None = None
    differing: int = 0
    total: int = 0

    def decided(self, output: Any) -> Any:
        """Return what the run that decides returned in the place of `output`."""
        if self.met is None:
            self.decisions.append(output)
            return output
        if self.met >= len(self.decisions):
            raise _differs("it decides more often there")
        followed = self.decisions[self.met]
        self.met += 1
        for own, other in zip(leaves(output), leaves(followed), strict=True):
            if isinstance(own, Tensor):
                if own.shape != other.shape:
                    raise _differs("it decides about other shapes there")
                self.total += own.numel()
                self.differing += int((own != other).sum())
            else:
                self.total += 1
                self.differing += own != other
        return replaced(followed, lambda it: it.clone() if isinstance(it, Tensor) else it)


@dataclass
class Trace:
    """What both runs of a comparison share. The run at the baseline comes first.

    Attributes:
        calls: of the run at the baseline, those first that the run at the input has not met yet.
        sources: in order.
        operations: every function that was called with a value that depends on the input, with the types of
            its arguments.
        lowest: the dtype of the lowest precision that was computed in.
        rounded: lower precisions that the model asks for, and that the comparison does not compute in.
        measured: whether rounding is measured.
        rounding: where it is measured, what a backward pass notes: how much the rounding of each tensor, and
            of the arguments of each call, weighs.
        written: whether the run at the baseline wrote into tensors; only then constants are protected, too.
        route: how the run at the baseline followed decisions; None where it decided by itself.
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
    _kept: list[weakref.ref["AppliedRule | SavedTensor"]] = field(default_factory=list)
    _written: list[weakref.ref[Tensor]] = field(default_factory=list)
    _sources_met: int = 0

    def recorded(self, function: Callable[..., Any], arguments: Sequence[Tensor] = ()) -> RecordedCall:
        """Return the call of the run at the baseline that belongs to the next one at the input.

        Args:
            function: the function that is called at the input.
            arguments: its arguments that depend on the input.

        Raises:
            UnsupportedOperationError: the run at the baseline called something else, or its arguments were
                written into since by something that is not a torch function.
        """
        if not self.calls:
            raise _differs(f"at the input it calls {spelt(function)} once more")
        call = self.calls.popleft()
        if call.function != function:
            raise _differs(f"it calls {spelt(call.function)} there, and {spelt(function)} at the input")
        if [tensor.shape for tensor in call.arguments] != [tensor.shape for tensor in arguments]:
            raise _differs(f"{spelt(function)} is called with other shapes")
        if [tensor._version for tensor in call.arguments] != call.versions:
            raise _changed_later(spelt(function))
        return call

    def next_source(self) -> Source:
        """Return the source of the run at the baseline that belongs to the next one at the input.

        Raises:
            UnsupportedOperationError: there are no more.
        """
        if self._sources_met >= len(self.sources):
            raise _differs("it looks up fewer inputs there")
        self._sources_met += 1
        return self.sources[self._sources_met - 1]

    def check_finished(self) -> None:
        """Check, after the run at the input, that it did all that the run at the baseline did.

        Raises:
            UnsupportedOperationError: it did not.
        """
        if self.calls:
            raise _differs(f"at the input it never calls {spelt(self.calls[0].function)}")
        if self._sources_met < len(self.sources):
            raise _differs("it looks up more inputs there")

    def keep(self, kept: "AppliedRule | SavedTensor") -> None:
        """Protect the tensors that a backward pass reads from in-place writes of the model."""
        self._kept.append(weakref.ref(kept))

    def save(self, tensor: Tensor) -> "SavedTensor":
        """Save a tensor for torch's own backward pass; the hook of `torch.autograd.graph`."""
        with torch._C.DisableTorchFunction():
            saved = SavedTensor(tensor.detach(), tensor._version)
        self.keep(saved)
        return saved

    def protect(self, target: Tensor) -> None:
        """Copy all kept values that share memory with `target`, which is about to be written into."""
        self.written = True
        self._written.append(weakref.ref(target if target._base is None else target._base))
        self._protect({target.untyped_storage().data_ptr()})

    def protect_written(self) -> None:
        """Copy all kept values in memory that was written into: the next run may write there again."""
        written = [target for reference in self._written if (target := reference()) is not None]
        self._protect({target.untyped_storage().data_ptr() for target in written})

    def _protect(self, memory: set[int]) -> None:
        for call in self.calls:
            call.arguments, before = [_apart(it, memory) for it in call.arguments], call.arguments
            call.outputs = [_apart(it, memory) for it in call.outputs]
            call.versions = [
                version if new is old else new._version
                for new, old, version in zip(call.arguments, before, call.versions, strict=True)
            ]
        self._kept = [reference for reference in self._kept if reference() is not None]
        for reference in self._kept:
            if (kept := reference()) is not None:
                kept.protect(memory)

    def measure(self, tensor: Tensor) -> None:
        """Have every backward pass note how much rounding of a tensor weighs, if rounding is measured."""
        if not (self.measured and tensor.requires_grad):
            return
        # Hooks of the tensor would move along where it is written into.
        saved, (node, place, *_) = self.save(tensor), get_gradient_edge(tensor)

        def note(grads: Sequence[Tensor | None]) -> None:
            if (grad := grads[place]) is not None:
                value = saved.restore()
                self.rounding.append(_weight(grad, value, value))

        node.register_prehook(note)

    def check_unseen(self, tensor: Tensor) -> None:
        """Check that a tensor that is not known to depend on the input does not.

        Raises:
            UnsupportedOperationError: its graph leads to a source.
        """
        leaves = {id(source.leaf) for source in self.sources}
        nodes = list(_nodes(tensor))
        if any(id(getattr(node, "variable", None)) in leaves for node in nodes):
            raise unseen(next((function for node in nodes if (function := own_function(node))), None))


class Snapshot(NamedTuple):
    """A tensor of a run as it was when a hook saw it, whatever is written into it later.

    Attributes:
        value: a copy.
        edge: its place in the graph; None where it has none.
    """

    value: Tensor
    edge: GradientEdge | None

    @classmethod
    def of(cls, tensor: Tensor) -> "Snapshot":
        """Return the tensor as it is now."""
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
        """Copy the tensor if it lies in `memory`, which is about to be written into."""
        if _lies_in(self.value, memory):
            self.value, self.version = self.value.clone(), None

    def restore(self) -> Tensor:
        """Return the tensor as it was.

        Raises:
            UnsupportedOperationError: something that is not a torch function wrote into it later.
        """
        if self.version not in (None, self.value._version):
            raise _changed_later("a function")
        return self.value


@dataclass(eq=False)
class AppliedRule:
    """A call of the run at the input, with the backward pass that its rule made of both runs.

    Attributes:
        function: the torch function.
        pairs: its arguments that depend on the input, in order.
        constants: its other tensors, as aliases that only the rule has, each with its version at the time of
            the call, or None once it is a copy.
        backward: from the multipliers of its outputs to those of the pairs.
        trace: where rounding is measured, the trace that takes it.
    """

    function: Callable[..., Any]
    pairs: list[Pair]
    constants: list[tuple[Tensor, int | None]]
    backward: Backward
    trace: Trace | None = None

    @classmethod
    def of(cls, rule: Rule, call: Call, trace: Trace) -> "AppliedRule":
        """Apply a rule to a call.

        Args:
            rule: the rule.
            call: the call, with both runs.
            trace: of the comparison.

        Raises:
            UnsupportedOperationError: the rule does not hold for these arguments.
        """
        constants: list[tuple[Tensor, int | None]] = []

        def constant(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            constants.append((leaf.detach() if trace.written else leaf, leaf._version))
            return constants[-1][0]

        args, kwargs = replaced((call.args, dict(call.kwargs)), constant)
        try:
            with torch.no_grad():
                backward = rule(replace(call, args=args, kwargs=kwargs))
        except ValueError as error:
            raise UnsupportedOperationError(
                f"{spelt(call.function)} has no rule for exact differences here: {error}"
            ) from None
        made = cls(call.function, call.pairs, constants, backward, trace if trace.measured else None)
        trace.keep(made)
        return made

    def protect(self, memory: set[int]) -> None:
        """Copy what lies in `memory`, which is about to be written into."""
        for pair in self.pairs:
            pair.value, pair.base = _apart(pair.value, memory), _apart(pair.base, memory)
        for place, (constant, _) in enumerate(self.constants):
            if _lies_in(constant, memory):
                # The rule holds this very tensor: give it memory of its own.
                constant.data = constant.clone()
                self.constants[place] = constant, None

    def multipliers(self, *grads: Tensor) -> list[Tensor | None]:
        """Return the multipliers of the pairs for multipliers of the outputs.

        Raises:
            UnsupportedOperationError: something that is not a torch function wrote into a constant later.
        """
        if any(version not in (None, tensor._version) for tensor, version in self.constants):
            raise _changed_later(spelt(self.function))
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
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the multipliers of the dependents."""
        return None, None, *ctx.applied.multipliers(*grads)


def joined(
    applied: AppliedRule, outputs: tuple[Tensor, ...], dependents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the outputs of a call, connected to its dependents in the graph."""
    with torch.enable_grad():
        made: Any = Node.apply(applied, outputs, *dependents)  # type: ignore[no-untyped-call]
    return made if len(outputs) > 1 else (made,)


def own_function(node: Any) -> type | None:
    """Return the autograd function that a node of the graph was made by, other than :class:`Node`."""
    function: type | None = getattr(node, "_forward_cls", None)
    return None if function is Node else function


def unseen(function: type | None) -> UnsupportedOperationError:
    """Return the error about values that change outside of torch functions.

    Args:
        function: the autograd function that changes them; None where it is something else.
    """
    if function is not None and function.__name__ == "BackwardHookFunction":
        return UnsupportedOperationError(
            "A module has a full backward hook, which cannot be seen and may change multipliers: remove the "
            "hook, handle.remove(), before the model is explained."
        )
    what = "Something" if function is None else f"The autograd function {function.__name__}"
    return UnsupportedOperationError(
        f"{what} acts on what depends on the input and cannot be seen, as scripted functions, and autograd "
        "functions that do not compute with torch functions: write it in torch functions, and switch "
        "gradient checkpointing off."
    )


def _differs(what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"forward_func does something else at the baseline than at the input: {what}. Exact differences "
        "need the same operations in both runs."
    )


def _changed_later(function: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(
        f"An argument of {function} was changed in place later, by something that is not a torch function: "
        "exact differences need it as it was."
    )


def _weight(multiplier: Tensor, *values: Tensor) -> Tensor:
    """Return sum |m| |y| over values; of a masked score, which may be infinite, m is 0."""
    return torch.stack([(multiplier * value).abs().nansum() for value in values]).sum()


def _lies_in(value: Any, memory: set[int]) -> bool:
    return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in memory


def _apart(value: Any, memory: set[int]) -> Any:
    """Return a copy of a tensor that lies in `memory`; anything else as it is."""
    return value.detach().clone() if _lies_in(value, memory) else value


def _nodes(tensor: Tensor) -> Iterator[Any]:
    """Walk through the graph that a tensor comes from."""
    waiting, seen = [tensor.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]
