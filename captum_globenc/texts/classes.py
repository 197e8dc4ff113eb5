"""The classes of a classifier: what its model is for, what each is called, how likely it is.

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
"""A class by its name or its index, or a value."""

SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
ACTIVATIONS = {SINGLE: "softmax", MULTI: "sigmoid", VALUE: "none"}
"""What makes probabilities of logits, by what a model is for, as transformers calls it."""

TRUTH = {"false": 0, "true": 1}
"""The classes of labels that say only whether something holds, where two classes are called otherwise."""


def problem_of(config: PretrainedConfig) -> str:
    """Return what a model is for, a key of :data:`ACTIVATIONS`.

    As transformers has it, one output is a value unless it is said to be a label of several.

    Example:
        >>> from transformers import BertConfig
        >>> problem_of(BertConfig(num_labels=1)), problem_of(BertConfig(num_labels=3))
        ('regression', 'single_label_classification')
    """
    if config.problem_type == MULTI:
        return MULTI
    return VALUE if config.problem_type == VALUE or config.num_labels == 1 else SINGLE


def class_of(label: Name, names: Sequence[str], what: str = "label") -> int:
    """Return the class of a label: its name as it is or in any case, or its index where no name is a number.

    Args:
        label: the label.
        names: of the classes, by index.
        what: what a message calls the label.

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
    if text in TRUTH and len(names) == 2:
        return TRUTH[text]
    by_index = text.isdecimal() and not any(name.isdecimal() for name in names)
    if by_index and int(text) < len(names) and str(int(text)) == text:  # 007 is a code, and no index
        return int(text)
    raise ValueError(f"{what} {label!r} is none of the model's: {', '.join(names)}")


def class_names(config: PretrainedConfig, count: int | None = None) -> list[str]:
    """Return the names of so many classes, or of all of a model, by index, each another.

    One without a name is called by its number, which also tells those apart that are called alike.

    Example:
        >>> from transformers import BertConfig
        >>> class_names(BertConfig(id2label={0: "bad", 1: "good"}), 3)
        ['bad', 'good', '2']
        >>> class_names(BertConfig(id2label={0: "bad", 1: "bad"}), 2)
        ['bad (0)', 'bad (1)']
    """
    known = cast("Mapping[int, str]", config.id2label or {})
    names = [str(known.get(index, "")) or str(index) for index in range(count or config.num_labels or 0)]
    alike = Counter(names)
    return [name if alike[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)]


def probabilities(logits: Tensor, config: PretrainedConfig) -> Tensor | None:
    """Return the probabilities `(B, C)` that logits mean; None where they are values.

    Example:
        >>> import torch
        >>> from transformers import BertConfig
        >>> probabilities(torch.tensor([[0.0, 0.0]]), BertConfig())
        tensor([[0.5000, 0.5000]])
    """
    return activated(logits, ACTIVATIONS[problem_of(config)])


def activated(logits: Tensor, activation: str) -> Tensor | None:
    """Return the probabilities `(B, C)` that logits mean by an activation; None where they are values.

    Args:
        logits: `(B, C)`.
        activation: one of the values of `ACTIVATIONS`.
    """
    if activation == ACTIVATIONS[MULTI]:
        return logits.sigmoid()
    return None if activation == ACTIVATIONS[VALUE] or logits.shape[1] == 1 else logits.softmax(-1)
