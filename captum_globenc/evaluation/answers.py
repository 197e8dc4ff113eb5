"""The evaluation of models that generate text: the explained output is the log-probability of an answer.

Letters: B batch, N tokens of a prompt, T tokens of an answer.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from captum_globenc.evaluation.data import Example, Label
from captum_globenc.evaluation.subject import Batch, Remembering, Subject, token_masks
from captum_globenc.texts.classes import VALUE
from captum_globenc.texts.model import as_loaded_model
from captum_globenc.texts.options import Options, resolve_position
from captum_globenc.texts.outputs import Predictions, selector_tensors
from captum_globenc.texts.prompts import read_prompts
from captum_globenc.texts.request import AttributionRequest, Explainer, run_batch
from captum_globenc.texts.tasks.generation import (
    AnswerForward,
    left_padded,
    prepare_prompts,
    select_generated,
)

NAME = "log-probability"
"""The name of the explained output."""


class AnswerSubject(Subject):
    """A model that generates text, under evaluation.

    Metrics remove tokens from the prompt: they are hidden from attention, and the others close the gap. The
    last token of a prompt, and the last of its sentences, usually the question, are never removed.
    """

    @cached_property
    def forward(self) -> AnswerForward:
        """The forward function from prompts to the log-probabilities `(B, T)` of answer tokens."""
        return AnswerForward(self.model)

    @property
    def blank(self) -> None:
        """Removed tokens are not replaced."""
        return

    @property
    def problem(self) -> str:
        """The problem type: log-probabilities are values."""
        return VALUE

    @property
    def names(self) -> list[str]:
        """The name of the one output."""
        return [NAME]

    def classes(self, label: Label) -> None:
        """Return None: labels are not used."""

    def prediction(self, batch: Batch, place: int) -> str:
        """Return the answer to a prompt."""
        return batch.examples[place].answer or ""

    def batch(self, index: int, examples: Sequence[Example], target: Tensor | None = None) -> Batch:
        """Tokenize prompts and answers, run the model, and find the tokens that may be removed.

        Raises:
            ValueError: a prompt with its answer is above the model's limit, or an output is not finite.
        """
        texts = [it.text for it in examples]
        loaded = as_loaded_model(self.model, self.tokenizer)
        prompts = read_prompts(texts, self.tokenizer, [it.answer for it in examples])
        encoded, forward = prepare_prompts(prompts, loaded, Options())
        outputs = run_batch(forward, self.model, encoded.batch, together=True)
        pairs = [None] * len(texts)
        predictions = Predictions(texts, pairs, encoded, outputs, loaded, Options(), lambda _: None, prompts)
        explained = select_generated(predictions)
        inputs, extra = forward.arguments(encoded.batch)
        position = "mean" if self.position is None else self.position
        request = AttributionRequest(
            self.explainer,
            encoded.batch,
            torch.arange(len(texts), device=inputs.device),
            selector_tensors([it.terms for it in explained], outputs),
            resolve_position(position, encoded.whole["attention_mask"].sum(dim=1), texts),
            together=True,
        )
        decoder = extra[-1] is None
        places = {
            "attention_mask": encoded.whole["attention_mask"],
            **token_masks(encoded.whole, examples, question=True),
        }
        places = {name: it.to(inputs.device) for name, it in places.items()}
        places = left_padded(places) if decoder else places
        real = encoded.batch["attention_mask"].bool()
        mask = ~request.special & real
        last = real.long().cumsum(dim=1).argmax(dim=1)
        mask[torch.arange(len(mask)), last] = False
        return Batch(
            index=index,
            examples=tuple(examples),
            labels=(None,) * len(texts),
            outputs=torch.tensor([[it.explained] for it in explained]).to(outputs),
            inputs=inputs,
            extra=(*extra, *request.selected),
            mask=mask,
            target=torch.zeros(len(texts), dtype=torch.long, device=inputs.device),
            request=request,
            forward=Remembering(_Closed(self.explainer, decoder=decoder)),
            marked=places["marked"],
            decoys=places["decoys"],
            sentences=places["sentences"],
        )


class _Closed:
    """The explained outputs of prompts from which hidden tokens are taken out, `(B, 1)`.

    A decoder predicts the answer at the last position, so its padding has to be on the left.
    """

    def __init__(self, explainer: Explainer, *, decoder: bool) -> None:
        self._outputs, self._decoder = explainer.outputs, decoder

    def __call__(self, inputs: Tensor, mask: Tensor, *rest: Any) -> Tensor:
        order = (mask if self._decoder else 1 - mask).argsort(dim=1, stable=True)
        found: Tensor = self._outputs(inputs.gather(1, order), mask.gather(1, order), *rest)
        return found[:, None]
