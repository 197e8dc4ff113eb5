"""Removal curves: the prediction as tokens are removed in the order of their scores, and metrics of them.

B batch, K steps, N tokens, D embedding size, C classes.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol, TypedDict, cast

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType
from captum_globenc.metrics.removal import (
    Activation,
    Baseline,
    Forward,
    activated,
    outputs_without,
    selected,
)


class RemovalOptions(TypedDict, total=False):
    """Keyword arguments of all removal metrics; see :func:`removal_curve`."""

    mask: Tensor | None
    removal: str
    activation: str | Activation
    attention_mask: int
    max_examples_per_batch: int | None


def removal_curve(
    forward_func: Forward,
    inputs: Tensor | tuple[Tensor],
    attributions: Tensor | tuple[Tensor],
    counts: Tensor,
    baselines: Baseline | tuple[Baseline] = None,
    additional_forward_args: object | None = None,
    target: TargetType = None,
    *,
    order: str = "most",
    mask: Tensor | None = None,
    removal: str = "mask",
    activation: str | Activation = "softmax",
    attention_mask: int = 0,
    max_examples_per_batch: int | None = None,
) -> Tensor:
    """Return the probability of the target as tokens are removed.

    Args:
        forward_func: the forward function, as in Captum's metrics.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings, or a tuple of one of these.
        attributions: scores in the shape of `inputs`, or `(B, N)`; scores `(B, N, D)` are summed over D.
            Higher, with sign, is more important.
        counts: `(B, K)` integers, the number of tokens that each step removes; at most all are removed.
        baselines: replacement of removed tokens: a number, or a tensor that broadcasts to `inputs`.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.
        target: the index of the output, as in Captum. None for the class that `forward_func` predicts for the
            whole input, if it returns `(B, C)` with C > 1.
        order: "most" removes the highest scores first, "least" the lowest, "others" keeps the highest
            `counts` and removes all others. Of equal scores, the first token ranks higher.
        mask: `(B, N)`, True at the tokens that may be removed, such as all but special tokens and padding.
            None for all tokens.
        removal: "mask" replaces tokens by `baselines`, "delete" closes the gap, "pad" hides tokens from the
            attention; see :func:`~captum_globenc.metrics.removal.outputs_without`.
        activation: turns the output into probabilities: "softmax" for `(B, C)` with C > 1, "sigmoid" for
            several labels, "none", or any function. An output of one number per example, `(B,)` or `(B, 1)`,
            is not changed by "softmax".
        attention_mask: index of the attention mask in `additional_forward_args`; "delete" and "pad" need it.
        max_examples_per_batch: most texts that run at once; None for all B (K + 1).

    Returns:
        `(B, K + 1)`, probabilities; the first column is for the whole text.

    Raises:
        ValueError: shapes do not match, scores are not finite, or `order` or `removal` is unknown.
        AssertionError, IndexError: `target` has the wrong length or is out of range.

    Example:
        >>> ids = torch.tensor([[1, 5, 3]])
        >>> removal_curve(
        ...     lambda ids: ids.sum(1, keepdim=True).float(), ids, torch.tensor([[0.1, 0.7, 0.2]]),
        ...     counts=torch.tensor([[1, 2]]), baselines=0, activation=lambda output: output,
        ... )
        tensor([[9., 4., 1.]])
    """
    options: RemovalOptions = {
        "mask": mask,
        "removal": removal,
        "activation": activation,
        "attention_mask": attention_mask,
        "max_examples_per_batch": max_examples_per_batch,
    }
    removals = Removals(
        forward_func, inputs, attributions, baselines, additional_forward_args, target, options
    )
    return removals.curve(counts, order)


def fraction_counts(mask: Tensor, fractions: Sequence[float]) -> Tensor:
    """Return the number of tokens of each fraction, rounded up.

    Args:
        mask: `(B, N)`, True at the tokens to count.
        fractions: K numbers in (0, 1].

    Returns:
        `(B, K)`.

    Raises:
        ValueError: there are no fractions, or one is out of range.

    Example:
        >>> fraction_counts(torch.ones(1, 30).bool(), (0.01, 0.1, 0.5))
        tensor([[ 1,  3, 15]])
    """
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise ValueError(f"fractions are {tuple(fractions)}; pass at least one, each in (0, 1].")
    # Rounded first, because 0.07 * 100 is a little more than 7 in floating point.
    rows = [[math.ceil(round(f * int(n), 9)) for f in fractions] for n in mask.sum(dim=1)]
    return torch.tensor(rows, device=mask.device)


def removal_masks(scores: Tensor, mask: Tensor, counts: Tensor, order: str) -> Tensor:
    """Return the tokens that each step removes.

    Args:
        scores: `(B, N)`.
        mask: `(B, N)`, True at the tokens that may be removed.
        counts: `(B, K)`, the number of tokens that each step removes.
        order: "most", "least" or "others"; see :func:`removal_curve`.

    Returns:
        `(B, K, N)`, True at removed tokens.

    Raises:
        ValueError: `order` is unknown.
    """
    if order not in ("most", "least", "others"):
        raise ValueError(f"order {order!r} is unknown; choose from most, least, others.")
    # A stable sort ranks the first of equal scores higher.
    ranked = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    positions = torch.arange(scores.shape[1], device=scores.device).expand_as(ranked)
    rank = torch.zeros_like(ranked).scatter(1, ranked, positions)
    if order == "least":
        rank = mask.sum(dim=1, keepdim=True) - 1 - rank
    top = rank[:, None, :] < counts[:, :, None].to(rank.device)
    return (~top if order == "others" else top) & mask[:, None, :]


def token_scores(attributions: Tensor, inputs: Tensor) -> Tensor:
    """Return one score per token, `(B, N)`; scores of embeddings are summed.

    Args:
        attributions: in the shape of `inputs`, or `(B, N)`.
        inputs: `(B, N)` or `(B, N, D)`.

    Raises:
        ValueError: the shapes do not match, or a score is not finite.
    """
    if attributions.shape not in (inputs.shape, inputs.shape[:2]):
        raise ValueError(
            f"attributions {tuple(attributions.shape)} do not fit inputs {tuple(inputs.shape)}: pass one "
            "score per element or per token."
        )
    scores = attributions.detach()
    if scores.ndim > 2:
        scores = scores.flatten(2).sum(dim=2)
    if not bool(scores.isfinite().all()):
        raise ValueError("attributions are NaN or infinite, and cannot be ranked.")
    return scores if scores.is_floating_point() else scores.double()


def removable(inputs: Tensor | tuple[Tensor], mask: Tensor | None) -> Tensor:
    """Return `(B, N)`, True at the tokens that may be removed: `mask`, or all tokens if it is None.

    Raises:
        ValueError: the shapes do not match.
    """
    tensor = _single("inputs", inputs)
    if mask is None:
        return torch.ones(tensor.shape[:2], dtype=torch.bool, device=tensor.device)
    if mask.shape != tensor.shape[:2]:
        raise ValueError(
            f"mask is {tuple(mask.shape)}, but the inputs have {tuple(tensor.shape[:2])} tokens."
        )
    return mask.bool().to(tensor.device)


def _single(what: str, value: Tensor | tuple[Tensor]) -> Tensor:
    if isinstance(value, tuple):
        if len(value) != 1:
            raise ValueError(f"{what} is a tuple of {len(value)}; removal metrics take one tensor.")
        return value[0]
    return value


COMMON = """\
        forward_func: the forward function, as in Captum's metrics.
        inputs: `(B, N)` ids or `(B, N, D)` embeddings, or a tuple of one of these.
        attributions: scores in the shape of `inputs`, or `(B, N)`; scores `(B, N, D)` are summed over D.
        baselines: replacement of removed tokens: a number, or a tensor that broadcasts to `inputs`.
        additional_forward_args: further arguments of `forward_func`, after `inputs`.
        target: the index of the output, as in Captum; None for the predicted class.
"""
"""Documentation of the arguments of every metric, before its own."""

OPTIONS = """\
        **options: `mask`, `removal`, `activation`, `attention_mask` and `max_examples_per_batch`; see
            :func:`removal_curve`.
"""


@dataclass(frozen=True)
class Removals:
    """The arguments of a removal metric, and the model's outputs as tokens are removed."""

    forward_func: Forward
    inputs: Tensor | tuple[Tensor]
    attributions: Tensor | tuple[Tensor]
    baselines: Baseline | tuple[Baseline]
    additional_forward_args: object | None
    target: TargetType
    options: RemovalOptions

    @property
    def removable(self) -> Tensor:
        """`(B, N)`, True at the tokens that may be removed."""
        return removable(self.inputs, self.options.get("mask"))

    @property
    def scores(self) -> Tensor:
        """`(B, N)`, one score per token."""
        return token_scores(_single("attributions", self.attributions), self.tensor)

    @property
    def tensor(self) -> Tensor:
        """The inputs, `(B, N)` or `(B, N, D)`."""
        return _single("inputs", self.inputs)

    @property
    def baseline(self) -> Baseline:
        """The replacement of removed tokens."""
        return self.baselines[0] if isinstance(self.baselines, tuple) else self.baselines

    def outputs(self, counts: Tensor, order: str = "most") -> tuple[Tensor, TargetType]:
        """Return the outputs `(B, K + 1, ...)` without `counts` tokens, `(B, K)`, and the target.

        The whole text comes first. The target is the predicted class if it was None.

        Raises:
            ValueError: shapes do not match, scores are not finite, or an option is unknown.
        """
        return self._outputs(removal_masks(self.scores, self.removable, counts, order))

    def _outputs(self, gone: Tensor) -> tuple[Tensor, TargetType]:
        options: dict[str, Any] = {**self.options}
        _, activation = options.pop("mask", None), options.pop("activation", "softmax")
        raw = outputs_without(
            self.forward_func,
            self.tensor,
            torch.cat([torch.zeros_like(gone[:, :1]), gone], dim=1),
            self.baseline,
            self.additional_forward_args,
            **options,
        )
        # Half precision is too coarse for differences of probabilities.
        outputs = activated(raw.to(torch.promote_types(raw.dtype, torch.float32)), activation)
        if bool(outputs.isnan().any()):
            raise ValueError("forward_func returned NaN, for a whole text or for one with tokens removed.")
        if self.target is None and outputs.ndim == 3 and outputs.shape[2] > 1:
            return outputs, outputs[:, 0].argmax(dim=1)
        return outputs, self.target

    def curve(self, counts: Tensor, order: str = "most") -> Tensor:
        """Return the target's probabilities `(B, K + 1)` without `counts` tokens, `(B, K)`."""
        return selected(*self.outputs(counts, order))

    def without(self, gone: Tensor) -> Tensor:
        """Return the target's probabilities `(B, K + 1)` without the tokens `gone`, `(B, K, N)`."""
        return selected(*self._outputs(gone))


