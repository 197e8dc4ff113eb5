"""The methods that are compared, added to explanations: every one of them shown on a text.

B texts, N tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.methods import METHODS, seeded
from captum_globenc.evaluation.subject import Batch, Subject
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.record import Kind
from captum_globenc.texts.classes import class_of
from captum_globenc.texts.subject import run_together

__all__ = ["explain_by"]

MIXED = {"globenc", *MIXINGS, "attention-rollout", "value-zeroing", "alti"}
"""Methods that say what layers mix, special tokens too, whatever the class; some with "/" and more behind."""

UNSIGNED = {*MIXED, "saliency", "random"}
"""Methods whose scores say how much, not for what."""


def explain_by(
    methods: Iterable[str],
    explanations: Sequence[Explanation],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    position: int | Literal["mean"] | None = None,
) -> Explanations:
    """Add the scores of methods that are compared to explanations of the same model.

    All explain the class that the explanations do, and compare with the text all masked, special tokens kept;
    these get 0 but by what tells of mixing. What has no sign is shown as shares of the sum.

    Args:
        methods: names from :data:`captum_globenc.evaluation.METHODS`.
        explanations: of B texts, by `captum_globenc.explain`; they run as one batch, but
            where the model knows no padding.
        model: the sequence classifier.
        tokenizer: its tokenizer.
        position: the token whose mixture GlobEnc's kinds explain, as in `explain`.

    Returns:
        The explanations, with scores by these methods behind those that they had.

    Raises:
        ValueError: a name is not known, a class is held against another, or the tokens are not those that the
            tokenizer makes of the texts.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> model, tokenizer = load_default()
        >>> found = explain(["A wonderful film."], model, tokenizer, methods=["globenc"])
        >>> (more,) = explain_by(["feature-ablation"], found, model, tokenizer)
        >>> list(more.scores), more.top(1)[0][0]
        (['globenc', 'feature-ablation'], 'wonderful')
    """
    methods = list(methods)
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"no method {', '.join(unknown)}; known: {', '.join(METHODS)}")
    if any(it.against is not None for it in explanations):
        raise ValueError(f"{', '.join(methods)} cannot hold a class against another: leave that out")
    if any(it.span is not None or it.outputs for it in explanations):
        raise ValueError(f"{', '.join(methods)} explain one class of a whole text: leave others out")
    if not explanations or not methods:
        return Explanations(explanations)
    subject = Subject(model, tokenizer, position=position)
    together = [explanations] if run_together(model, tokenizer) else [[it] for it in explanations]
    return Explanations(it for some in together for it in _added(methods, some, subject))


def _added(
    methods: Sequence[str], explanations: Sequence[Explanation], subject: Subject
) -> Iterator[Explanation]:
    """Yield explanations of one batch with the scores of more methods."""
    batch = subject.batch(0, [Example(i, it.text, None, it.pair) for i, it in enumerate(explanations)])
    real: Tensor = batch.extra[0]  # its attention mask
    lengths = real.sum(-1).tolist()
    if lengths != [len(it.tokens) for it in explanations]:
        raise ValueError("the explanations are of other tokens than the tokenizer makes of the texts")
    classes = [class_of(it.target, subject.names, "target") for it in explanations]
    batch = replace(batch, target=torch.tensor(classes, device=batch.inputs.device))
    kinds: dict[str, Kind] = {name: _kind(name) for name in methods}
    made = {name: _scores(name, subject, batch, real) for name in methods}
    for i, (it, length) in enumerate(zip(explanations, lengths, strict=True)):
        scores = {**it.scores, **{name: rows[i][:length] for name, rows in made.items()}}
        yield replace(it, scores=scores, kinds={**it.kinds, **kinds})


def _kind(name: str) -> Kind:
    return "sizes" if name.partition("/")[0] in UNSIGNED else "signed"


def _scores(name: str, subject: Subject, batch: Batch, real: Tensor) -> list[list[float]]:
    """Return what a method says of each token, `(B, N)`: without a sign, as shares of the sum.

    Special tokens, which all but what tells of mixing leave as they are, get 0 then.
    """
    with seeded(f"{subject.seed} {name} {batch.index}"):
        scores: Tensor = METHODS[name](subject, batch).detach().double()
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{name} gave scores that are NaN or infinite")
    scores = scores * (real if name.partition("/")[0] in MIXED else batch.mask)
    if _kind(name) == "sizes":
        total = scores.sum(-1, keepdim=True)
        scores = scores / total.where(total != 0, 1)
    rows: list[list[float]] = scores.tolist()
    return rows
