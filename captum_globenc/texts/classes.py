"""The classes of a classifier: problem type, names and probabilities.

Shapes: B texts, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import cast

from torch import Tensor
from transformers import PretrainedConfig

__all__ = [
    "ACTIVATIONS",
    "MULTI",
    "SINGLE",
    "VALUE",
    "Name",
    "activated",
    "class_names",
    "class_of",
    "probabilities",
    "problem_of",
]

Name = str | int | float
"""A class name, a class index, or a value of a regression."""

SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
ACTIVATIONS = {SINGLE: "softmax", MULTI: "sigmoid", VALUE: "none"}
"""The activation that turns logits into probabilities, by `problem_type` of transformers."""

BOOLEAN = {"false": 0, "true": 1}
"""Class indices of boolean labels, for models with two classes of other names."""


def problem_of(config: PretrainedConfig) -> str:
    """Return the problem type of a model, a key of :data:`ACTIVATIONS`.

    As in transformers, a model with one output is a regression unless its `problem_type` is multi-label.

    Example:
        >>> from transformers import BertConfig
        >>> problem_of(BertConfig(num_labels=1)), problem_of(BertConfig(num_labels=3))
        ('regression', 'single_label_classification')
    """
    if config.problem_type == MULTI:
        return MULTI
    return VALUE if config.problem_type == VALUE or config.num_labels == 1 else SINGLE


def class_of(label: Name, names: Sequence[str], what: str = "label") -> int:
    """Return the class index of a label.

    A label is a class name, in any case if that is unambiguous, or an index if no class name is a number.

    Args:
        label: the label.
        names: the class names, by index.
        what: the name of the label in error messages.

    Raises:
        ValueError: the model has no such class.

    Example:
        >>> class_of("GOOD", ["bad", "good"]), class_of(0, ["bad", "good"])
        (1, 0)
    """
    text = str(label)
    if text in names:
        return names.index(text)
    text, lowered = text.lower(), [name.lower() for name in names]
    if lowered.count(text) == 1:
        return lowered.index(text)
    if text in BOOLEAN and len(names) == 2:
        return BOOLEAN[text]
    by_index = text.isdecimal() and not any(name.isdecimal() for name in names)
    if by_index and int(text) < len(names) and str(int(text)) == text:  # "007" is not an index
        return int(text)
    raise ValueError(f"{what} {label!r} is not a class of the model: {', '.join(names)}")


def class_names(config: PretrainedConfig, count: int | None = None) -> list[str]:
    """Return unique class names, by index.

    A class without a name is named by its index. Equal names get their index as a suffix.

    Args:
        config: the model's config.
        count: the number of classes; by default `config.num_labels`.

    Example:
        >>> from transformers import BertConfig
        >>> class_names(BertConfig(id2label={0: "bad", 1: "good"}), 3)
        ['bad', 'good', '2']
        >>> class_names(BertConfig(id2label={0: "bad", 1: "bad"}), 2)
        ['bad (0)', 'bad (1)']
        >>> class_names(BertConfig(id2label={0: "a", 1: "a", 2: "a (0)"}))
        ['a (0) (0)', 'a (1)', 'a (0) (2)']
    """
    known = cast("Mapping[int, str]", config.id2label or {})
    names = [str(known.get(index, "")) or str(index) for index in range(count or config.num_labels or 0)]
    while len(counts := Counter(names)) < len(names):  # again if a class has such a name already
        names = [name if counts[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]
    return names


def probabilities(logits: Tensor, config: PretrainedConfig) -> Tensor | None:
    """Return probabilities `(B, C)` of logits `(B, C)`; None for a regression.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> probabilities(torch.tensor([[0.0, 0.0]]), BertConfig())
        tensor([[0.5000, 0.5000]])
    """
    return activated(logits, ACTIVATIONS[problem_of(config)])


def activated(logits: Tensor, activation: str) -> Tensor | None:
    """Return probabilities of logits `(B, C)` by a value of `ACTIVATIONS`; None for a regression."""
    if activation == ACTIVATIONS[MULTI]:
        return logits.sigmoid()
    return None if activation == ACTIVATIONS[VALUE] or logits.shape[1] == 1 else logits.softmax(-1)
