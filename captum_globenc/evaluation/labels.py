"""What labels say: a class by name or index, several of them, or a value, as the model's problem has it."""

from collections.abc import Sequence
from contextlib import suppress

from transformers import PreTrainedConfig

Name = str | int | float
"""A class by its name or its index, or a value."""

Label = Name | Sequence[Name] | None
"""A class, the classes that hold, or the value; None where a text has no label."""

SINGLE, MULTI, VALUE = "single_label_classification", "multi_label_classification", "regression"
ACTIVATIONS = {SINGLE: "softmax", MULTI: "sigmoid", VALUE: "none"}
"""What makes probabilities of logits, by what a model is for, as transformers calls it."""

TRUTH = {"false": 0, "true": 1}
"""The classes of labels that say only whether something holds, where two classes are called otherwise."""


def problem_of(config: PreTrainedConfig) -> str:
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
    """Return the class of a label: its name in any case, or its index where no name is a number.

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
    lowered = [name.lower() for name in names]
    text = str(label).lower()
    if text in lowered:
        return lowered.index(text)
    if text in TRUTH and len(names) == 2:
        return TRUTH[text]
    by_index = text.isdecimal() and not any(name.isdecimal() for name in names)
    if by_index and int(text) < len(names):
        return int(text)
    raise ValueError(f"{what} {label!r} is none of the model's: {', '.join(names)}")


def classes_of(label: Label, names: Sequence[str], problem: str) -> tuple[int, ...] | None:
    """Return the classes that hold, one where the model is not for several labels.

    Args:
        label: what a text is labelled with.
        names: of the classes, by index.
        problem: what the model is for.

    Returns:
        Indices; None where there is no label, or it is a value.

    Raises:
        ValueError: the model has no such class; a row is one-hot; there are several labels, and the model
            gives one; or the model gives a value, and the label is no number.

    Example:
        >>> classes_of(["toxic", "threat"], ["toxic", "insult", "threat"], MULTI)
        (0, 2)
    """
    if label is None:
        return None
    if problem == VALUE:
        _check_number(label)
        return None
    if isinstance(label, str | int | float):
        return (class_of(label, names),)
    _check_names(label, names)
    found = tuple(class_of(each, names) for each in label)
    if problem != MULTI and len(found) != 1:
        raise ValueError(
            f"label {list(label)} has {len(found)} classes, and this model gives a text one: where it may "
            f"have several, set model.config.problem_type to {MULTI!r}"
        )
    return found


def _check_number(label: Label) -> None:
    if isinstance(label, Name):
        with suppress(ValueError):
            float(label)
            return
    raise ValueError(f"label {label!r} is no number, and the model gives a value")


def _check_names(label: Sequence[Name], names: Sequence[str]) -> None:
    """Refuse rows with a 0 or 1 for every class, which would be taken for indices, and what is said twice."""
    marks = {"0", "1", "0.0", "1.0"} - {name.lower() for name in names}
    one_hot = all(not isinstance(each, str) or each in marks for each in label)
    one_hot = one_hot and {str(float(each)) for each in label} <= {"0.0", "1.0"}
    if label and one_hot and (len(label) == len(names) or len(set(label)) < len(label)):
        raise ValueError(
            f"label {list(label)} may be one-hot, or be indices: list the names of the classes that hold, "
            f"of {', '.join(names)}"
        )
    if len(set(label)) < len(label):
        raise ValueError(f"label {list(label)} names a class twice")