class RemovalMetric(Protocol):
    """The signature of a removal metric."""

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
        """Return one value per example, `(B,)`; NaN if no token may be removed."""
        ...


def removal_metric(measure: Callable[..., Tensor]) -> RemovalMetric:
    """Turn a function of :class:`Removals` into a metric with the signature of Captum's metrics.

    Args:
        measure: takes the removals and keyword arguments of its own; returns `(B,)`. The metric gets its
            documentation, completed by the arguments of all metrics.
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
        own_options = {each.name: options.pop(each.name) for each in own if each.name in options}
        unknown = sorted(options.keys() - RemovalOptions.__annotations__.keys())
        if unknown:
            raise TypeError(f"{measure.__name__}() got an unexpected keyword argument {unknown[0]!r}")
        common = cast(RemovalOptions, options)
        removals = Removals(
            forward_func, inputs, attributions, baselines, additional_forward_args, target, common
        )
        values = measure(removals, **own_options)
        return values.where(removals.removable.any(dim=1), torch.nan)

    *common, options = inspect.signature(metric, follow_wrapped=False).parameters.values()
    vars(metric)["__signature__"] = inspect.Signature([*common, *own, options], return_annotation=Tensor)
    text = measure.__doc__ or ""  # None if Python runs with -OO
    before, args, after = text.partition("    Args:\n        removals: the call.\n")
    own_args, returns, rest = after.partition("\n    Returns:")
    metric.__doc__ = before + "    Args:\n" + COMMON + own_args + OPTIONS + returns + rest if args else text
    return metric
