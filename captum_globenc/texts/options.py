"""The texts and options of `explain`, checked, and the position that GlobEnc explains.

Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.encoders import find_encoder
from captum_globenc.errors import check_names
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.request import BASELINES

__all__ = [
    "ALL",
    "Options",
    "Pairs",
    "Target",
    "Texts",
    "as_list",
    "as_python",
    "as_string",
    "is_whole",
    "parse_position",
    "pooled_token",
    "resolve_position",
    "texts_and_pairs",
]

ALL = "all"
"""The target for all classes, side by side."""

MISSING = ("NAType", "NaTType")
"""The types of missing values of pandas, which may not be compared."""

Target = str | int | Sequence[str | int]
"""The explained output by name or index, or a list of them."""

Texts = Sequence[str] | Sequence[tuple[str, str]]
"""Texts, or tuples (text, pair)."""

Pairs = str | Sequence[str | None] | None
"""One second segment for all texts, one per text, or None."""


@dataclass(frozen=True)
class Options:
    """The options of `captum_globenc.explain`, with the same names; `generation` is for `model.generate`.

    Numbers and arrays of NumPy, torch and pandas become numbers and tuples of Python.

    Raises:
        ValueError: A name is unknown, `methods` is empty, a class is contrasted with itself, or a value has
            another type.
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
        for name in ("methods", "position", "target", "against", "windows", "threshold"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        # Lists stay lists for `generate`.
        numbers = {name: as_python(it) for name, it in self.generation.items()}
        object.__setattr__(self, "generation", numbers)
        methods, target, against, windows = self.methods, self.target, self.against, self.windows
        if methods is not None and not (isinstance(methods, tuple) and methods):
            raise ValueError(f"methods is {methods!r}: a list of one or more of {', '.join(METHODS)}")
        if methods is not None:
            check_names("method", methods, METHODS)
        check_names("mixing", [self.mixing], MIXINGS)
        check_names("baseline", [self.baseline], BASELINES)
        if target == ():
            raise ValueError("target is an empty list: choose one class or more")
        if target is not None and not (isinstance(target, str | tuple) or is_whole(target)):
            raise ValueError(f"target is {target!r}: pass the name or index of a class, or a list of these")
        if against is not None and (target == ALL or isinstance(target, tuple)):
            raise ValueError("several classes cannot have a contrast class: choose one target")
        if None not in (target, against) and str(target).lower() == str(against).lower():
            raise ValueError(f"{against} is contrasted with itself: choose two classes")
        if windows is not None and not (is_whole(windows) and windows >= 0):
            raise ValueError(f"windows is {windows!r}: pass the number of tokens that they share, 0 or more")
        if not (self.position in (None, "mean") or is_whole(self.position)):
            raise ValueError(f"position is {self.position!r}: pass an integer, 'mean' or None")
        if not (isinstance(self.threshold, int | float) and 0 <= self.threshold <= 1):
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


def _plain(value: Any) -> Any:
    """Return a number or an array of NumPy, torch or pandas as Python numbers, and lists as tuples."""
    value = as_python(value)
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    return tuple(map(_plain, value)) if is_list else value


def as_python(value: Any) -> Any:
    """Return numbers and arrays of NumPy, torch and pandas as Python's numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_whole(value: object) -> bool:
    """Return whether a value is an integer, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def texts_and_pairs(
    texts: Texts, pair: Pairs = None, context: Pairs = None
) -> tuple[list[str], list[str | None]]:
    """Return the texts, and the second segment of each text or None.

    Args:
        texts: B texts, or B tuples (text, pair).
        pair: One second segment for all texts, or one per text; None if `texts` has tuples.
        context: An alias of `pair` for question answering.

    Raises:
        TypeError: `texts` is not a sequence of texts, or an entry is not a string.
        ValueError: The numbers of pairs and texts differ, a tuple does not have two entries, or `pair` is
            combined with tuples or with `context`.

    Example:
        >>> texts_and_pairs([("A cat sleeps.", "It is awake.")])
        (['A cat sleeps.'], ['It is awake.'])
    """
    name = "pair" if context is None else "context"
    if context is not None:
        if pair is not None:
            raise ValueError("context is an alias of pair: leave one of the two out")
        pair = context
    entries = as_list(texts)
    if any(isinstance(it, list | tuple) for it in entries):
        if pair is not None:
            raise ValueError(f"texts contain pairs already, (text, pair) each: leave {name} out")
        return _split(entries)
    pairs = [pair] * len(entries) if pair is None or isinstance(pair, str) else as_list(pair, name)
    if len(pairs) != len(entries):
        raise ValueError(
            f"there are {len(pairs)} pairs for {len(entries)} texts: pass one for each, or a string"
        )
    return (
        [as_string(it, f"texts[{number}]") for number, it in enumerate(entries)],
        [it if it is None else as_string(it, f"{name}[{number}]") for number, it in enumerate(pairs)],
    )


def as_list(texts: Any, name: str = "texts") -> list[Any]:
    """Return the entries of `texts` as a list; reject a string, a mapping, a table and a non-iterable."""
    texts = as_python(texts)
    if isinstance(texts, str):
        raise TypeError(f"{name} is one string: pass a list of texts, [{shorten(texts, 40)!r}]")
    named = list(getattr(texts, "columns", texts if isinstance(texts, Mapping) else ()))
    if named or isinstance(texts, Mapping):
        column = named[0] if named else "text"
        raise TypeError(
            f"{name} is a {type(texts).__name__}: pass a list of texts, such as a column, {name}[{column!r}]"
        )
    if texts is None or not isinstance(texts, Iterable):
        what = "None" if texts is None else f"a {type(texts).__name__}"
        raise TypeError(f"{name} is {what}: pass a list of texts")
    return list(texts)


def _split(entries: Sequence[Any]) -> tuple[list[str], list[str | None]]:
    """Return the texts and the pairs of a list of strings and tuples (text, pair)."""
    texts: list[str] = []
    pairs: list[str | None] = []
    for number, entry in enumerate(entries):
        name = f"texts[{number}]"
        if not isinstance(entry, list | tuple):
            texts.append(as_string(entry, name))
            pairs.append(None)
            continue
        if len(entry) != 2:
            raise ValueError(f"{name} has {len(entry)} entries: pass a string, or two strings (text, pair)")
        text, pair = (as_string(it, f"{name}[{index}]") for index, it in enumerate(entry))
        texts.append(text)
        pairs.append(pair)
    return texts, pairs


def as_string(entry: Any, name: str) -> str:
    """Return an entry if it is a string of valid Unicode.

    Raises:
        TypeError: It is not a string.
        ValueError: It has a lone surrogate.
    """
    if isinstance(entry, str):
        try:
            entry.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{name} is not valid UTF-8: it has the surrogate {entry[error.start]!r} at {error.start}"
            ) from None
        return entry
    if entry is None or type(entry).__name__ in MISSING or (isinstance(entry, float) and entry != entry):
        raise TypeError(f"{name} is {entry}, not a string: leave missing texts out")
    hint = ": pass its texts, and second segments as pair" if isinstance(entry, Mapping) else ""
    shown = shorten(repr(entry), 60, placeholder="...")
    raise TypeError(f"{name} is {shown} ({type(entry).__name__}), not a string{hint}")


