"""What the run at the input leaves for the run at the baseline, and the node of a call in the graph."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, Rule, leaves, replaced
from captum_globenc.differences.ids import Positions
from captum_globenc.differences.names import spelt
from captum_globenc.differences.refusal import NotComparableError

__all__ = ["Course", "Entry", "Ledger", "Node", "Slot", "Source", "joined", "unseen"]


@dataclass
class Source:
    """Numbers that the input becomes: itself, or what was looked up of it.

    Attributes:
        leaf: at the input, a leaf of the graph.
        base: at the baseline, once that has run.
        looked_up: whether it was looked up by ids; others are inputs that are floats themselves.
        positions: which ids each element of a look-up's index comes from; None where nothing was looked up.
    """

    leaf: Tensor
    base: Tensor | None = None
    looked_up: bool = False
    positions: Positions | None = None

    @property
    def places(self) -> Tensor | None:
        """The position of each element of a look-up's index among all ids; see :mod:`.ids` for others."""
        return None if self.positions is None else self.positions.values


@dataclass(eq=False)
class Slot:
    """The place of an argument that depends on the input, with its value at the input."""

    value: Tensor
    version: int

    def keep(self, target: Tensor) -> None:
        """Hold the value as it is, when `target` is about to be written into."""
        self.value = _kept(self.value, target)
        self.version = self.value._version


@dataclass
class Entry:
    """A call in the run at the input, until the run at the baseline has come by."""

    function: Callable[..., Any]
    rule: Rule | None = None  # None for a decision
    args: Any = ()
    kwargs: Any = None
    outputs: Any = None
    backward: Backward | None = None
    pairs: list[Pair] = field(default_factory=list)

    @property
    def slots(self) -> list[Slot]:
        """The arguments that depend on the input, in order."""
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Slot)]

    def keep(self, target: Tensor) -> None:
        """Hold arguments and outputs as they are, when `target` is about to be written into."""
        for slot in self.slots:
            slot.keep(target)
        self.outputs = tuple(_kept(output, target) for output in self.outputs)

    def close(self, dependents: list[Tensor], outputs: tuple[Tensor, ...]) -> None:
        """Let the rule see both runs of the call, and keep nothing but what it needs.

        Args:
            dependents: the arguments at the baseline, in order.
            outputs: what came of them.

        Raises:
            NotComparableError: the rule does not hold for such arguments, or they are not as they were.
        """
        assert self.rule is not None
        if any(slot.value._version != slot.version for slot in self.slots):
            raise NotComparableError(
                f"what {spelt(self.function)} was given was changed in place later: exact differences need "
                "it as it was"
            )
        of = {id(slot): Pair(slot.value, tensor) for slot, tensor in zip(self.slots, dependents, strict=True)}
        self.pairs = list(of.values())
        args, kwargs = replaced((self.args, self.kwargs), lambda leaf: of.get(id(leaf), leaf))
        paired = tuple(Pair(*both) for both in zip(self.outputs, outputs, strict=True))
        with torch.no_grad():
            try:
                self.backward = self.rule(Call(self.function, args, kwargs, paired))
            except ValueError as error:
                raise NotComparableError(
                    f"{spelt(self.function)} has no rule for exact differences here: {error}"
                ) from None
        self.args = self.kwargs = self.outputs = None


@dataclass
class Ledger:
    """What both runs share.

    Attributes:
        entries: calls that have a rule, and decisions, in order.
        sources: in order.
        functions: every function that was met with a value that depends on the input.
        lowest: the dtype of the lowest precision that was computed in.
        autocast: whether autocast was on, which is off for what depends on the input.
    """

    entries: list[Entry] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    functions: set[Callable[..., Any]] = field(default_factory=set)
    lowest: torch.dtype = torch.float64
    autocast: bool = False

    def keep(self, target: Tensor) -> None:
        """Keep what calls were given and returned as it was, when `target` is about to be written into."""
        for entry in self.entries:
            if entry.rule is not None:
                entry.keep(target)

    def check_unseen(self, tensor: Tensor) -> None:
        """Check that a tensor that is not known to depend on the input does not.

        Raises:
            NotComparableError: its graph leads to a source.
        """
        leaves = {id(source.leaf) for source in self.sources}
        if any(id(getattr(node, "variable", None)) in leaves for node in _nodes(tensor)):
            raise unseen("something")


