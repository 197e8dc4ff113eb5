"""Explain the answers of models that generate text, in batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from captum_globenc.datasets.rows import Done, Values, in_batches, mistake, one_by_one, word_indices
from captum_globenc.results.explanation import Explanation
from captum_globenc.texts.explaining import explain_prompts
from captum_globenc.texts.model import LoadedModel
from captum_globenc.texts.options import Options
from captum_globenc.texts.prompts import Prompt
from captum_globenc.texts.tasks.generation import check_generation, new_tokens
from captum_globenc.texts.tokenizing import token_ids

__all__ = ["Answers"]


class Answers:
    """Explain the log-probabilities of answers, as `explain` does.

    Args:
        loaded: a model that generates text.
        options: the options of `explain`.
        tokens: maximum number of tokens of a batch: its prompts and answers, padding included.

    Raises:
        ValueError: an option does not apply to the model.
    """

    def __init__(self, loaded: LoadedModel, options: Options, tokens: int) -> None:
        self._options = check_generation(loaded, options, {})
        self._loaded, self._tokens = loaded, tokens

    def __call__(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None,
        answers: Sequence[Any] | None,
        done: Done | None,
    ) -> list[Values]:
        """Explain the answers to prompts.

        Args:
            texts: the prompts, one value per row, of any type.
            pairs: None or "" in each row, because a prompt has no second segment; others are errors.
            answers: the answers, one value per row; None where the model generates the answer.
            done: function of the number of rows finished since its last call.
        """
        errors: dict[int, str] = {}
        for row, text in enumerate(texts):
            error = mistake(text, "text")
            if not error and answers is not None:
                error = mistake(answers[row] or None, "answer")
            if not error and pairs is not None and pairs[row] not in (None, ""):
                error = "a prompt has no second segment: write it into the prompt"
            if error:
                errors[row] = error
        rows = [row for row in range(len(texts)) if row not in errors]
        prompts = {row: Prompt(texts[row], answer=None if answers is None else answers[row]) for row in rows}
        if done is not None:
            done(len(errors))
        found: dict[int, Explanation] = {}
        for batch in in_batches(self._lengths(prompts), self._tokens):
            found |= one_by_one(
                batch,
                lambda chosen: explain_prompts(
                    [prompts[row] for row in chosen], self._loaded, self._options, {}
                ),
                errors.__setitem__,
            )
            if done is not None:
                done(len(batch))
        return [{"error": errors[row]} if row in errors else _values(found[row]) for row in range(len(texts))]

    def _lengths(self, prompts: dict[int, Prompt]) -> dict[int, int]:
        """Return the number of tokens of each prompt with its answer."""
        if not prompts:
            return {}
        ids = token_ids([it.text for it in prompts.values()], self._loaded.tokenizer)
        answers = [it.answer for it in prompts.values() if it.answer is not None]
        if answers:
            after = [len(it) for it in token_ids(answers, self._loaded.tokenizer)]
        else:
            after = [new_tokens(self._loaded, self._options)] * len(prompts)
        return {row: len(one) + more for row, one, more in zip(prompts, ids, after, strict=True)}


def _values(explanation: Explanation) -> Values:
    """Return the new values of a row from its explanation."""
    answer = explanation.answer
    assert answer is not None
    words = [it for it in explanation.groups if not it.special]
    places = explanation.offsets
    return {
        "input_ids": explanation.ids,
        "tokens": explanation.tokens,
        "offsets": [[0, 0] if it is None else [it.start, it.stop] for it in places] if places else None,
        "segments": [None if it is None else it.segment for it in places] if places else None,
        "word_ids": word_indices(words, len(explanation.tokens)),
        "words": [it.text for it in words],
        "prediction": explanation.prediction,
        "explained": explanation.target,
        "answer_ids": answer.ids,
        "answer_tokens": answer.tokens,
        "log_probabilities": answer.log_probabilities,
        "windows": 1,
        "truncated": False,
        **explanation.scores,
    }
