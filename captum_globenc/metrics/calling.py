"""How metrics that remove tokens are called: Captum's arguments and the common options, said once.

Letters: B batch, K steps, N tokens.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType
from captum_globenc.metrics.curve import RemovalOptions, removable, removal_outputs
from captum_globenc.metrics.removal import Baseline, Forward, selected

COMMON = """\
        forward_func: as for :func:`removal_curve`, like all that is said of no metric in particular.
        inputs: likewise.
        attributions: likewise.
        baselines: likewise.
        additional_forward_args: likewise.
        target: likewise.
"""
"""What stands in the documentation of every metric ahead of its own arguments."""

OPTIONS = """\
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`.
"""


@dataclass(frozen=True)
class Removals:
    """What a metric was called with, and what becomes of the prediction as tokens go."""

    forward_func: Forward
    inputs: Tensor | tuple[Tensor]
    attributions: Tensor | tuple[Tensor]
    baselines: Baseline | tuple[Baseline]
    additional_forward_args: object | None
    target: TargetType
    options: RemovalOptions

    @property
    def removable(self) -> Tensor:
        """Which tokens may be removed, `(B, N)`."""
        return removable(self.inputs, self.options.get("mask"))

    def outputs(self, counts: Tensor, order: str = "most") -> tuple[Tensor, TargetType]:
        """Return what the model says, `(B, K + 1, ...)`, with `counts` `(B, K)` gone, and the target."""
        return removal_outputs(
            self.forward_func,
            self.inputs,
            self.attributions,
            counts,
            self.baselines,
            self.additional_forward_args,
            self.target,
            order=order,
            **self.options,
        )

    def curve(self, counts: Tensor, order: str = "most") -> Tensor:
        """Return the same at the target, `(B, K + 1)`."""
        return selected(*self.outputs(counts, order))


class RemovalMetric(Protocol):
    """A metric, as users call it."""

    def __call__(
        self,
        forward_func: Forward,
        inputs: Tensor | tuple[Tensor],
        attributions: Tensor | tuple[Tensor],
        baselines: Baseline | tuple[Baseline] = None,
        additional_forward_args: object | None = None,
        target: TargetType = None,
        **options: Any,
    ) -> Tensor:
        """Return one value for each example, `(B,)`, NaN where no token may be removed."""
        ...


def removal_metric(measure: Callable[..., Tensor]) -> RemovalMetric:
    """Make a metric that is called as Captum's are of a function of :class:`Removals`.

    Args:
        measure: takes the removals and, by keyword, arguments of its own; returns `(B,)`. Its
            documentation is the metric's, with what all have in common written into it.
    """
    own = list(inspect.signature(measure).parameters.values())[1:]

    @wraps(measure)
    def metric(
        forward_func: Forward,
        inputs: Tensor | tuple[Tensor],
        attributions: Tensor | tuple[Tensor],
        baselines: Baseline | tuple[Baseline] = None,
        additional_forward_args: object | None = None,
        target: TargetType = None,
        **options: Any,
    ) -> Tensor:
        particular = {each.name: options.pop(each.name) for each in own if each.name in options}
        unknown = sorted(options.keys() - RemovalOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"{measure.__name__}() got an unexpected keyword argument {unknown[0]!r}")
        common = cast(RemovalOptions, options)
        removals = Removals(
            forward_func, inputs, attributions, baselines, additional_forward_args, target, common
        )
        values = measure(removals, **particular)
        return values.where(removals.removable.any(dim=1), torch.nan)

    *common, options = inspect.signature(metric, follow_wrapped=False).parameters.values()
    vars(metric)["__signature__"] = inspect.Signature([*common, *own, options], return_annotation=Tensor)
    text = measure.__doc__ or ""  # None where Python runs with -OO
    before, args, after = text.partition("    Args:\n        removals: what was called.\n")
    particular, returns, rest = after.partition("\n    Returns:")
    metric.__doc__ = before + "    Args:\n" + COMMON + particular + OPTIONS + returns + rest if args else text
    return metric
