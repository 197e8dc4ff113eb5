"""Methods of Captum, as functions of a request.

Shapes: A explained outputs, N tokens, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Lime,
    Occlusion,
    Saliency,
)
from torch import Tensor

from captum_globenc.captum_api import sklearn_ridge
from captum_globenc.extras import optional
from captum_globenc.texts.embeddings import knows_padding
from captum_globenc.texts.request import AttributionRequest

INTEGRATION_STEPS = 50
ROWS_AT_ONCE = 32
"""Interpolated inputs per forward pass, which bounds the memory."""
NOISE_SAMPLES = 5
LIME_SAMPLES = 50
TEXTS_AT_ONCE = 64
"""Perturbed texts per forward pass, which bounds the memory."""


def on_embeddings(
    request: AttributionRequest,
    method: type[Any],
    *,
    has_baseline: bool = True,
    reduce: Callable[..., Tensor] = torch.sum,
    **options: Any,
) -> Tensor:
    """Run a Captum method over word embeddings, while the model reads the ids.

    Args:
        request: The texts and the explained outputs.
        method: The Captum class.
        has_baseline: Whether the method takes `baselines`.
        reduce: Reduces scores `(A, N, D)` over D.
        **options: Further arguments of the method's `attribute`.
    """
    over = request.of.over_embeddings
    if has_baseline:
        options["baselines"] = request.of.embed(request.baselines)
    inputs = request.inputs
    scores = method(over).attribute(
        over.embed(inputs), additional_forward_args=(inputs, *request.extra), **options
    )
    return reduce(scores, dim=-1)


def _at_once(request: AttributionRequest, most: int) -> int:
    """Return the number of inputs per forward pass: `most`, or 1 for models without a padding token."""
    return most if knows_padding(request.of.model) else 1


def integrated_gradients(request: AttributionRequest) -> Tensor:
    """Return Integrated Gradients (Sundararajan et al. 2017) over word embeddings, `(A, N)`."""
    rows = max(_at_once(request, ROWS_AT_ONCE), len(request.rows))
    return on_embeddings(request, IntegratedGradients, n_steps=INTEGRATION_STEPS, internal_batch_size=rows)


input_x_gradient = partial(on_embeddings, method=InputXGradient, has_baseline=False)
saliency = partial(on_embeddings, method=Saliency, has_baseline=False, reduce=torch.linalg.vector_norm)
deep_lift = partial(on_embeddings, method=DeepLift)


def gradient_shap(request: AttributionRequest) -> Tensor:
    """Return Gradient SHAP, `(A, N)`; one text at a time, because Captum samples baselines from the batch."""
    return torch.cat([on_embeddings(one, GradientShap, n_samples=NOISE_SAMPLES) for one in request.singles()])


def feature_ablation(
    request: AttributionRequest, method: type[Any] = FeatureAblation, **options: Any
) -> Tensor:
    """Return the decrease of the output when a token, or a window of tokens, is replaced, `(A, N)`."""
    inputs = request.inputs
    at_once = _at_once(request, max(1, TEXTS_AT_ONCE // len(inputs)))
    scores: Tensor = method(request.of.blanked).attribute(
        inputs,
        baselines=request.baselines,
        additional_forward_args=request.beside,
        perturbations_per_eval=min(at_once, inputs.shape[1]),
        **options,
    )
    return scores


occlusion = partial(feature_ablation, method=Occlusion, sliding_window_shapes=(2,))


def lime(request: AttributionRequest) -> Tensor:
    """Return LIME, `(A, N)`: ridge regression on token presence, weighted by similarity to the text."""
    optional("sklearn.linear_model")
    rows = []
    for one in request.singles():
        words = ~one.kept
        # Special tokens and padding are their own baseline, so they may belong to the first feature.
        features = (words.long().cumsum(dim=1) - 1).clamp(min=0) * words
        method = Lime(one.of.blanked, interpretable_model=sklearn_ridge(alpha=1.0), similarity_func=closeness)
        rows.append(
            method.attribute(
                one.inputs,
                baselines=one.baselines,
                additional_forward_args=one.beside,
                feature_mask=features,
                n_samples=LIME_SAMPLES,
                perturbations_per_eval=_at_once(request, LIME_SAMPLES),
            )
        )
    return torch.cat(rows)


def closeness(original: Tensor, perturbed: Tensor, present: Tensor, **_: Any) -> Tensor:
    """Return exp(-d^2 / width^2), d the cosine distance (Ribeiro et al. 2016, section 3.4)."""
    share = present.double().mean(dim=1)  # the squared cosine of `present` and all ones
    return torch.exp(-((1 - share.sqrt()) ** 2) / 0.25**2)


def random(request: AttributionRequest) -> Tensor:
    """Return uniform random scores, `(A, N)`."""
    return torch.rand(request.inputs.shape).to(request.rows.device)
