"""A call of a torch function in both runs, at the input and at the baseline, and the form of its rule."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor


@dataclass(eq=False)
class Pair:
    """A value that depends on the input, in both runs.

    Backward passes read `value` and `base` only when they run, because these are replaced by copies if the
    model writes to the tensors in place.

    Attributes:
        value: the value at the input.
        base: the value at the baseline, of the same shape.
    """

    value: Tensor
    base: Tensor

    @property
    def mean(self) -> Tensor:
        """The average of the two, a new tensor."""
        return torch.lerp(self.value, self.base, 0.5)

    @property
    def difference(self) -> Tensor:
        """The value minus that at the baseline."""
        return self.value - self.base


def averages(*pairs: Pair) -> Sequence[Tensor]:
    """Return the average of each pair, with one kernel on a GPU."""
    return torch._foreach_lerp([it.value for it in pairs], [it.base for it in pairs], 0.5)


@dataclass(frozen=True, eq=False)
class Call:
    """A call with a :class:`Pair` in place of each argument that depends on the input.

    Attributes:
        function: the torch function.
        args: positional arguments.
        kwargs: keyword arguments.
        outputs: a pair for each floating-point output, in order; or for each tensor that the rule's own run
            of the function keeps, see :class:`bound`.
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
            ValueError: several arguments depend on the input.
        """
        if len(self.pairs) != 1:
            raise ValueError("more than one of its arguments depends on the input")
        return self.pairs[0]


Backward = Callable[..., Sequence[tuple[Pair, Tensor]]]
"""Turns multipliers of each output into multipliers of the pairs, which are summed for equal pairs."""

Rule = Callable[[Call], Backward]
"""Returns the backward pass of a call. Multipliers times differences must sum to the output's difference."""

NESTED = (tuple, list, dict)

CONSTANT = "constant"
"""The rule of functions whose output is treated as constant."""

LINEAR = "linear"
"""The rule of functions that are linear in all arguments that depend on the input: their gradient."""

QUADRATIC = "quadratic"
"""The rule of functions that are linear in each such argument: their gradient at the mean of both runs."""


class bound:  # noqa: N801
    """Turn a function with an output pair and the torch function's parameters into a rule.

    Python's signature then handles positional and keyword arguments.

    Args:
        rule: the function.
        run: computes the torch function, and returns its output and a tuple of tensors to keep. The first
            argument of the rule is then a pair for each of these, instead of the output.
    """

    def __init__(
        self, rule: Callable[..., Backward], run: Callable[..., tuple[Any, tuple[Tensor, ...]]] | None = None
    ) -> None:
        self._rule = rule
        self._signature = inspect.signature(rule)
        self.run = run

    def __call__(self, call: Call) -> Backward:
        """Return the backward pass of a call."""
        first = call.outputs[0] if self.run is None else call.outputs
        given = self._signature.bind(first, *call.args, **call.kwargs)
        for name, argument in given.arguments.items():
            kind = self._signature.parameters[name].annotation
            if isinstance(argument, Pair) and Pair not in (kind, *get_args(kind)):
                raise ValueError(f"its {name} depends on the input")
        return self._rule(*given.args, **given.kwargs)


def leaves(tree: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dictionaries, in order."""
    if not isinstance(tree, NESTED):
        return [tree]
    found = []
    for item in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(item, NESTED):
            found += leaves(item)
        else:
            found.append(item)
    return found


def replaced(tree: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested lists, tuples and dictionaries with each leaf replaced by `change(leaf)`."""
    if isinstance(tree, dict):
        return {key: replaced(item, change) for key, item in tree.items()}
    if not isinstance(tree, NESTED):
        return change(tree)
    items = [replaced(item, change) if isinstance(item, NESTED) else change(item) for item in tree]
    if isinstance(tree, list):
        return items
    return type(tree)(items) if type(tree).__module__ == "torch.return_types" else tuple(items)


def plain(tensor: Tensor) -> Tensor:
    """Return a tensor of a subclass that only adds methods or attributes as a plain tensor.

    Torch makes views of all results of such a subclass, and models must not write to these in place.
    """
    adds_only = type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__
    return tensor.as_subclass(Tensor) if adds_only and type(tensor) is not Tensor else tensor


def copied(tree: Any) -> Any:
    """Return nested lists, tuples and dictionaries with plain copies of their tensors, without a graph."""
    return replaced(tree, lambda leaf: plain(leaf.detach()).clone() if isinstance(leaf, Tensor) else leaf)


def differentiable(leaf: Any) -> Any:
    """Return a tensor that autograd can use; tensors made in inference mode are copied."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def no_view(leaf: Any) -> Any:
    """Return a tensor that is not a view; autograd forbids in-place writes to views that a node returns."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf._is_view() else leaf
