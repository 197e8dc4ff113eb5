"""Attribution methods by name: GlobEnc in every kind, and Captum's own on the same forward function.

Letters: B batch, N tokens, D embedding size.
"""

import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from captum.attr import (
    DeepLift,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    Lime,
    Occlusion,
    Saliency,
)
from torch import Tensor

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.captum_api import sklearn_ridge
from captum_globenc.decomposition.aggregation import AGGREGATIONS
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.differences.frozen import Rules
from captum_globenc.differences.peers import ATTN_LRP, CONSERVATIVE
from captum_globenc.evaluation.coalitions import TEXTS_AT_ONCE, first_last, kernel_shap, of_texts
from captum_globenc.evaluation.context import alti, value_zeroing
from captum_globenc.evaluation.peers import fullgrad_plus, gradient_interactions, relevance
from captum_globenc.evaluation.subject import Batch, Subject
from captum_globenc.extras import optional
from captum_globenc.texts.embeddings import integrated_gradients as over_embeddings

Method = Callable[[Subject, Batch], Tensor]
"""Scores `(B, N)` of a batch's tokens, for `batch.target` where the method knows classes."""

NOISE_SAMPLES = 5
LIME_SAMPLES = 50


def attribute(name: str, subject: Subject, batch: Batch) -> Tensor:
    """Return a method's scores, computed once for each batch.

    Whatever a method draws at random depends on the seed, its name and the batch alone, so that an
    evaluation that is taken up again draws the same.

    Args:
        name: a name of :data:`METHODS`.
        subject: what is evaluated.
        batch: the texts.

    Returns:
        `(B, N)`, 0 at special tokens and padding, which are not compared.

    Raises:
        ValueError: the method gave another shape, or NaN.
    """
    if name not in batch.scores:
        with seeded(f"{subject.seed} {name} {batch.index}"):
            scores = METHODS[name](subject, batch).detach()
        if scores.shape != batch.mask.shape:
            raise ValueError(f"{name} gave {tuple(scores.shape)} for {tuple(batch.mask.shape)} tokens")
        scores = scores.masked_fill(~batch.mask, 0)
        if not bool(scores.isfinite().all()):
            raise ValueError(f"{name} gave scores that are NaN or infinite")
        batch.scores[name] = scores
    return batch.scores[name]


def globenc(subject: Subject, batch: Batch, mixing: str, aggregation: str) -> Tensor:
    """GlobEnc, for what the model's head reads, or the position that was chosen."""
    method = GlobEnc(subject.forward, mixing=mixing, aggregation=aggregation)
    scores: Tensor = method.attribute(
        batch.inputs, additional_forward_args=batch.extra, position=batch.position
    )
    return scores


def transformer_deep_lift(subject: Subject, batch: Batch, n_steps: int, path: str = "straight") -> Tensor:
    """Exact differences from the text all masked, along a path of so many segments or parts."""
    inputs, blanks, extra = batch.inputs, batch.blanks, batch.extra
    if subject.keeps_ids:
        over = subject.over_embeddings
        inputs, blanks, extra = over.embed(inputs), subject.embed(blanks), (inputs, *extra)
    scores: Tensor = subject.exact_differences.attribute(
        inputs, blanks, batch.target, extra, n_steps=n_steps, path=path, seed=subject.seed
    )
    return scores.sum(-1) if subject.keeps_ids else scores


def decompx(subject: Subject, batch: Batch) -> Tensor:
    """DecompX without biases."""
    scores: Tensor = DecompX(subject.forward).attribute(batch.inputs, batch.target, batch.extra)
    return scores


def by_rules(subject: Subject, batch: Batch, rules: Rules) -> Tensor:
    """A peer's multipliers, times what enters the first layer."""
    return relevance(subject.forward, batch.inputs, batch.extra, batch.target, rules)


def libragrad(subject: Subject, batch: Batch) -> Tensor:
    """LibraGrad's FullGrad+."""
    return fullgrad_plus(subject.forward, batch.inputs, batch.extra, batch.target)


def gim(subject: Subject, batch: Batch) -> Tensor:
    """GIM from the text all masked, on word embeddings."""
    over = subject.over_embeddings
    inputs, blanks = over.embed(batch.inputs), subject.embed(batch.blanks)
    extra = (batch.inputs, *batch.extra)
    return gradient_interactions(over, inputs, blanks, extra, batch.target).sum(-1)


def rolled_out(subject: Subject, batch: Batch, method: Callable[..., Tensor]) -> Tensor:
    """What a peer says that layers mix, rolled out for what the model's head reads, or the position."""
    return method(subject.forward, batch.inputs, batch.extra, batch.position)


def on_embeddings(
    subject: Subject,
    batch: Batch,
    method: type[Any],
    *,
    has_baseline: bool = True,
    reduce: Callable[..., Tensor] = torch.sum,
    **options: Any,
) -> Tensor:
    """One of Captum's methods over word embeddings, the ids kept; its baseline is the text all masked."""
    over = subject.over_embeddings
    if has_baseline:
        options["baselines"] = subject.embed(batch.blanks)
    scores = method(over).attribute(
        over.embed(batch.inputs),
        target=batch.target,
        additional_forward_args=(batch.inputs, *batch.extra),
        **options,
    )
    return reduce(scores, dim=-1)


def integrated_gradients(subject: Subject, batch: Batch) -> Tensor:
    """Integrated gradients from the text all masked, as `explain` has them."""
    return over_embeddings(
        subject.forward,
        subject.model,
        batch.inputs,
        subject.embed(batch.blanks),
        batch.target,
        batch.extra,
    )


