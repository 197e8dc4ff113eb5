"""Decompositions of the loss functions of :mod:`torch.nn.functional` into functions that have rules.

Models of transformers compute a loss whenever they are given labels, even if only their logits are read.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from captum_globenc.errors import UnsupportedOperationError

Weighted = tuple[Tensor, Tensor | None]
"""The weighted losses of all elements, and the weights whose sum divides their mean; None for a count."""


def _classes(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float = 0.0
) -> Weighted:
    """Cross-entropy, given logarithms of probabilities, and classes or their probabilities."""
    dim = min(input.dim() - 1, 1)
    shape = (-1, *[1] * (input.dim() - 1 - dim))
    every = input if weight is None else input * weight.view(shape)
    share = label_smoothing / input.shape[dim]
    if target.is_floating_point():
        return -(every * (target * (1 - label_smoothing) + share)).sum(dim), None
    kept = target != ignore_index
    index = target.where(kept, 0)
    weights = kept.to(input.dtype) if weight is None else weight[index] * kept
    loss = -every.gather(dim, index.unsqueeze(dim)).squeeze(dim)
    if label_smoothing:
        loss = loss * (1 - label_smoothing) - every.sum(dim) * share
    return loss.masked_fill(~kept, 0), weights


def _logits(input: Tensor, **options: Any) -> Weighted:
    return _classes(functional.log_softmax(input, min(input.dim() - 1, 1)), **options)


def _binary(yes: Tensor, no: Tensor, target: Tensor, weight: Tensor | None) -> Weighted:
    """Binary cross-entropy, given the logarithms of the probabilities of both classes."""
    loss = -(target * yes + (1 - target) * no)
    return loss if weight is None else loss * weight, None


def _binary_probability(input: Tensor, target: Tensor, weight: Tensor | None) -> Weighted:
    lowest = -100  # torch clamps the logarithms
    return _binary(input.log().clamp_min(lowest), (-input).log1p().clamp_min(lowest), target, weight)


def _binary_logit(
    input: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None
) -> Weighted:
    yes = functional.logsigmoid(input)
    yes = yes if pos_weight is None else yes * pos_weight
    return _binary(yes, functional.logsigmoid(-input), target, weight)


def _divergence(input: Tensor, target: Tensor, log_target: bool) -> Weighted:
    if log_target:
        return target.exp() * (target - input), None
    return torch.special.xlogy(target, target) - target * input, None


def _of_error(loss: Callable[..., Tensor], weighted_mean: bool = True) -> Callable[..., Weighted]:
    """Return the weighted loss of an error, input minus target."""

    def weighted(input: Tensor, target: Tensor, weight: Tensor | None = None, **options: float) -> Weighted:
        made = loss(input - target, **options)
        if weight is None:
            return made, None
        return made * weight, weight if weighted_mean else None

    return weighted


def _huber(error: Tensor, delta: float) -> Tensor:
    size = error.abs()
    curved = size.clamp_max(delta)
    return curved * (size - curved / 2)


def _smooth(error: Tensor, beta: float) -> Tensor:
    return _huber(error, beta) / beta if beta else error.abs()


def _decomposition(function: Callable[..., Any], weighted: Callable[..., Weighted]) -> Callable[..., Any]:
    """Return the decomposition of a loss function from the decomposition of its elementwise losses."""
    signature = inspect.signature(function)

    def decomposition(depends: Callable[[Any], bool], *args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        options = given.arguments
        if any(options.pop(name, None) is not None for name in ("size_average", "reduce")):
            raise UnsupportedOperationError(
                f"{function.__name__} with `size_average` or `reduce` is unsupported: use `reduction`."
            )
        reduction = options.pop("reduction")
        loss, weights = weighted(**options)
        if reduction == "mean":
            return loss.mean() if weights is None else loss.sum() / weights.sum()
        if reduction == "batchmean":
            return loss.sum() / len(loss)
        return loss.sum() if reduction == "sum" else loss

    return decomposition


_WEIGHTED: dict[Callable[..., Any], Callable[..., Weighted]] = {
    functional.cross_entropy: _logits,
    functional.nll_loss: _classes,
    functional.binary_cross_entropy: _binary_probability,
    functional.binary_cross_entropy_with_logits: _binary_logit,
    functional.kl_div: _divergence,
    functional.mse_loss: _of_error(torch.square),
    functional.l1_loss: _of_error(torch.abs),
    functional.huber_loss: _of_error(_huber, weighted_mean=False),
    functional.smooth_l1_loss: _of_error(_smooth),
}

LOSSES = {function: _decomposition(function, weighted) for function, weighted in _WEIGHTED.items()}
"""Loss functions and their decompositions."""