def parse_position(text: str) -> int | Literal["mean"] | None:
    """Parse a position.

    Args:
        text: An integer, "mean", or "" for the token that the model's head pools.

    Raises:
        ValueError: `text` is none of these.

    Example:
        >>> parse_position(" -1 "), parse_position("mean"), parse_position("")
        (-1, 'mean', None)
    """
    text = text.strip()
    if text in ("", "mean"):
        return "mean" if text else None
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"position must be a whole number or mean, not {text!r}") from None


def resolve_position(
    position: int | Literal["mean"] | None, lengths: Tensor, texts: Sequence[str]
) -> Tensor | Literal["mean"] | None:
    """Turn an index into one index into the tokens of each text, `(B,)`; return "mean" and None as they are.

    Args:
        position: The position; negative indices count from the end of each text.
        lengths: `(B,)`, the number of tokens of each text.
        texts: B texts, for error messages.

    Raises:
        ValueError: The position is out of range for a text.

    Example:
        >>> resolve_position(-1, torch.tensor([3, 5]), ["good", "a good film"])
        tensor([2, 4])
    """
    if not isinstance(position, int):
        return position
    for text, length in zip(texts, lengths.tolist(), strict=True):
        if not -length <= position < length:
            raise ValueError(
                f"position {position} is out of range: {shorten(text, 40)!r} has {length} tokens, "
                f"0 to {length - 1}"
            )
    return lengths + position if position < 0 else torch.full_like(lengths, position)


def pooled_token(model: PreTrainedModel) -> int | Literal["mean"] | None:
    """Return the index of the token that the model's head pools, "mean" for mean pooling, otherwise None.

    Raises:
        UnsupportedModelError: The model has no supported encoder.
    """
    pooled = find_encoder(model).pooled
    if pooled == "mean":
        return "mean"
    return pooled if isinstance(pooled, int) and pooled >= 0 else None
