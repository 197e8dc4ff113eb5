"""The registry of attribution methods, by the names that every front end uses.

Shapes: A explained outputs, N tokens, L layers.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from captum_globenc.decomposition.aggregation import AGGREGATIONS
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.differences.peers import ATTN_LRP, CONSERVATIVE
from captum_globenc.errors import CaptumGlobencError
from captum_globenc.results.record import Kind
from captum_globenc.texts.methods import captums, ours
from captum_globenc.texts.methods.backward import fullgrad_plus, gim_of_request, of_request, relevance
from captum_globenc.texts.methods.coalitions import first_last, kernel_shap, of_coalitions
from captum_globenc.texts.methods.context_mixing import alti, value_zeroing
from captum_globenc.texts.request import AttributionRequest, has_experts

__all__ = [
    "DEFAULT_METHODS",
    "MAIN_METHODS",
    "METHODS",
    "Method",
    "attribute",
    "list_methods",
    "register_method",
    "run_each",
    "run_methods",
    "shown",
]

Scores = Callable[[AttributionRequest], Tensor]

MIXING, BACKWARD = "context mixing", "backward passes"
PERTURBATION, CHANCE = "perturbation", "chance"
"""Headings of `list_methods`; scores of `MIXING` do not depend on the class."""


@dataclass(frozen=True)
class Method:
    """An attribution method.

    Attributes:
        scores: A function from a request to scores `(A, N)`.
        kind: The kind of the scores, a name of `captum_globenc.results.record.KINDS`.
        group: The heading in `list_methods`.
        cost: The approximate number of forward passes; n is the number of tokens.
        layers: A function from a request to the scores of every layer `(A, L, N)`, if the method has them.
        special: Whether special tokens have scores; otherwise their scores are set to 0.
        needs: Requirements beyond torch functions with a rule or a gradient.
    """

    scores: Scores
    kind: Kind = "signed"
    group: str = PERTURBATION
    cost: str = ""
    layers: Scores | None = None
    special: bool = False
    needs: str = ""

    @property
    def knows_class(self) -> bool:
        """Whether the scores depend on which output is explained."""
        return self.group != MIXING

    @property
    def merged_kind(self) -> Kind:
        """The kind of scores merged from several passes: contributions no longer sum to one difference."""
        return "signed" if self.kind == "contributions" else self.kind


def _mixing(scores: Scores, cost: str) -> Method:
    return Method(scores, "sizes", MIXING, cost, special=True, needs="a supported encoder")


def _backward(scores: Scores, cost: str, kind: Kind = "signed", needs: str = "") -> Method:
    return Method(scores, kind, BACKWARD, cost, needs=needs)


METHODS: dict[str, Method] = {
    "globenc": Method(
        ours.globenc, "shares", MIXING, "1.5", ours.globenc_layers, True, "a supported encoder"
    ),
    "transformer-deep-lift": Method(
        ours.deep_lift, "contributions", BACKWARD, "4", ours.deep_lift_layers, True
    ),
    "transformer-deep-lift/2": _backward(partial(ours.deep_lift, n_steps=2), "11", "contributions"),
    "transformer-deep-lift/restore-2": _backward(
        partial(ours.deep_lift, n_steps=2, path="restore"), "13", "contributions"
    ),
    "transformer-deep-lift/restore-4": _backward(
        partial(ours.deep_lift, n_steps=4, path="restore"), "26", "contributions"
    ),
    "decompx": Method(ours.decompx, "signed", BACKWARD, "2.5", special=True, needs="a supported encoder"),
    "attn-lrp": _backward(partial(of_request, method=relevance, rules=ATTN_LRP), "3"),
    "conservative-propagation": _backward(partial(of_request, method=relevance, rules=CONSERVATIVE), "3"),
    "libragrad": _backward(partial(of_request, method=fullgrad_plus), "3", needs="layers that are modules"),
    "gim": _backward(gim_of_request, "3"),
    "integrated-gradients": Method(captums.integrated_gradients, "signed", BACKWARD, "100", special=True),
    "input-x-gradient": _backward(captums.input_x_gradient, "2"),
    "saliency": _backward(captums.saliency, "2", "sizes"),
    "gradient-shap": _backward(captums.gradient_shap, "10"),
    "deep-lift": _backward(captums.deep_lift, "4"),
    "feature-ablation": Method(captums.feature_ablation, cost="n"),
    "occlusion": Method(captums.occlusion, cost="n"),
    "first-last": Method(partial(of_coalitions, method=first_last), cost="2 n"),
    "lime": Method(captums.lime, cost="50", needs='the extra "evaluate"'),
    **{
        f"kernel-shap/{passes}": Method(
            partial(of_coalitions, method=partial(kernel_shap, passes=passes)), cost=str(passes)
        )
        for passes in (16, 32, 64)
    },
    **{
        mixing + ("" if aggregation == "rollout" else f"/{aggregation}"): _mixing(
            partial(ours.globenc, mixing=mixing, aggregation=aggregation), "1.5"
        )
        for aggregation in AGGREGATIONS
        for mixing in MIXINGS
    },
    "attention-rollout": _mixing(partial(ours.globenc, mixing="W-FixedRes"), "1.5"),
    "value-zeroing": _mixing(partial(ours.mixtures, method=value_zeroing), "n"),
    "alti": _mixing(partial(ours.mixtures, method=alti), "3"),
    "random": Method(captums.random, "sizes", CHANCE, "0"),
}
"""The methods by name; :func:`register_method` adds to them."""

DEFAULT_METHODS = ("globenc", "transformer-deep-lift")
"""The methods that `explain` runs unless others are chosen."""

MAIN_METHODS = (*DEFAULT_METHODS, "decompx", "integrated-gradients")
"""The methods that forms offer."""


def register_method(name: str, method: Method) -> None:
    """Register a method for `explain`, `evaluate` and `attribute`.

    Args:
        name: The name.
        method: The method.

    Raises:
        ValueError: The name is registered already.
    """
    if name in METHODS:
        raise ValueError(f"a method {name!r} is registered already")
    METHODS[name] = method


def list_methods() -> Iterator[str]:
    """Yield the lines of a table of all methods: name, kind, cost in forward passes, requirements."""
    for group in dict.fromkeys(it.group for it in METHODS.values()):
        yield f"{group}:"
        for name, it in METHODS.items():
            if it.group == group:
                yield f"  {name:32}{it.kind:14}{it.cost:>5}  {it.needs}".rstrip()


def attribute(name: str, request: AttributionRequest, index: int = 0) -> Tensor:
    """Run a method, seeded by the request's seed, the method's name and the batch's index.

    Args:
        name: A name of `METHODS`.
        request: The texts and the explained outputs.
        index: The index of the batch.

    Returns:
        Scores `(A, N)`.

    Raises:
        ValueError: The scores have another shape, or are not finite.
    """
    with seeded(f"{request.of.seed} {name} {index}"):
        scores = METHODS[name].scores(request).detach()
    expected = (len(request.rows), request.batch["input_ids"].shape[1])
    if scores.shape != expected:
        raise ValueError(f"{name} gave {tuple(scores.shape)} for {expected} tokens")
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} gave scores that are NaN or infinite")
    return scores


def shown(name: str, request: AttributionRequest) -> Tensor:
    """Run a method for an explanation: sizes are normalized to sum to 1, special tokens mostly score 0.

    Args:
        name: A name of `METHODS`.
        request: The texts and the explained outputs.

    Returns:
        Scores `(A, N)`.

    Raises:
        ValueError: See `attribute`.
    """
    method, scores = METHODS[name], attribute(name, request)
    if not method.special:
        scores = scores.masked_fill(request.special, 0)
    if method.kind != "sizes":
        return scores
    total = scores.double().masked_fill(~request.each["attention_mask"].bool(), 0).sum(-1, keepdim=True)
    return scores / total.where(total != 0, 1)


def run_methods(
    request: AttributionRequest, methods: Sequence[str] | None, layers: bool, notices: dict[str, None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run methods for an explanation.

    Args:
        request: The texts and the explained outputs.
        methods: Names from `METHODS`; by default all of `DEFAULT_METHODS` that support the model.
        layers: Whether to compute the scores of every layer as well.
        notices: Notices are added to it, such as a method that is left out.

    Returns:
        Scores `(A, N)` by method, and scores of every layer `(A, L, N)` by method.

    Raises:
        ValueError: A chosen method does not support the model, no method does, or scores are not finite.
        RuntimeError: A check of the numbers failed.
    """
    routed = []

    def run(name: str) -> Tensor:
        scores = shown(name, request)
        if name.startswith("transformer-deep"):
            routed.append(request.of.exact_differences.decisions_followed)
        return scores

    found = run_each(run, methods, DEFAULT_METHODS, notices)
    depths: dict[str, Tensor] = {}
    for name in found if layers else ():
        of_layers = METHODS[name].layers
        if of_layers is not None:
            try:
                depths[name] = of_layers(request)
            except CaptumGlobencError as error:  # such as for classifiers whose decoder reads the text again
                notices[f"{name} has no scores of single layers: {error}"] = None
    used = request.of.used_baseline
    if used == "zero" != request.of.baseline and (routed or "integrated-gradients" in found):
        notices[
            f"the baseline is {used!r}: the model scales its embeddings by the number of mask tokens "
            f"(token_dropout), so {request.of.baseline!r} is not a baseline"
        ] = None
    if routed and has_experts(request.of.model):
        differing, total = routed[0]
        notices[
            "the model routes tokens to experts: the baseline takes the decisions of the text, and "
            "contributions sum to the difference along that route; "
            f"{differing / max(total, 1):.1%} of {total:,} decisions would differ at the baseline"
        ] = None
    return found, depths