def unseen(what: str) -> NotComparableError:
    """Return the error that tells of what is not done by functions of torch.

    Args:
        what: its name.
    """
    return NotComparableError(
        f"{what} acts on what depends on the input and cannot be seen, as a scripted function or an autograd "
        "function of one's own does: write it in functions of torch, and leave checkpointing out."
    )


class Course:
    """How far the run at the baseline has come along that at the input.

    Args:
        ledger: of both.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._entries = self._sources = 0

    def entry(self, function: Callable[..., Any], dependents: Sequence[Tensor] | None = None) -> Entry:
        """Return the next call.

        Args:
            function: what is called now.
            dependents: its arguments that depend on the input; None where that is no matter.

        Raises:
            NotComparableError: it was of another function, or on arguments of other shapes.
        """
        if self._entries >= len(self._ledger.entries):
            raise _differs(f"it called {spelt(function)} once more")
        entry = self._ledger.entries[self._entries]
        self._entries += 1
        if entry.function != function:
            raise _differs(f"it called {spelt(function)} instead of {spelt(entry.function)}")
        shapes = [slot.value.shape for slot in entry.slots]
        if dependents is not None and shapes != [tensor.shape for tensor in dependents]:
            raise _differs(f"{spelt(function)} was called with other shapes")
        return entry

    def source(self, value: Tensor, positions: Positions | None) -> None:
        """Take the next source at the baseline.

        Args:
            value: what it is there.
            positions: of the ids that it was looked up by.

        Raises:
            NotComparableError: there are no more.
        """
        if self._sources >= len(self._ledger.sources):
            raise _differs("it looked up more of the inputs")
        source = self._ledger.sources[self._sources]
        self._sources += 1
        source.base = value
        if source.positions is not None and positions is not None:
            source.positions = source.positions.agreed(positions)

    def finished(self) -> None:
        """Check, at the end, that nothing is left of the run at the input.

        Raises:
            NotComparableError: something is.
        """
        if self._entries < len(self._ledger.entries):
            raise _differs(f"it never called {spelt(self._ledger.entries[self._entries].function)}")
        if self._sources < len(self._ledger.sources):
            raise _differs("it looked up less of the inputs")


def _differs(what: str) -> NotComparableError:
    return NotComparableError(
        f"forward_func did something else at the baseline than at the input: {what}. Exact differences "
        "need the same operations in both runs."
    )


def _kept(tensor: Tensor, target: Tensor) -> Tensor:
    """Return a tensor that does not share the memory of `target`."""
    one, other = (it.untyped_storage().data_ptr() for it in (tensor, target))
    return tensor.clone() if one == other else tensor


def _nodes(tensor: Tensor) -> Iterator[Any]:
    """Walk through the graph that a tensor comes of."""
    waiting, seen = [tensor.grad_fn], set[Any]()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [before for before, _ in node.next_functions]


class Node(torch.autograd.Function):
    """A call in the graph; its backward pass is known once the baseline has run."""

    @staticmethod
    def forward(ctx: Any, entry: Entry, outputs: tuple[Tensor, ...], *dependents: Tensor) -> Any:
        """Return the outputs as what the dependents became."""
        ctx.entry = entry
        return outputs if len(outputs) > 1 else outputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the multipliers of the dependents."""
        entry: Entry = ctx.entry
        if entry.backward is None:
            raise RuntimeError("multipliers are known once the function has run at the baseline as well")
        made: dict[int, Tensor] = {}
        for pair, multiplier in entry.backward(*grads):
            made[id(pair)] = made[id(pair)] + multiplier if id(pair) in made else multiplier
        return None, None, *(made.get(id(pair)) for pair in entry.pairs)


def joined(entry: Entry, outputs: tuple[Tensor, ...], dependents: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the outputs of a call, as what a graph of multipliers makes of its arguments."""
    with torch.enable_grad():
        made: Any = Node.apply(entry, outputs, *dependents)  # type: ignore[no-untyped-call]
    return made if len(outputs) > 1 else (made,)
