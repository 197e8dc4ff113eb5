"""The methods that texts are explained by, by name.

Shapes: A outputs that are explained, N tokens, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_globenc.errors import CaptumGlobencError
from captum_globenc.results.record import Kind
from captum_globenc.texts.embeddings import integrated_gradients
from captum_globenc.texts.question import Question, has_experts, resolve_baseline

__all__ = ["DEFAULT_METHODS", "METHODS", "Method", "differences", "run_methods"]


def _globenc(question: Question) -> Tensor:
    return _mixtures(question, question.of.globenc.attribute)


def _globenc_layers(question: Question) -> Tensor:
    return _mixtures(question, question.of.globenc.attribute_layers)


def _mixtures(question: Question, method: Callable[..., Tensor]) -> Tensor:
    """Run GlobEnc: for each output where these have tokens of their own, otherwise once for each text."""
    where, batch = question.position, question.batch
    if isinstance(where, Tensor):
        batch = question.each

    def run(inputs: Tensor, position: Tensor | None, *arguments: Tensor | None) -> Tensor:
        chosen = where if position is None else position
        return method(inputs, additional_forward_args=arguments, position=chosen)

    inputs, extra = question.of.forward.arguments(batch)
    made = question.run(run, inputs, where if isinstance(where, Tensor) else None, *extra)
    return made if isinstance(where, Tensor) else made[question.rows]


def _deep_lift(question: Question) -> Tensor:
    def summed(*arguments: Any) -> Tensor:
        scores: Tensor = question.of.exact_differences.attribute(*arguments)
        return scores.sum(-1) if scores.dim() == 3 else scores

    return differences(question, summed)


def _deep_lift_layers(question: Question) -> Tensor:
    return differences(question, question.of.exact_differences.attribute_layers)


def differences(question: Question, method: Callable[..., Tensor]) -> Tensor:
    """Run exact differences over ids where the baseline is ids, otherwise over word embeddings.

    Args:
        question: what is explained.
        method: from inputs, baselines, None for the target, and other arguments, to a tensor `(A, ...)`.
    """
    inputs, baselines, extra = question.inputs, question.baselines, question.extra
    if not question.of.by_ids:
        embed, extra = question.of.over_embeddings.embed, (inputs, *extra)
        inputs, baselines = embed(inputs), baselines if baselines.is_floating_point() else embed(baselines)

    def run(inputs: Tensor, baselines: Tensor, *arguments: Tensor | None) -> Tensor:
        return method(inputs, baselines, None, arguments)

    return question.run(run, inputs, baselines, *extra)


def _decompx(question: Question) -> Tensor:
    def run(inputs: Tensor, *arguments: Tensor | None) -> Tensor:
        scores: Tensor = question.of.decompx.attribute(inputs, None, arguments)
        return scores

    return question.run(run, question.inputs, *question.extra)


def _integrated_gradients(question: Question) -> Tensor:
    of = question.of
    return integrated_gradients(
        of.outputs, of.model, question.inputs, question.baselines, None, question.extra
    )


class Method(NamedTuple):
    """A method.

    Attributes:
        scores: From what is asked to scores `(A, N)`.
        layers: Likewise to the scores at every depth, `(A, L, N)`, of a method that has them.
        kind: What its scores are, a name of `captum_globenc.results.record.KINDS`.
    """

    scores: Callable[[Question], Tensor]
    layers: Callable[[Question], Tensor] | None = None
    kind: Kind = "signed"


METHODS: Mapping[str, Method] = {
    "globenc": Method(_globenc, _globenc_layers, "shares"),
    "transformer-deep-lift": Method(_deep_lift, _deep_lift_layers, "contributions"),
    "decompx": Method(_decompx),
    "integrated-gradients": Method(_integrated_gradients),
}
"""The methods by name, in the order in which they are shown."""

DEFAULT_METHODS = ("globenc", "transformer-deep-lift")
"""Those that a text is explained by unless others are chosen."""


def run_methods(
    question: Question, methods: Sequence[str] | None, layers: bool, told: dict[str, None]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ask every method.

    Args:
        question: what is asked.
        methods: names from `METHODS`; left out, those of `DEFAULT_METHODS` that hold for the model.
        layers: whether to ask for the scores at every depth as well.
        told: gets what is left out, and why.

    Returns:
        By method, scores `(A, N)`, and of those that have them `(A, L, N)` at every depth.

    Raises:
        ValueError: a method that was chosen does not hold for the model, none does, or scores are not finite.
        RuntimeError: its numbers were found not to hold.
    """
    found: dict[str, Tensor] = {}
    depths: dict[str, Tensor] = {}
    refused: dict[str, Exception] = {}
    for name in dict.fromkeys(DEFAULT_METHODS if methods is None else methods):
        method = METHODS[name]
        try:
            found[name] = method.scores(question)
        except CaptumGlobencError as error:
            if methods is not None:
                raise
            refused[name] = error
            continue
        if not found[name].isfinite().all():
            raise ValueError(f"{name} gave scores that are NaN or infinite")
        if layers and method.layers is not None:
            try:
                depths[name] = method.layers(question)
            except CaptumGlobencError as error:  # such as that a decoder reads the text as well
                told[f"{name} has no scores of single layers: {error}"] = None
    if not found:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in refused.items()))
    used = resolve_baseline(question.of.baseline, question.of.model, question.of.tokenizer)
    if used == "zero" != question.of.baseline and found.keys() & {
        "transformer-deep-lift",
        "integrated-gradients",
    }:
        told[
            f"the baseline is {used!r}: the model scales its embeddings by the number of mask tokens "
            f"(token_dropout), so {question.of.baseline!r} is none"
        ] = None
    if "transformer-deep-lift" in found and has_experts(question.of.model):
        told[
            "the model routes tokens to experts: the baseline takes the decisions of the text, and "
            "contributions sum to the difference along that route"
        ] = None
    told.update({f"{name} is left out: {error}": None for name, error in refused.items()})
    return found, depths
