"""Sanity checks: scores must depend on the model's weights, and only on the function it computes.

Letters: B batch, N tokens, T texts.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.evaluation.data import Example
from captum_globenc.evaluation.perturbed_models import redrawn
from captum_globenc.evaluation.subject import Batch, Remembering, Subject, attribute
from captum_globenc.metrics import spearman
from captum_globenc.texts.request import run_batch

Found = dict[str, Tensor]
"""By method name, one value per text, `(T,)` float64."""

SAME = 1e-3
"""Largest difference, in logits, of outputs that count as equal."""


class SanityChecks:
    """Compare the scores of methods before and after a change of the model or its inputs.

    Args:
        model: the classifier, in eval mode; not modified.
        tokenizer: its tokenizer.
        examples: T texts. The explained class is always the class that `model` predicts.
        methods: keys of :data:`~captum_globenc.evaluation.METHODS`.
        batch_size: number of texts per forward pass.
        seed: random seed, the same for every run of a method.

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
        """Compare the scores before and after the weights are randomized, part by part from the top.

        Adebayo et al. (2018), section 3: a method whose scores do not change does not explain the model.

        Yields:
            The name of the part randomized last, as in :func:`redrawn`, and Spearman's correlation of the
            scores before and after, NaN where scores are constant.
        """
        for name, changed in redrawn(self._subject.model, self._subject.seed):
            yield name, self._compare(spearman, self._rescore(changed))

    def invariance(self, same: PreTrainedModel) -> Found:
        """Compare the scores of two models that compute the same function with different weights.

        Implementation invariance (Sundararajan et al. 2017, section 2.2) requires that scores depend on the
        function alone. One model can show that a method violates it, but no model can prove that it holds:
        exact differences do not change with permuted heads or folded gains, but differ between (x1 x2) x3
        and x1 (x2 x3).

        Args:
            same: a model with the same outputs, for example from :func:`with_permuted_heads` or
                :func:`with_folded_gains`.

        Returns:
            The largest change of a score, relative to the largest absolute score; 0 if no score changes.

        Raises:
            ValueError: the outputs differ.
        """
        after = self._rescore(same)
        self._check_outputs(after)
        return self._compare(_change, after)

    def added_token(self, token: int) -> Found:
        """Compare the scores before and after a token without effect is appended to each text.

        The attention mask hides the token from all other tokens. "Sensitivity (b)" of Sundararajan et al.
        (2017), section 3.

        Args:
            token: the id of the token.

        Returns:
            The largest change of a score, relative to the largest absolute score. The change of the added
            token is its score.

        Raises:
            ValueError: the token changes the output.
        """
        after = [_append_masked(self._subject, batch, token) for batch in self._batches]
        self._check_outputs(after)
        self._score(after)
        return self._compare(_change, after)

    def _rescore(self, model: PreTrainedModel) -> list[Batch]:
        """Return the batches with the scores of another model, for the same explained classes."""
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

    def _compare(
        self, statistic: Callable[[Tensor, Tensor, Tensor], Tensor], after: Sequence[Batch]
    ) -> Found:
        """Return by method a statistic `(T,)` of the old scores, the new scores and the new mask."""
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
            raise ValueError(f"outputs differ by up to {gap:.2g}: both models must compute the same function")


def _change(old: Tensor, new: Tensor, mask: Tensor) -> Tensor:
    """Return the largest relative change of a score, `(B,)`; the old score of an added token is 0."""
    old = pad(old.double(), (0, new.shape[1] - old.shape[1]))
    return (new - old).abs().amax(dim=1) / old.abs().amax(dim=1)


def _append_masked(subject: Subject, batch: Batch, token: int) -> Batch:
    """Return an unscored batch with a token at the end of each text that no other token attends to."""

    def longer(rows: Tensor, value: int | bool) -> Tensor:
        return pad(rows, (0, 1), value=value)

    fill = {"input_ids": token, "attention_mask": 0, "special_tokens_mask": 0}
    longest = {name: longer(it, fill.get(name, 0)) for name, it in batch.request.batch.items()}
    request = replace(batch.request, batch=longest)
    inputs, extra = subject.forward.arguments(longest)
    outputs = run_batch(subject.forward, subject.model, longest, together=True)
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