def gradient_shap(subject: Subject, batch: Batch) -> Tensor:
    """Gradient SHAP, text by text: Captum draws from the baselines of all that it is given."""
    return torch.cat(
        [on_embeddings(subject, one, GradientShap, n_samples=NOISE_SAMPLES) for one in batch.singles()]
    )


def feature_ablation(
    subject: Subject, batch: Batch, method: type[Any] = FeatureAblation, **options: Any
) -> Tensor:
    """Leave one out: what the class's logit loses when a token is masked; or tokens side by side."""
    at_once = max(1, TEXTS_AT_ONCE // len(batch.examples))
    scores: Tensor = method(subject.blanked).attribute(
        batch.inputs,
        baselines=batch.blanks,
        target=batch.target,
        additional_forward_args=subject.beside(batch),
        perturbations_per_eval=min(at_once, batch.inputs.shape[1]),
        **options,
    )
    return scores


def lime(subject: Subject, batch: Batch) -> Tensor:
    """LIME with ridge regression on which tokens are there, close texts weighing more."""
    optional("sklearn.linear_model")

    rows = []
    for one in batch.singles():
        # Special tokens and padding are their own baseline, so they may go with the first token.
        features = (one.mask.long().cumsum(dim=1) - 1).clamp(min=0) * one.mask
        method = Lime(
            subject.blanked, interpretable_model=sklearn_ridge(alpha=1.0), similarity_func=closeness
        )
        rows.append(
            method.attribute(
                one.inputs,
                baselines=one.blanks,
                target=one.target,
                additional_forward_args=subject.beside(one),
                feature_mask=features,
                n_samples=LIME_SAMPLES,
                perturbations_per_eval=LIME_SAMPLES,
            )
        )
    return torch.cat(rows)


def closeness(original: Tensor, perturbed: Tensor, present: Tensor, **_: Any) -> Tensor:
    """Ribeiro et al. (2016), section 3.4: exp(-d^2 / width^2), d the cosine distance of what is present."""
    share = present.double().mean(dim=1)  # The squared cosine between `present` and all ones.
    return torch.exp(-((1 - share.sqrt()) ** 2) / 0.25**2)


def random(subject: Subject, batch: Batch) -> Tensor:
    """Chance, which everything has to beat."""
    return torch.rand(batch.mask.shape).to(batch.mask.device)


METHODS: dict[str, Method] = {
    "globenc": partial(globenc, mixing="N-Enc", aggregation="rollout"),
    **{
        mixing + ("" if aggregation == "rollout" else f"/{aggregation}"): partial(
            globenc, mixing=mixing, aggregation=aggregation
        )
        for aggregation in AGGREGATIONS
        for mixing in MIXINGS
    },
    "transformer-deep-lift": partial(transformer_deep_lift, n_steps=1),
    "transformer-deep-lift/2": partial(transformer_deep_lift, n_steps=2),
    "transformer-deep-lift/restore-2": partial(transformer_deep_lift, n_steps=2, path="restore"),
    "transformer-deep-lift/restore-4": partial(transformer_deep_lift, n_steps=4, path="restore"),
    "decompx": decompx,
    "attn-lrp": partial(by_rules, rules=ATTN_LRP),
    "conservative-propagation": partial(by_rules, rules=CONSERVATIVE),
    "libragrad": libragrad,
    "gim": gim,
    "attention-rollout": partial(globenc, mixing="W-FixedRes", aggregation="rollout"),
    "value-zeroing": partial(rolled_out, method=value_zeroing),
    "alti": partial(rolled_out, method=alti),
    "integrated-gradients": integrated_gradients,
    "input-x-gradient": partial(on_embeddings, method=InputXGradient, has_baseline=False),
    "saliency": partial(on_embeddings, method=Saliency, has_baseline=False, reduce=torch.linalg.vector_norm),
    "gradient-shap": gradient_shap,
    "deep-lift": partial(on_embeddings, method=DeepLift),
    "feature-ablation": feature_ablation,
    "occlusion": partial(feature_ablation, method=Occlusion, sliding_window_shapes=(2,)),
    "first-last": partial(of_texts, method=first_last),
    "lime": lime,
    **{
        f"kernel-shap/{passes}": partial(of_texts, method=partial(kernel_shap, passes=passes))
        for passes in (16, 32, 64)
    },
    "random": random,
}
"""Methods by name; :func:`register_method` adds to them."""

DEFAULT_METHODS = (
    "globenc",
    "N-Res",
    "W-FixedRes",
    "N-Enc/max-flow",
    "transformer-deep-lift",
    "transformer-deep-lift/2",
    "decompx",
    "integrated-gradients",
    "input-x-gradient",
    "saliency",
    "gradient-shap",
    "deep-lift",
    "feature-ablation",
    "lime",
    "random",
)


def register_method(name: str, method: Method) -> None:
    """Add a method, to be chosen by its name.

    Args:
        name: what to call it.
        method: makes scores `(B, N)` from a :class:`Subject` and a :class:`Batch`.

    Raises:
        ValueError: the name is taken.
    """
    if name in METHODS:
        raise ValueError(f"a method {name!r} is registered already")
    METHODS[name] = method


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed the random streams that Captum draws from, and put them back."""
    seed, state = zlib.crc32(key.encode()), np.random.get_state()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # What Captum says about its own ways of working is no news to who compares methods.
        warnings.filterwarnings("ignore", module="captum[.]")
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