def run_each(
    run: Callable[[str], Tensor],
    methods: Sequence[str] | None,
    default: Iterable[str],
    notices: dict[str, None],
) -> dict[str, Tensor]:
    """Run methods, and leave out default ones that do not support the model.

    Args:
        run: A function from the name of a method to its scores.
        methods: The chosen names; None for `default`.
        default: The names that are run unless others are chosen.
        notices: A notice of each method that is left out is added to it.

    Raises:
        ValueError: A chosen method does not support the model, or no method does.
        RuntimeError: A check of the numbers failed.
    """
    found: dict[str, Tensor] = {}
    rejected: dict[str, Exception] = {}
    for name in dict.fromkeys(default if methods is None else methods):
        try:
            found[name] = run(name)
        except CaptumGlobencError as error:
            if methods is not None:
                raise
            rejected[name] = error
    if not found:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in rejected.items()))
    notices.update({f"{name} is left out: {error}": None for name, error in rejected.items()})
    return found


@contextmanager
def seeded(key: str) -> Iterator[None]:
    """Seed the random generators of torch and numpy, and restore them at exit."""
    seed, state = zlib.crc32(key.encode()), np.random.get_state()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Captum warns about its own implementation.
        warnings.filterwarnings("ignore", module="captum[.]")
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)
