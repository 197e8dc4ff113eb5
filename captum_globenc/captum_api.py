"""The private functions of Captum that the package calls, typed: the one module that imports `captum._utils`.

Captum ships no types. Supported are captum 0.8 and 0.9; a new version is checked against this module.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from captum._utils import common
from torch import Tensor

__all__ = [
    "TargetType",
    "TensorOrTupleOfTensorsGeneric",
    "expand_target",
    "format_arguments",
    "format_inputs",
    "format_output",
    "run_forward",
    "select_targets",
    "sklearn_ridge",
]

TargetType = None | int | tuple[int, ...] | Tensor | list[tuple[int, ...]] | list[int]
"""The output to explain, as in Captum: one index for all examples, or one per example."""

TensorOrTupleOfTensorsGeneric = TypeVar("TensorOrTupleOfTensorsGeneric", Tensor, tuple[Tensor, ...])
"""A tensor, or a tuple of tensors; `attribute` returns the type that it is given."""


def run_forward(forward_func: Callable[..., Any], inputs: Any, arguments: object | None = None) -> Any:
    """Call a forward function on its inputs, a tensor or a tuple, and the additional arguments."""
    return common._run_forward(forward_func, inputs, None, arguments)


def select_targets(output: Tensor, target: TargetType) -> Tensor:
    """Return the outputs at `target`, `(B,)` for an output `(B, C)`; raises what Captum raises."""
    return cast(Tensor, common._select_targets(output, target))


def expand_target(target: TargetType, times: int) -> TargetType:
    """Return the targets of `times` copies of the batch, one copy after the other."""
    return cast(TargetType, common._expand_target(target, times))


def format_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs as a tuple of tensors."""
    return cast(tuple[Tensor, ...], common._format_tensor_into_tuples(inputs))


def format_output(inputs: Any, results: tuple[Tensor, ...]) -> Any:
    """Return results as inputs were given: a tuple for a tuple, else the one tensor."""
    return common._format_output(isinstance(inputs, tuple), results)


def format_arguments(arguments: object | None) -> tuple[Any, ...]:
    """Return `additional_forward_args` as a tuple, empty for None."""
    return common._format_additional_forward_args(arguments) or ()


def sklearn_ridge(alpha: float) -> Any:
    """Return Captum's wrapper of scikit-learn's ridge regression, for `Lime`. Needs scikit-learn."""
    from captum._utils.models.linear_model import SkLearnRidge

    return SkLearnRidge(alpha=alpha)
