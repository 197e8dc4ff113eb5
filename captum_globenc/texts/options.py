"""The options of `explain`, checked, and the classes that its targets name.

Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PretrainedConfig

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.errors import check_names
from captum_globenc.texts.classes import VALUE, class_of, problem_of
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.request import BASELINES

__all__ = ["ALL", "Options", "Target", "check_options", "chosen_classes", "several_classes"]

ALL = "all"
"""The target for all classes, side by side."""

Target = str | int | Sequence[str | int]
"""The explained output by name or index, or a list of them."""


@dataclass(frozen=True)
class Options:
    """The options of `captum_globenc.explain`, with the same names; `generation` has those of `generate`.

    Raises:
        ValueError: A name is unknown, `methods` is empty, or a class is contrasted with itself.
    """

    methods: Sequence[str] | None = None
    position: int | Literal["mean"] | None = None
    mixing: str = "N-Enc"
    layers: bool = False
    target: Target | None = None
    against: str | int | None = None
    baseline: str = "mask"
    windows: int | None = None
    threshold: float = 0.5
    per_token: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods, target, against, windows = self.methods, self.target, self.against, self.windows
        if isinstance(methods, str) or (methods is not None and not methods):
            raise ValueError(f"methods is {methods!r}: a list of one or more of {', '.join(METHODS)}")
        if methods is not None:
            check_names("method", methods, METHODS)
        check_names("mixing", [self.mixing], MIXINGS)
        check_names("baseline", [self.baseline], BASELINES)
        if target is not None and not isinstance(target, str | int) and not target:
            raise ValueError("target is an empty list: choose one class or more")
        if against is not None and (target == ALL or isinstance(target, list | tuple)):
            raise ValueError("several classes cannot have a contrast class: choose one target")
        if None not in (target, against) and str(target).lower() == str(against).lower():
            raise ValueError(f"{against} is contrasted with itself: choose two classes")
        if windows is not None and (not isinstance(windows, int) or isinstance(windows, bool) or windows < 0):
            raise ValueError(f"windows is {windows!r}: pass the number of tokens that they share, 0 or more")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold!r}: pass a probability, 0 to 1")

    @property
    def single(self) -> str | int | None:
        """The target, for tasks with one target per text.

        Raises:
            ValueError: there are several targets.
        """
        if self.target is None or isinstance(self.target, str | int):
            return self.target
        raise ValueError(
            "only the classes of a sequence classifier are shown side by side: choose one target"
        )


def check_options(methods: Sequence[str] | None = None, **options: Any) -> None:
    """Check options before a model is loaded; see :class:`Options`."""
    Options(methods, **options)


def several_classes(target: Target | None, names: Sequence[str]) -> list[int] | None:
    """Return the class indices of a list of targets or of "all"; None for a single target.

    Args:
        target: a class, a list of classes, or "all", unless a class has this name.
        names: the names of the model's classes.

    Raises:
        ValueError: the model has no such class.

    Example:
        >>> several_classes("all", ["bad", "good"]), several_classes("good", ["bad", "good"])
        ([0, 1], None)
    """
    if target == ALL and ALL not in map(str.lower, names):
        return list(range(len(names)))
    if target is None or isinstance(target, str | int):
        return None
    return list(dict.fromkeys(class_of(it, names, "target") for it in target))


def chosen_classes(
    highest: Tensor,
    names: Sequence[str],
    target: str | int | None,
    against: str | int | None,
    config: PretrainedConfig,
    texts: Sequence[str],
) -> tuple[Tensor, int | None]:
    """Return the explained class of each text, `(B,)`, and the contrast class.

    Args:
        highest: `(B,)`, the predicted classes.
        names: the names of the model's classes.
        target: the explained class; None for the predicted ones.
        against: the contrast class, or None.
        config: the model's config.
        texts: B texts, for error messages.

    Raises:
        ValueError: the model has no such class, a class is contrasted with itself, or the model is a
            regression and has a contrast class.
    """
    chosen = highest if target is None else torch.full_like(highest, class_of(target, names, "target"))
    if against is None:
        return chosen, None
    if problem_of(config) == VALUE or len(names) == 1:
        raise ValueError("the model is a regression: there is no contrast class")
    other = class_of(against, names, "against")
    if target is not None and int(chosen[0]) == other:
        raise ValueError(f"{names[other]} is contrasted with itself: choose two classes")
    for text, one in zip(texts, chosen.tolist(), strict=True):
        if one == other:
            raise ValueError(
                f"{names[other]} is the predicted class of {shorten(text, 40)!r} and would be contrasted "
                "with itself: choose a target as well"
            )
    return chosen, other
