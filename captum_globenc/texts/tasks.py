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
from captum_globenc.texts.tagging import ask_entities

__all__ = ["TASKS", "Task", "task_named", "task_of"]


class Task(NamedTuple):
    """A task.

    Attributes:
        heads: a regular expression for the names of the classes of models.
        auto: the class of transformers that loads such a model.
        ask: says what is explained, from what a model gave.
        output: the fields of the model's output that are looked at.
    """

    heads: str
    auto: str
    ask: Callable[[Given], list[Asked]]
    output: str | Sequence[str] = "logits"


TASKS: tuple[Task, ...] = (
    Task(r"ForTokenClassification$", "AutoModelForTokenClassification", ask_entities),
    Task(
        r"ForQuestionAnswering(Simple)?$",
        "AutoModelForQuestionAnswering",
        ask_answers,
        ("start_logits", "end_logits"),
    ),
    Task(r"(ForMaskedLM|(XLM|Flaubert)WithLMHeadModel)$", "AutoModelForMaskedLM", ask_masks),
    Task(r"", "AutoModelForSequenceClassification", ask_classes),
)
"""The tasks; the last takes what no other does."""


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
    return task_named([kind.__name__ for kind in type(model).__mro__])


def task_named(names: Sequence[str]) -> Task:
    """Return what models of classes of these names are for.

    Example:
        >>> task_named(["BertForMaskedLM"]).auto, task_named([]).auto
        ('AutoModelForMaskedLM', 'AutoModelForSequenceClassification')
    """
    # What no head fits is left to the last.
    return next((task for task in TASKS if any(re.search(task.heads, name) for name in names)), TASKS[-1])
