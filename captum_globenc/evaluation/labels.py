"""Labels of texts: one class, several classes, or a value, depending on the model's problem type."""

from collections.abc import Sequence
from contextlib import suppress

from captum_globenc.texts.classes import MULTI, VALUE, Name, class_of

Label = Name | Sequence[Name] | None
"""A class, a list of classes, or the value of a regression; None for unlabeled texts."""


def classes_of(label: Label, names: Sequence[str], problem: str) -> tuple[int, ...] | None:
    """Return the class indices of a label; exactly one unless the model is multi-label.

    Args:
        label: the label of a text.
        names: the names of the classes, by index.
        problem: the model's problem type.

    Returns:
        The indices; None without a label, and for a regression.

    Raises:
        ValueError: the model has no such class; the label looks one-hot; the label has several classes, and
            the model is single-label; or the model is a regression, and the label is not a number.

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
        return (_class(label, names),)
    _check_names(label, names)
    found = tuple(_class(each, names) for each in label)
    if problem != MULTI and len(found) != 1:
        raise ValueError(
            f"label {list(label)} has {len(found)} classes, and this model gives a text one: where it may "
            f"have several, set model.config.problem_type to {MULTI!r}"
        )
    return found


def _class(label: Name, names: Sequence[str]) -> int:
    """Return the class of a label; "1.0", as tables with missing values have it, is read as 1."""
    if isinstance(label, str) and label.lower() not in (name.lower() for name in names):
        whole = label.removesuffix(".0")
        label = whole if whole.isdecimal() else label
    return class_of(label, names)


def _check_number(label: Label) -> None:
    if isinstance(label, Name):
        with suppress(ValueError):
            float(label)
            return
    raise ValueError(f"label {label!r} is no number, and the model gives a value")


def _check_names(label: Sequence[Name], names: Sequence[str]) -> None:
    """Reject one-hot labels, which would be read as class indices, and repeated classes."""
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
