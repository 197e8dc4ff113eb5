"""GlobEnc, exact differences and DecompX, as functions of a request.

Shapes: A explained outputs, T outputs of a row, N tokens, L layers, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from captum_globenc.texts.request import AttributionRequest


def globenc(request: AttributionRequest, mixing: str | None = None, aggregation: str = "rollout") -> Tensor:
    """Return GlobEnc's scores `(A, N)`, with the mixing matrix of the request by default."""
    return _per_position(request, request.of.globenc(mixing, aggregation).attribute)


def globenc_layers(request: AttributionRequest) -> Tensor:
    """Return GlobEnc's scores after every layer, `(A, L, N)`."""
    return _per_position(request, request.of.globenc().attribute_layers)


def mixtures(request: AttributionRequest, method: Callable[..., Tensor]) -> Tensor:
    """Return the scores `(A, N)` of a function of (forward, ids, other arguments, position)."""

    def run(inputs: Tensor, *, additional_forward_args: tuple[Any, ...], position: Any) -> Tensor:
        return method(request.of.forward, inputs, additional_forward_args, position)

    return _per_position(request, run)


def _per_position(request: AttributionRequest, method: Callable[..., Tensor]) -> Tensor:
    """Run a method once per text, or once per output if outputs have their own positions."""
    where = request.position
    own = where if isinstance(where, Tensor) else None
    batch = request.batch if own is None else request.each

    def run(inputs: Tensor, position: Tensor | None, *arguments: Tensor | None) -> Tensor:
        chosen = where if position is None else position
        return method(inputs, additional_forward_args=arguments, position=chosen)

    inputs, extra = request.of.forward.arguments(batch)
    scores = request.run(run, inputs, own, *extra)
    return scores[request.rows] if own is None else scores


def deep_lift(request: AttributionRequest, n_steps: int = 1, path: str = "straight") -> Tensor:
    """Return exact differences from the baseline `(A, N)`, along a path of `n_steps` segments or parts."""
    options: dict[str, Any] = {"n_steps": n_steps, "path": path, "seed": request.of.seed}

    def summed(*arguments: Any) -> Tensor:
        scores: Tensor = request.of.exact_differences.attribute(*arguments, **options)
        return scores.sum(-1) if scores.dim() == 3 else scores

    return _differences(request, summed)


def deep_lift_layers(request: AttributionRequest) -> Tensor:
    """Return exact differences at the hidden states of every layer, `(A, L + 1, N)`."""
    return _differences(request, request.of.exact_differences.attribute_layers)


def deep_lift_outputs(request: AttributionRequest) -> Tensor:
    """Return exact differences for each of T outputs of a row, `(A, T, N)`."""

    def summed(inputs: Tensor, baselines: Tensor, _: None, arguments: tuple[Any, ...]) -> Tensor:
        scores: Tensor = request.of.exact_differences.attribute_classes(inputs, baselines, arguments)
        return scores.sum(-1) if scores.dim() == 4 else scores  # over embeddings, (A, T, N, D)

    return _differences(request, summed)


def _differences(request: AttributionRequest, method: Callable[..., Tensor]) -> Tensor:
    """Run a function of (inputs, baselines, None, other arguments) over ids, or over word embeddings."""
    of, inputs, baselines, extra = request.of, request.inputs, request.baselines, request.extra
    if not of.by_ids:
        inputs, baselines, extra = of.over_embeddings.embed(inputs), of.embed(baselines), (inputs, *extra)

    def run(inputs: Tensor, baselines: Tensor, *arguments: Tensor | None) -> Tensor:
        return method(inputs, baselines, None, arguments)

    return request.run(run, inputs, baselines, *extra)


def decompx(request: AttributionRequest) -> Tensor:
    """Return DecompX's scores `(A, N)`, without biases."""

    def run(inputs: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = request.of.decompx.attribute(inputs, None, arguments)
        return scores

    return request.run(run, request.inputs, *request.extra)
