"""What the run at the input leaves for the run at the baseline, and the node of a call in the graph."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair, Rule, leaves, replaced
from captum_globenc.differences.names import spelt
from captum_globenc.differences.refusal import NotComparableError

__all__ = ["Entry", "Index", "Ledger", "Node", "Slot", "Source"]


@dataclass
class Source:
    """Numbers that the input becomes: itself, or what was looked up of it.

    Attributes:
        leaf: at the input, a leaf of the graph.
        base: at the baseline, once that has run.
        number: of the ids that it was looked up by, None for inputs that are floats themselves.
        places: where in the ids each look-up's index comes from, counted over all of them; None where
            that is not known.
    """

    leaf: Tensor
    base: Tensor | None = None
    number: int | None = None
    places: Tensor | None = None


class Index(NamedTuple):
    """That a tensor is made of the ids of an input, and where in them its elements come from."""

    token: object
    number: int
    places: Tensor | None


@dataclass(frozen=True, eq=False)
class Slot:
    """The place of an argument that depends on the input, with its value at the input."""

    value: Tensor
    version: int


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
    """

    entries: list[Entry] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    functions: set[Callable[..., Any]] = field(default_factory=set)
    lowest: torch.dtype = torch.float64


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
