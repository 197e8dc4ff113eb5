"""Explanations of several texts: a sequence that can be sorted, saved and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from captum_globenc.results.explanation import Explanation
from captum_globenc.results.files import read_lines, to_frame, write_lines
from captum_globenc.results.page import draw_page, draw_part

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Explanations"]

SHOWN = 20
"""Maximum number of explanations that a notebook shows."""

PARTS = {"TokenClassification": ("entity", "entities"), "MaskedLM": ("masked word", "masked words")}
"""Singular and plural noun for the explained parts, by a part of the model's class name."""

ORDERS: dict[str, Callable[[Explanation], Any]] = {
    "confidence": lambda it: it.value if it.probability is None else it.probability,
    "text": lambda it: it.text,
}
"""Sort keys by name."""


class Explanations(Sequence[Explanation]):
    """Explanations of several texts, in order.

    Args:
        explanations: The explanations.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> found = explain(["A wonderful film.", "Not good.", "Dull."], *load_default())
        >>> [it.text for it in found[:2].sort_by("text", reverse=True)]
        ['Not good.', 'A wonderful film.']
    """

    def __init__(self, explanations: Iterable[Explanation] = ()) -> None:
        if not isinstance(explanations, Iterable):
            raise TypeError(f"explanations is a {type(explanations).__name__}: pass a list of explanations")
        self._all = tuple(explanations)
        if wrong := [type(it).__name__ for it in self._all if not isinstance(it, Explanation)]:
            raise TypeError(f"explanations has a {wrong[0]}: pass a list of explanations")

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, index: int) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice) -> Explanations: ...
    def __getitem__(self, index: int | slice) -> Explanation | Explanations:
        return Explanations(self._all[index]) if isinstance(index, slice) else self._all[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Explanations) and self._all == other._all

    __hash__ = None  # type: ignore[assignment]  # the explanations hold mutable lists

    def __add__(self, other: Iterable[Explanation]) -> Explanations:
        return Explanations([*self, *Explanations(other)])

    def __repr__(self) -> str:
        methods = dict.fromkeys(name for it in self for name in it.scores)
        models = dict.fromkeys(name for it in self if (name := it.model.get("name")))
        truncated = sum(it.truncated for it in self)
        parts = [f"{self._count}{' by ' if methods else ''}{', '.join(methods)}"]
        parts += [f"{truncated} truncated"] if truncated else []
        parts += [f"model {', '.join(models)}"] if models else []
        return f"<{type(self).__name__} of {'; '.join(parts)}>"

    @property
    def _count(self) -> str:
        """The numbers of explanations and texts, such as "3 entities in 1 text"."""
        alike = Counter((it.text, it.pair, it.span, it.target, it.against) for it in self)
        most: Counter[tuple[str, str | None]] = Counter()
        for (text, pair, *_), count in alike.items():  # a repeated text repeats all of its parts
            most[text, pair] = max(most[text, pair], count)
        number = most.total()
        texts = f"{number} {'text' if number == 1 else 'texts'}"
        heads = {name for it in self for name in PARTS if name in it.model.get("class", "")}
        if len(heads) == 1 and all(it.span is not None for it in self):
            return f"{len(self)} {PARTS[heads.pop()][len(self) != 1]} in {texts}"
        return texts if number == len(self) else f"{len(self)} explanations of {texts}"

    def __getattr__(self, name: str) -> Any:
        message = f"{type(self).__name__} has no attribute {name!r}"
        if not name.startswith("_") and (
            hasattr(Explanation, name) or name in Explanation.__dataclass_fields__
        ):
            message += f": an explanation has, such as the first, [0].{name}"
        raise AttributeError(message, name=name, obj=self)

    def sort_by(
        self, key: str | Callable[[Explanation], Any] = "confidence", *, reverse: bool = False
    ) -> Explanations:
        """Return the explanations sorted by a key; the sort is stable.

        Args:
            key: "confidence" (the probability of the predicted class, or the value of a regression), "text",
                or a function of an explanation.
            reverse: Whether the largest comes first.

        Raises:
            ValueError: The key is unknown.
        """
        if isinstance(key, str):
            if key not in ORDERS:
                raise ValueError(f"no order {key!r}: {', '.join(ORDERS)}, or a function of an explanation")
            key = ORDERS[key]
        return Explanations(sorted(self, key=key, reverse=reverse))

    def difference(self, others: Iterable[Explanation]) -> Explanations:
        """Subtract explanations element by element; also written `self - others`.

        Args:
            others: As many explanations as this sequence has.

        Raises:
            ValueError: The numbers differ, or two cannot be subtracted, see `Explanation.difference`.
        """
        others = Explanations(others)
        if len(others) != len(self):
            raise ValueError(f"{len(self)} explanations minus {len(others)}: there have to be as many")
        return Explanations(one.difference(other) for one, other in zip(self, others, strict=True))

    def __sub__(self, others: Iterable[Explanation]) -> Explanations:
        return self.difference(others)

    def show(
        self, *, of: Literal["words", "tokens"] = "words", top: int | None = None, special: bool = True
    ) -> None:
        """Print the shaded text and a table of scores for each explanation.

        Args:
            of: "words", or "tokens" with their ids.
            top: Number of rows per table, the largest scores first; by default all.
            special: Whether special tokens such as [CLS] have rows.
        """
        from rich.console import Console

        from captum_globenc.results.terminal import Shown

        several = len(self) > 1
        for number, it in enumerate(self, start=1):
            index = number if several else None
            Console(highlight=False).print(Shown(it, of=of, top=top, special=special, index=index))

    def to_dict(self) -> list[dict[str, Any]]:
        """Return one dictionary for JSON per explanation; see `Explanation.to_dict`."""
        return [it.to_dict() for it in self]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per token and method of each text.

        Columns: `text`, the number of the text; `index` and `token`; `segment`, `start` and `stop`, missing
        for tokens without offsets; `method` and `score`.

        Raises:
            ImportError: pandas is not installed (``pip install ".[pandas]"`` in a clone).
        """
        return to_frame(self)

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """Return a standalone HTML page of all explanations, and write it to `path` if it is not None."""
        return draw_page(self, path)

    def save(self, path: str | PathLike[str]) -> None:
        """Save the explanations as JSON lines, for `load` and ``captum-globenc show``.

        Args:
            path: The file, compressed with gzip if its name ends in ``.gz``.

        Raises:
            OSError: The file cannot be written.
        """
        write_lines(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Explanations:
        """Load explanations from a file of `save` or of ``captum-globenc explain --json``, without loss.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file has another format; the message names the line.
        """
        return cls(read_lines(path, lambda found: Explanation(**found)))

    def _repr_html_(self) -> str:
        more = f"<p>{SHOWN} of {len(self)} are shown.</p>" if len(self) > SHOWN else ""
        return draw_part(self[:SHOWN]) + more

    def __rich__(self) -> RenderableType:
        from rich.console import Group

        from captum_globenc.results.terminal import Shown

        several = len(self) > 1
        return Group(*(Shown(it, index=n if several else None) for n, it in enumerate(self, start=1)))
