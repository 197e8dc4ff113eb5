"""A call of a torch function in both runs, and what a rule makes of it.

The one run is at the input, the other at the baseline.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor


@dataclass(eq=False)
class Pair:
    """A value that depends on the input, in both runs.

    A backward pass reads `value` and `base` when it runs and keeps no tensors of its own: where the model
    writes into one of them in place later, a copy takes its place here.

    Attributes:
        value: at the input.
        base: at the baseline, of the same shape.
    """

    value: Tensor
    base: Tensor

    @property
    def mean(self) -> Tensor:
        """The average of the two."""
        return (self.value + self.base) / 2

    @property
    def difference(self) -> Tensor:
        """How much it differs from the baseline."""
        return self.value - self.base


@dataclass(frozen=True, eq=False)
class Call:
    """A call, with a :class:`Pair` in the place of each argument that depends on the input.

    Attributes:
        function: of torch.
        args: positional arguments.
        kwargs: arguments by keyword.
        outputs: what was returned, a pair for each tensor of floats, in order.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Pair, ...]

    @property
    def pairs(self) -> list[Pair]:
        """The arguments that depend on the input, in order."""
        return [leaf for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Pair)]

    @property
    def pair(self) -> Pair:
        """The one argument that depends on the input.

        Raises:
            ValueError: there are more.
        """
        if len(self.pairs) != 1:
            raise ValueError("more than one of its arguments depends on the input")
        return self.pairs[0]


Backward = Callable[..., Sequence[tuple[Pair, Tensor]]]
"""From the multipliers of each output to those of the pairs; one that comes several times gets their sum."""

Rule = Callable[[Call], Backward]
"""From a call to its backward pass: sum of multipliers times differences = difference of the output."""

NESTED = (tuple, list, dict)

CONSTANT = "constant"
"""The rule of functions whose result counts as if it did not depend on the input."""

LINEAR = "linear"
"""The rule of functions that are linear in all that depends on the input: their gradient."""

QUADRATIC = "quadratic"
"""The rule of those that are linear in each such argument alone: their gradient at the mean of both runs."""


def bound(rule: Callable[..., Backward]) -> Rule:
    """Make a rule of a function with the parameters of torch's own, after one for the output's pair.

    So positional and keyword forms are Python's to tell apart.
    """
    signature = inspect.signature(rule)

    def bind(call: Call) -> Backward:
        given = signature.bind(call.outputs[0], *call.args, **call.kwargs)
        for name, argument in given.arguments.items():
            kind = signature.parameters[name].annotation
            if isinstance(argument, Pair) and Pair not in (kind, *get_args(kind)):
                raise ValueError(f"its {name} depends on the input")
        return rule(*given.args, **given.kwargs)

    return bind


def leaves(tree: Any) -> Iterator[Any]:
    """Walk through what lists, tuples and mappings hold, in order."""
    if isinstance(tree, NESTED):
        for item in tree.values() if isinstance(tree, dict) else tree:
            if isinstance(item, NESTED):
                yield from leaves(item)
            else:
                yield item
    else:
        yield tree


def replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of nested lists, tuples and mappings with each thing in them changed."""
    if isinstance(tree, dict):
        return {key: replaced(item, change) for key, item in tree.items()}
    if not isinstance(tree, NESTED):
        return change(tree)
    items = [replaced(item, change) if isinstance(item, NESTED) else change(item) for item in tree]
    if isinstance(tree, list):
        return items
    return type(tree)(items) if type(tree).__module__ == "torch.return_types" else tuple(items)


def copied(tree: Any) -> Any:
    """Return nested lists, tuples and mappings with copies of their tensors, without a graph."""
    return replaced(tree, lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf)


def differentiable(leaf: Any) -> Any:
    """Return a tensor that can be computed with where gradients are: none that inference mode made."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def no_view(leaf: Any) -> Any:
    """Return a tensor that is no view: such cannot be written into once it has come out of a node."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf
