"""Sanity checks: do scores change with the weights, and only with what the model computes?

Letters: B batch, N tokens, T texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.subject import Batch, Remembering, Subject, attribute
from captum_globenc.evaluation.variants import redrawn
from captum_globenc.metrics import spearman

Found = dict[str, Tensor]
"""For each method one value a text, `(T,)` float64."""

SAME = 1e-3
"""Outputs of two models, in logits, that are no further apart count as the same."""


class SanityChecks:
    """Scores of methods, and what becomes of them as the model changes, or only seems to.

    Args:
        model: the classifier, in eval mode; left as it is.
        tokenizer: its tokenizer.
        examples: the T texts. The class that is explained is always the one that this model predicts.
        methods: names of :data:`~captum_globenc.evaluation.METHODS`.
        batch_size: texts that run together.
        seed: of everything that is random; methods draw alike each time.

    Example:
        >>> from captum_globenc.evaluation import with_permuted_heads
        >>> from captum_globenc.texts import load_default
        >>> model, tokenizer = load_default()
        >>> texts = [Example(0, "A wonderful film."), Example(1, "The plot is thin, but not the acting.")]
        >>> checks = SanityChecks(model, tokenizer, texts, ["transformer-deep-lift", "random"])
        >>> bool((checks.invariance(with_permuted_heads(model))["transformer-deep-lift"] < 1e-3).all())
        True
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        methods: Sequence[str],
        *,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self._subject = Subject(model, tokenizer, seed=seed)
        self._methods = methods
        starts = range(0, len(examples), batch_size)
        self._texts = [examples[start : start + batch_size] for start in starts]
        self._batches = [self._subject.batch(index, some) for index, some in enumerate(self._texts)]
        self._score(self._batches)

    def randomization(self) -> Iterator[tuple[str, Found]]:
        """Compare scores with those after weights were drawn anew, part by part from the top.

        Adebayo et al. (2018), section 3: a method whose scores stay what they are says nothing of the model.

        Yields:
            The part that was drawn last, as :func:`redrawn` names them, and Spearman's correlation of the
            scores with those of the model as it was, NaN where scores are constant.
        """
        for name, changed in redrawn(self._subject.model, self._subject.seed):
            yield name, self._compared(spearman, self._of(changed))

    def invariance(self, same: PreTrainedModel) -> Found:
        """Compare with the scores of another model that computes the same function with other weights.

        Sundararajan et al. (2017), section 2.2, ask of a method that scores depend on the function alone.
        One such model can show that a method violates this, and none that it holds: exact differences are
        the same with permuted heads and with folded gains, and differ between (x1 x2) x3 and x1 (x2 x3).

        Args:
            same: a model with the same outputs, such as :func:`with_permuted_heads` or
                :func:`with_folded_gains` returns.

        Returns:
            The largest change of a score, relative to the largest absolute score: 0 if all are the same.

        Raises:
            ValueError: the outputs differ.
        """
        after = self._of(same)
        self._check_outputs(after)
        return self._compared(_change, after)

    def added_token(self, token: int) -> Found:
        """Add a token that has no effect: does it get a score, or change those of others?

        It stands behind the text, and the attention mask hides it from all other tokens. "Sensitivity (b)"
        of Sundararajan et al. (2017), section 3.

        Args:
            token: its id.

        Returns:
            The largest change of a score, that of the added token counted from 0, in parts of the largest
            score by size.

        Raises:
            ValueError: the token changes the output.
        """
        after = [_with_hidden(self._subject, batch, token) for batch in self._batches]
        self._check_outputs(after)
        self._score(after)
        return self._compared(_change, after)

    def _of(self, model: PreTrainedModel) -> list[Batch]:
        """Return the batches with another model's scores, for the classes of the first."""
        subject = replace(self._subject, model=model)
        batches = [
            subject.batch(index, some, self._batches[index].target) for index, some in enumerate(self._texts)
        ]
        self._score(batches)
        return batches

    def _score(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for method in self._methods:
                attribute(method, batch)

    def _compared(
        self, statistic: Callable[[Tensor, Tensor, Tensor], Tensor], after: Sequence[Batch]
    ) -> Found:
        """Return a statistic of old scores, new scores and the mask of the new, `(T,)` by method."""
        pairs = list(zip(self._batches, after, strict=True))
        return {
            method: torch.cat(
                [statistic(old.scores[method], new.scores[method], new.mask) for old, new in pairs]
            )
            for method in self._methods
        }

    def _check_outputs(self, after: Sequence[Batch]) -> None:
        pairs = zip(self._batches, after, strict=True)
        gap = max(float((new.outputs - old.outputs).abs().max()) for old, new in pairs)
        if gap > SAME:
            raise ValueError(f"outputs differ by up to {gap:.2g}: what is compared does not compute the same")


def _change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Return the largest change of a score `(B,)`; what was added to the new is compared with 0."""
    old = pad(old.double(), (0, new.shape[1] - old.shape[1]))
    return (new - old).abs().amax(dim=1) / old.abs().amax(dim=1)


def _with_hidden(subject: Subject, batch: Batch, token: int) -> Batch:
    """Return a batch, not yet scored, with a token behind each text that no other attends to."""

    def longer(rows: Tensor, value: int | bool) -> Tensor:
        return pad(rows, (0, 1), value=value)

    fill = {"input_ids": token, "attention_mask": 0, "special_tokens_mask": 0}
    longest = {name: longer(it, fill.get(name, 0)) for name, it in batch.request.batch.items()}
    request = replace(batch.request, batch=longest)
    inputs, extra = subject.forward.arguments(longest)
    with torch.no_grad():
        outputs = subject.forward(inputs, *extra)
    return replace(
        batch,
        inputs=inputs,
        extra=extra,
        outputs=outputs,
        mask=longer(batch.mask, True),
        request=request,
        marked=longer(batch.marked, False),
        decoys=longer(batch.decoys, False),
        forward=Remembering(subject.forward),
        scores={},
    )
