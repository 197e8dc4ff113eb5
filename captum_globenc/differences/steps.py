"""Comparisons as functions with a step, so that activations may be written with `torch.where` or masks.

The truth values of `u > w` are 0 and 1. Where they differ between the runs, the change of u - w gets their
difference. A value that they choose is the product of truth values and alternatives:

    where(c, a, b) - where(c0, a0, b0) = C (a - a0) + (1 - C) (b - b0) + (c - c0) (A - B)

with C, A and B the means of both runs. For functions of one number, all terms together are the secant. If the
other alternative is much larger than the chosen one, these terms cancel and leave rounding errors. There, the
whole difference is credited to the truth values.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_globenc.differences.call import Backward, Call, Pair
from captum_globenc.differences.op_sets import changes_in_place, display_name, functions


def _out_of_place(names: str) -> set[Callable[..., Any]]:
    return {function for function in functions(names) if not changes_in_place(function)}


WHERE = functions("where")
FILL = _out_of_place("masked_fill")
PRODUCTS = _out_of_place("mul multiply")
CASTS = functions("to type type_as double half bfloat16 long int short") | {Tensor.float}
NOT = _out_of_place("logical_not bitwise_not invert")
AND = _out_of_place("logical_and bitwise_and and")
OR = _out_of_place("logical_or bitwise_or or")


def _compared(comparison: Callable[..., Any]) -> Callable[[Any, Any], tuple[Tensor, Tensor]]:
    """Return a function of two numbers that returns the truth values, also as numbers."""

    def compared(one: Any, other: Any) -> tuple[Tensor, Tensor]:
        mask = comparison(one, other)
        like = one if isinstance(one, Tensor) and one.is_floating_point() else other
        return mask, mask.to(like.dtype)

    compared.__qualname__ = display_name(comparison)
    return compared


LARGER = 64
"""How much larger an alternative that is not chosen may be: rounding errors grow by as much."""

COMPARISONS = {
    function: _compared(function)
    for function in _out_of_place("gt ge lt le greater greater_equal less less_equal")
}
"""Comparisons by size, and the functions that return their truth values as numbers as well."""


def step(call: Call) -> Backward:
    """Credit the change of truth values to the difference of the compared numbers."""
    one, other = call.args
    change = _difference(one) - _difference(other)
    stepped = call.outputs[0].difference
    slope = torch.where(stepped == 0, 0, stepped / change)

    def backward(grad: Tensor) -> Any:
        sides = ((one, grad * slope), (other, -grad * slope))
        return [(it, made.sum_to_size(it.value.shape)) for it, made in sides if isinstance(it, Pair)]

    return backward


def chosen(truth: Tensor, one: Any, other: Any) -> Tensor:
    """Return one value where `truth` is 1, the other where it is 0."""
    return torch.where(truth.bool(), one, other)


def choose(call: Call) -> Backward:
    """Return the rule of :func:`chosen`; see the module's docstring."""
    truth, one, other = (it if isinstance(it, Pair) else _constant(it) for it in call.args)
    output, differs = call.outputs[0], truth.value != truth.base
    size = torch.maximum(output.value.abs(), output.base.abs())
    unchosen = [
        chosen(1 - side, a, b).abs() for side, a, b in zip(*map(_sides, (truth, one, other)), strict=True)
    ]
    comparable = torch.maximum(*unchosen) <= LARGER * size
    shared = ~differs | comparable
    shares = [torch.where(shared, it, 0) for it in (truth.mean, 1 - truth.mean)]
    jump = torch.where(comparable, one.mean - other.mean, output.difference * truth.difference)
    jump = torch.where(differs, jump, 0)
    if not bool(jump.isfinite().all()):
        raise ValueError(
            "a comparison chooses between values that are infinite or not a number, and chooses otherwise at "
            'the baseline than at the input: choose a closer baseline, or decisions="follow"'
        )

    def backward(grad: Tensor) -> Any:
        sides = zip((truth, one, other), (jump, *shares), strict=True)
        made = [(it, (grad * part).to(it.value.dtype).sum_to_size(it.value.shape)) for it, part in sides]
        return [(it, part) for it, part in made if it in call.pairs]

    return backward


def _sides(pair: Pair) -> tuple[Tensor, Tensor]:
    return pair.value, pair.base


def _difference(value: Any) -> Any:
    return value.difference if isinstance(value, Pair) else 0


def _constant(value: Any) -> Pair:
    tensor = torch.as_tensor(value)
    return Pair(tensor, tensor)
