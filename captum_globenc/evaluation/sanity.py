"""Sanity checks: do scores change with the weights, and only with what the model computes?

Letters: B batch, N tokens, T texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.methods import attribute
from captum_globenc.evaluation.subject import Batch, Remembering, Subject
from captum_globenc.evaluation.variants import redrawn
from captum_globenc.metrics import spearman

Found = dict[str, Tensor]
"""For each method one value a text, `(T,)` float64."""

SAME = 1e-3
"""Outputs of two models, in logits, that are no further apart count as the same."""


def randomization(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    methods: Sequence[str],
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> Iterator[tuple[str, Found]]:
    """Compare scores with those after weights were drawn anew, part by part from the top.

    Adebayo et al. (2018), section 3: a method whose scores stay what they are says nothing of the model.

    Args:
        model: the classifier, in eval mode; left as it is.
        tokenizer: its tokenizer.
        examples: the T texts. The class that is explained stays the one that the whole model predicts.
        methods: names of :data:`~captum_globenc.evaluation.METHODS`.
        batch_size: texts that run together.
        seed: of everything that is random; methods draw alike before and after.

    Yields:
        The part that was drawn last, as :func:`redrawn` names them, and Spearman's correlation of the scores
        with those of the model as it was, NaN where scores are constant.

    Example:
        >>> from captum_globenc.texts import load_default
        >>> texts = [Example(0, "A wonderful film."), Example(1, "The plot is thin, but not the acting.")]
        >>> name, found = next(randomization(*load_default(), texts, ["globenc", "random"]))
        >>> name, [f"{value:.3f}" for value in found["random"].tolist()]
        ('head', ['1.000', '1.000'])
    """
    before = _scored(Subject(model, tokenizer, seed=seed), examples, methods, batch_size)
    for name, changed in redrawn(model, seed):
        after = _scored(Subject(changed, tokenizer, seed=seed), examples, methods, batch_size, before)
        yield name, _compared(spearman, before, after, methods)


def invariance(
    model: PreTrainedModel,
    same: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    methods: Sequence[str],
    *,
    batch_size: int = 16,
    seed: int = 0,
) -> Found:
    """Compare the scores of two models that compute the same function by other weights.

    "Implementation invariance" of Sundararajan et al. (2017), section 2.2.

    Args:
        model: the classifier, in eval mode.
        same: another with its outputs: of :func:`with_permuted_heads`, say, or :func:`with_folded_gains`.
        tokenizer: of both.
        examples: the T texts.
        methods: names of :data:`~captum_globenc.evaluation.METHODS`.
        batch_size: texts that run together.
        seed: of everything that is random; methods draw alike on both.

    Returns:
        The largest change of a score, in parts of the largest score by size: 0 where all are the same.

    Raises:
        ValueError: the outputs differ.
    """
    before = _scored(Subject(model, tokenizer, seed=seed), examples, methods, batch_size)
    after = _scored(Subject(same, tokenizer, seed=seed), examples, methods, batch_size, before)
    _check_outputs(before, after)
    return _compared(_change, before, after, methods)


def added_token(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    methods: Sequence[str],
    *,
    token: int,
    batch_size: int = 16,
    seed: int = 0,
) -> Found:
    """Add a token that has no effect: does it get a score, or change those of others?

    It stands behind the text, and the attention mask hides it from all other tokens. "Sensitivity (b)" of
    Sundararajan et al. (2017), section 3.

    Args:
        model: the classifier, in eval mode.
        tokenizer: its tokenizer.
        examples: the T texts.
        methods: names of :data:`~captum_globenc.evaluation.METHODS`.
        token: the id of the token.
        batch_size: texts that run together.
        seed: of everything that is random.

    Returns:
        The largest change of a score, that of the added token counted from 0, in parts of the largest score
        by size.

    Raises:
        ValueError: the token changes the output.
    """
    subject = Subject(model, tokenizer, seed=seed)
    before = _scored(subject, examples, methods, batch_size)
    after = [_with_hidden(subject, batch, token) for batch in before]
    _check_outputs(before, after)
    for batch in after:
        for method in methods:
            attribute(method, subject, batch)
    return _compared(_change, before, after, methods)


def _scored(
    subject: Subject,
    examples: Sequence[Example],
    methods: Sequence[str],
    size: int,
    like: Sequence[Batch] | None = None,
) -> list[Batch]:
    """Return batches with their scores, for the classes that are explained in batches `like` them."""
    starts = range(0, len(examples), size)
    batches = [subject.batch(index, examples[start : start + size]) for index, start in enumerate(starts)]
    if like is not None:
        batches = [replace(new, target=old.target) for new, old in zip(batches, like, strict=True)]
    for batch in batches:
        for method in methods:
            attribute(method, subject, batch)
    return batches


def _compared(
    statistic: Callable[[Tensor, Tensor, Tensor], Tensor],
    before: Sequence[Batch],
    after: Sequence[Batch],
    methods: Sequence[str],
) -> Found:
    """Return a statistic of old scores, new scores and the mask of the new, `(T,)` by method."""
    pairs = list(zip(before, after, strict=True))
    return {
        method: torch.cat([statistic(old.scores[method], new.scores[method], new.mask) for old, new in pairs])
        for method in methods
    }


def _change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Return the largest change of a score `(B,)`; what was added to the new is compared with 0."""
    old = torch.nn.functional.pad(old.double(), (0, new.shape[1] - old.shape[1]))
    return (new - old).abs().amax(dim=1) / old.abs().amax(dim=1)


def _check_outputs(before: Sequence[Batch], after: Sequence[Batch]) -> None:
    gap = max(float((new.outputs - old.outputs).abs().max()) for old, new in zip(before, after, strict=True))
    if gap > SAME:
        raise ValueError(f"outputs differ by up to {gap:.2g}: what is compared does not compute the same")


def _with_hidden(subject: Subject, batch: Batch, token: int) -> Batch:
    """Return a batch, not yet scored, with a token behind each text that no other attends to."""

    def longer(rows: Tensor, value: int | bool) -> Tensor:
        return torch.nn.functional.pad(rows, (0, 1), value=value)

    mask, *others = batch.extra
    inputs, extra = (
        longer(batch.inputs, token),
        (
            longer(torch.ones_like(batch.inputs) if mask is None else mask, 0),
            *(None if it is None else longer(it, 0) for it in others),
        ),
    )
    with torch.no_grad():
        outputs = subject.forward(inputs, *extra)
    return replace(
        batch,
        inputs=inputs,
        extra=extra,
        outputs=outputs,
        mask=longer(batch.mask, True),
        blanks=longer(batch.blanks, subject.blank),
        marked=longer(batch.marked, False),
        decoys=longer(batch.decoys, False),
        forward=Remembering(subject.forward),
        scores={},
    )
