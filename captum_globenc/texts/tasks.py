"""The tasks that texts are explained for: a row each, told by the name of the model's class."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from captum_globenc.texts.answering import ask_answers
from captum_globenc.texts.asked import Asked, Given
from captum_globenc.texts.classifying import ask_classes
from captum_globenc.texts.filling import ask_masks
from captum_globenc.texts.generation import ask_answer
from captum_globenc.texts.subject import Subject
from captum_globenc.texts.tagging import ask_entities

__all__ = ["TASKS", "Task", "task_named", "task_of"]


class Task(NamedTuple):
    """A task.

    Attributes:
        heads: a regular expression for the names of the classes of models.
        auto: the class of transformers that loads such a model.
        ask: says what is explained, from what a model gave.
        output: the fields of the model's output that are looked at.
        generates: whether the model generates text, so that texts are prompts.
    """

    heads: str
    auto: str
    ask: Callable[[Given], list[Asked]]
    output: str | Sequence[str] = "logits"
    generates: bool = False


TASKS: tuple[Task, ...] = (
    Task(r"ForTokenClassification$", "AutoModelForTokenClassification", ask_entities),
    Task(
        r"ForQuestionAnswering(Simple)?$",
        "AutoModelForQuestionAnswering",
        ask_answers,
        ("start_logits", "end_logits"),
    ),
    Task(r"(ForMaskedLM|(XLM|Flaubert)WithLMHeadModel)$", "AutoModelForMaskedLM", ask_masks),
    Task(
        r"(ForConditionalGeneration|^T5WithLMHeadModel)$",
        "AutoModelForSeq2SeqLM",
        ask_answer,
        generates=True,
    ),
    Task(r"(ForCausalLM|LMHeadModel)$", "AutoModelForCausalLM", ask_answer, generates=True),
    Task(r"", "AutoModelForSequenceClassification", ask_classes),
)
"""The tasks; the last takes what no other does."""


def check_task(subject: Subject, *, context: bool = False, generation: Sequence[str] = ()) -> None:
    """Check that options of a single task are given to a model for this task.

    Args:
        subject: the model.
        context: whether its second segments were passed as the context of questions.
        generation: the names of the options of generated text that were passed.

    Raises:
        ValueError: the model is for another task.
    """
    name = type(subject.model).__name__
    if context and (subject.embeds or task_of(subject.model).ask is not ask_answers):
        raise ValueError(
            f"context is for models that answer questions, and this is a {name}: for a second segment, "
            "pass it as pair"
        )
    if generation and (subject.embeds or not task_of(subject.model).generates):
        raise ValueError(
            f"{', '.join(generation)}: for models that generate text (...ForCausalLM, "
            f"...ForConditionalGeneration), and this is a {name}"
        )


def _class_names(model: nn.Module) -> list[str]:
    return [kind.__name__ for kind in type(model).__mro__]


def task_of(model: nn.Module) -> Task:
    """Return what a model is for.

    Args:
        model: the model, or one of a class of the user's own that inherits from it.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
        ... )
        >>> task_of(BertForMaskedLM(config)).ask.__name__
        'ask_masks'
    """
    return task_named(_class_names(model))


def task_named(names: Sequence[str]) -> Task:
    """Return what models of classes of these names are for.

    Example:
        >>> task_named(["BertForMaskedLM"]).auto, task_named([]).auto
        ('AutoModelForMaskedLM', 'AutoModelForSequenceClassification')
    """
    # What no head fits is left to the last.
    return next((task for task in TASKS if any(re.search(task.heads, name) for name in names)), TASKS[-1])
