"""Methods on the digits: scores of patches, and what the prediction loses without the highest."""

from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    Lime,
    Saliency,
)
from torch import Tensor, nn
from trained import PATCH, SIDE, blanked

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.captum_api import sklearn_ridge
from captum_globenc.differences.peers import ATTN_LRP, CONSERVATIVE
from captum_globenc.texts.methods.backward import fullgrad_plus, gradient_interactions, relevance
from captum_globenc.texts.methods.captums import LIME_SAMPLES, NOISE_SAMPLES, closeness
from captum_globenc.texts.methods.coalitions import Value, first_last, kernel_shap
from captum_globenc.texts.methods.context_mixing import alti, value_zeroing

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)


def image_methods(
    forward: EncoderForward, images: Tensor, targets: Tensor, seed: int = 0
) -> Mapping[str, Callable[[], Tensor]]:
    """Return the methods by the names that texts know them by.

    Each gives scores of pixels `(B, 1, H, W)`, or of tokens `(B, 1 + P)`, [CLS] before the patches.

    Args:
        forward: the forward function.
        images: `(B, 1, H, W)`.
        targets: `(B,)`, the classes that are explained.
        seed: of the random parts of exact differences.
    """
    patches = torch.arange((SIDE // PATCH) ** 2).reshape(1, 1, SIDE // PATCH, -1)
    features = patches.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    exact = TransformerDeepLift(forward)
    return {
        "globenc": lambda: GlobEnc(forward).attribute(images),
        "attention-rollout": lambda: GlobEnc(forward, mixing="W-FixedRes").attribute(images),
        "value-zeroing": lambda: value_zeroing(forward, images, ()),
        "alti": lambda: alti(forward, images, ()),
        "transformer-deep-lift": lambda: exact.attribute(images, 0.0, targets),
        "transformer-deep-lift/2": lambda: exact.attribute(images, 0.0, targets, n_steps=2),
        **{
            f"transformer-deep-lift/restore-{parts}": partial(
                exact.attribute,
                images,
                0.0,
                targets,
                n_steps=parts,
                path="restore",
                feature_mask=features,
                seed=seed,
            )
            for parts in (2, 4)
        },
        "decompx": lambda: DecompX(forward).attribute(images, targets),
        "attn-lrp": lambda: relevance(forward, images, (), targets, ATTN_LRP),
        "conservative-propagation": lambda: relevance(forward, images, (), targets, CONSERVATIVE),
        "libragrad": lambda: fullgrad_plus(forward, images, (), targets),
        "gim": lambda: gradient_interactions(forward, images, torch.zeros_like(images), (), targets),
        "integrated-gradients": lambda: IntegratedGradients(forward).attribute(
            images, target=targets, n_steps=50, internal_batch_size=1024
        ),
        "input-x-gradient": lambda: InputXGradient(forward).attribute(
            images.clone().requires_grad_(), targets
        ),
        "saliency": lambda: Saliency(forward).attribute(images.clone().requires_grad_(), targets) ** 2,
        "gradient-shap": lambda: GradientShap(forward).attribute(
            images, torch.zeros_like(images[:1]), NOISE_SAMPLES, target=targets
        ),
        "deep-lift": lambda: DeepLift(forward).attribute(images.clone(), 0.0, targets),
        "feature-ablation": lambda: FeatureAblation(forward).attribute(
            images, target=targets, feature_mask=features
        ),
        "first-last": lambda: by_coalitions(forward, images, targets, first_last),
        **{
            f"kernel-shap/{passes}": partial(
                by_coalitions, forward, images, targets, partial(kernel_shap, passes=passes)
            )
            for passes in (16, 32, 64)
        },
        "lime": lambda: lime(forward, images, targets, features),
        "random": lambda: torch.rand(images.shape, generator=torch.Generator().manual_seed(0)),
    }


def lime(forward: nn.Module, images: Tensor, targets: Tensor, features: Tensor) -> Tensor:
    """LIME as `evaluate` has it: 50 samples, ridge regression, one image after the other."""
    method = Lime(forward, interpretable_model=sklearn_ridge(alpha=1.0), similarity_func=closeness)
    options = {"feature_mask": features, "n_samples": LIME_SAMPLES, "perturbations_per_eval": LIME_SAMPLES}
    return torch.cat(
        [
            method.attribute(image[None], target=target[None], **options)
            for image, target in zip(images, targets, strict=True)
        ]
    )


@torch.no_grad()
def by_coalitions(
    forward: nn.Module, images: Tensor, targets: Tensor, method: Callable[[Value, int], Tensor]
) -> Tensor:
    """Return scores of tokens `(B, 1 + P)` by a method that blanks some of the patches, [CLS] with 0."""
    patches = (SIDE // PATCH) ** 2
    rows = []
    for image, target in zip(images, targets.tolist(), strict=True):

        def value(present: Tensor, image: Tensor = image, target: int = target) -> Tensor:
            return forward(blanked(image.expand(len(present), *image.shape), ~present))[:, target]

        rows.append(nn.functional.pad(method(value, patches).float(), (1, 0)))
    return torch.stack(rows)


def by_patch(scores: Tensor) -> Tensor:
    """Return scores of patches, `(B, P)`: sums over pixels `(B, 1, H, W)`, or tokens without [CLS]."""
    if scores.ndim == 2:
        return scores[:, 1:]
    return nn.functional.avg_pool2d(scores, PATCH, divisor_override=1).flatten(1)


@torch.no_grad()
def drops(forward: nn.Module, images: Tensor, targets: Tensor, scores: Tensor) -> Tensor:
    """Return what the predicted class's probability loses without the highest scores, over all fractions."""

    def probability(some: Tensor) -> Tensor:
        return forward(some).softmax(1).gather(1, targets[:, None])[:, 0]

    whole, order = probability(images), scores.argsort(1, descending=True)
    lost = []
    for fraction in FRACTIONS:
        gone = torch.zeros_like(scores, dtype=torch.bool)
        gone.scatter_(1, order[:, : max(1, round(fraction * scores.shape[1]))], True)
        lost.append(whole - probability(blanked(images, gone)))
    return torch.stack(lost).mean(0)


def image_rows(
    model: nn.Module, images: Tensor, chosen: Collection[str] | None = None, seed: int = 0
) -> dict[str, dict[str, Tensor]]:
    """Return for each method what goes with its highest and its lowest scores, one value an image.

    Args:
        model: the ViT.
        images: `(B, 1, H, W)`.
        chosen: names of methods; left out, all.
        seed: of the random parts of exact differences.
    """
    forward = EncoderForward(model, ())
    with torch.no_grad():
        targets = forward(images).argmax(1)
    rows = {}
    for name, method in image_methods(forward, images, targets, seed).items():
        if chosen is not None and name not in chosen:
            continue
        torch.manual_seed(0)  # Captum's own draws
        scores = by_patch(method().detach().float())
        most, least = (drops(forward, images, targets, sign * scores) for sign in (1, -1))
        rows[name] = {"most": most, "least": least}
    return rows
