"""The tasks of text models, one row each, found by the name of the model's class."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from captum_globenc.forward import sentence_object
from captum_globenc.texts.model import LoadedModel
from captum_globenc.texts.outputs import ExplainedOutput, Predictions
from captum_globenc.texts.tasks.generation import select_generated
from captum_globenc.texts.tasks.masked_lm import select_masks
from captum_globenc.texts.tasks.question_answering import select_answers
from captum_globenc.texts.tasks.text_classification import select_classes
from captum_globenc.texts.tasks.token_classification import select_entities

__all__ = ["SIMILARITY", "TASKS", "Task", "task_name", "task_named", "task_of"]

SIMILARITY = "similarity"
"""The task of a SentenceTransformer, which has no head."""


class Task(NamedTuple):
    """A task.

    Attributes:
        name: the name of the pipeline in transformers.
        heads: a regular expression for the class names of models.
        auto: the auto class of transformers.
        select: selects the explained outputs from the predictions of a batch.
        output: the fields of the model's output that are used.
        generates: whether the model generates text, so that texts are prompts.
    """

    name: str
    heads: str
    auto: str
    select: Callable[[Predictions], list[ExplainedOutput]]
    output: str | Sequence[str] = "logits"
    generates: bool = False


TASKS: tuple[Task, ...] = (
    Task(
        "token-classification", r"ForTokenClassification$", "AutoModelForTokenClassification", select_entities
    ),
    Task(
        "question-answering",
        r"ForQuestionAnswering(Simple)?$",
        "AutoModelForQuestionAnswering",
        select_answers,
        ("start_logits", "end_logits"),
    ),
    Task("fill-mask", r"(ForMaskedLM|(XLM|Flaubert)WithLMHeadModel)$", "AutoModelForMaskedLM", select_masks),
    Task(
        "text2text-generation",
        r"(ForConditionalGeneration|ForTextToText|^T5WithLMHeadModel|^MarianMTModel|^EncoderDecoderModel)$",
        "AutoModelForSeq2SeqLM",
        select_generated,
        generates=True,
    ),
    Task(
        "text-generation",
        r"(ForCausalLM|LMHeadModel|ModelWithLMHead|^BertGenerationDecoder)$",
        "AutoModelForCausalLM",
        select_generated,
        generates=True,
    ),
    Task("text-classification", r"", "AutoModelForSequenceClassification", select_classes),
)
"""The tasks; the last one is for all other models."""


SUPPORTED = (
    "supported are ...ForSequenceClassification, ...ForTokenClassification, ...ForQuestionAnswering, "
    "...ForMaskedLM, ...ForCausalLM, ...ForConditionalGeneration, and models of sentence-transformers "
    "(docs/tasks.md)."
)
"""The supported models, for error messages."""


def other_task(names: Sequence[str]) -> str:
    """Return the error message for checkpoints with the head of an unsupported task; "" for others.

    Such a head would be replaced by a classification head with random weights.

    Args:
        names: `architectures` of a config. A bare encoder, such as `BertModel`, has no head.

    Example:
        >>> other_task(["BertForMultipleChoice"]).partition(":")[0]
        'BertForMultipleChoice is for a task that is not explained'
        >>> other_task(["BertForSequenceClassification"]), other_task(["BertModel"])
        ('', '')
    """
    if task_named(names) is not TASKS[-1]:
        return ""
    other = next(
        (name for name in names if re.search(r"For(?!SequenceClassification$)[A-Z]\w*$", name)), None
    )
    return f"{other} is for a task that is not explained: {SUPPORTED}" if other else ""


def check_task(loaded: LoadedModel, *, context: bool = False, generation: Sequence[str] = ()) -> None:
    """Check that options of one task were passed for a model of this task.

    Args:
        loaded: the model.
        context: whether second segments were passed as `context`.
        generation: the names of the options of text generation that were passed.

    Raises:
        ValueError: the model is for another task.
    """
    name = type(loaded.model).__name__
    if context and (loaded.embeds or task_of(loaded.model).select is not select_answers):
        raise ValueError(
            f"context is for models that answer questions, and this is a {name}: for a second segment, "
            "pass it as pair"
        )
    if generation and (loaded.embeds or not task_of(loaded.model).generates):
        raise ValueError(
            f"{', '.join(generation)}: for models that generate text (...ForCausalLM, "
            f"...ForConditionalGeneration), and this is a {name}"
        )


def task_name(model: nn.Module) -> str:
    """Return the name of a model's task: `SIMILARITY` or the name of a row of `TASKS`.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
        ... )
        >>> task_name(BertForMaskedLM(config))
        'fill-mask'
    """
    return SIMILARITY if sentence_object(model) == "SentenceTransformer" else task_of(model).name


def task_of(model: nn.Module) -> Task:
    """Return the task of a model.

    Args:
        model: a model of transformers, or of a derived class.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> config = BertConfig(
        ...     vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
        ... )
        >>> task_of(BertForMaskedLM(config)).select.__name__
        'select_masks'
    """
    return task_named([kind.__name__ for kind in type(model).__mro__])


def task_named(names: Sequence[str]) -> Task:
    """Return the task of models with these class names.

    Example:
        >>> task_named(["BertForMaskedLM"]).auto, task_named([]).auto
        ('AutoModelForMaskedLM', 'AutoModelForSequenceClassification')
    """
    return next((task for task in TASKS if any(re.search(task.heads, name) for name in names)), TASKS[-1])
