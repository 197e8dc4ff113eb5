"""Explanations of several texts: a sequence that is sliced, sorted, saved and shown as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from captum_globenc.results.explanation import Explanation
from captum_globenc.results.files import read_lines, to_frame, write_lines
from captum_globenc.results.page import draw_page, draw_part

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Explanations"]

SHOWN = 20
"""How many a notebook shows."""

PARTS = {"TokenClassification": ("entity", "entities"), "MaskedLM": ("masked word", "masked words")}
"""What models of these classes explain of a text: one, and several of it."""

ORDERS: dict[str, Callable[[Explanation], Any]] = {
    "confidence": lambda it: it.value if it.probability is None else it.probability,
    "text": lambda it: it.text,
}
"""What explanations are sorted by, by name."""


class Explanations(Sequence[Explanation]):
    """Explanations of several texts, in order.

    Args:
        explanations: The explanation of each.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> found = explain(["A wonderful film.", "Not good.", "Dull."], *load_default())
        >>> [it.text for it in found[:2].sort_by("text", reverse=True)]
        ['Not good.', 'A wonderful film.']
    """

    def __init__(self, explanations: Iterable[Explanation] = ()) -> None:
        self._all = tuple(explanations)

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

    __hash__ = None  # type: ignore[assignment]  # what it holds can be changed

    def __add__(self, other: Iterable[Explanation]) -> Explanations:
        return Explanations([*self, *other])

    def __repr__(self) -> str:
        methods = dict.fromkeys(name for it in self for name in it.scores)
        models = dict.fromkeys(name for it in self if (name := it.model.get("name")))
        truncated = sum(it.truncated for it in self)
        said = [f"{self._count}{' by ' if methods else ''}{', '.join(methods)}"]
        said += [f"{truncated} truncated"] if truncated else []
        said += [f"model {', '.join(models)}"] if models else []
        return f"<{type(self).__name__} of {'; '.join(said)}>"

    @property
    def _count(self) -> str:
        """How many explanations there are of how many texts, such as "3 entities in 1 text"."""
        alike = Counter((it.text, it.pair, it.span, it.target, it.against) for it in self)
        most: Counter[tuple[str, str | None]] = Counter()
        for (text, pair, *_), count in alike.items():  # a text that is there twice has all of its parts twice
            most[text, pair] = max(most[text, pair], count)
        number = most.total()
        texts = f"{number} {'text' if number == 1 else 'texts'}"
        heads = {name for it in self for name in PARTS if name in it.model.get("class", "")}
        if len(heads) == 1 and all(it.span is not None for it in self):
            return f"{len(self)} {PARTS[heads.pop()][len(self) != 1]} in {texts}"
        return texts if number == len(self) else f"{len(self)} explanations of {texts}"

    def __getattr__(self, name: str) -> Any:
        said = f"{type(self).__name__} has no attribute {name!r}"
        if not name.startswith("_") and (
            hasattr(Explanation, name) or name in Explanation.__dataclass_fields__
        ):
            said += f": an explanation has, such as the first, [0].{name}"
        raise AttributeError(said, name=name, obj=self)

    def sort_by(
        self, key: str | Callable[[Explanation], Any] = "confidence", *, reverse: bool = False
    ) -> Explanations:
        """Return them in another order, those that are equal as they were.

        Args:
            key: "confidence", the probability of the predicted class or a regression's value; "text"; or
                what a function says of each.
            reverse: Whether the largest comes first.

        Raises:
            ValueError: There is no key of that name.
        """
        if isinstance(key, str):
            if key not in ORDERS:
                raise ValueError(f"no order {key!r}: {', '.join(ORDERS)}, or a function of an explanation")
            key = ORDERS[key]
        return Explanations(sorted(self, key=key, reverse=reverse))

    def difference(self, others: Iterable[Explanation]) -> Explanations:
        """Return each minus the other of the same number, also written `self - others`.

        Raises:
            ValueError: There are not as many, or two cannot be subtracted: see `Explanation.difference`.
        """
        others = list(others)
        if len(others) != len(self):
            raise ValueError(f"{len(self)} explanations minus {len(others)}: there have to be as many")
        return Explanations(one.difference(other) for one, other in zip(self, others, strict=True))

    def __sub__(self, others: Iterable[Explanation]) -> Explanations:
        return self.difference(others)

    def show(
        self, *, of: Literal["words", "tokens"] = "words", top: int | None = None, special: bool = True
    ) -> None:
        """Print all of them in the terminal, or below a notebook's cell; see `Explanation.show`.

        Args:
            of: "words", or "tokens" with their ids.
            top: How many rows each table has, the largest scores first; every word unless given.
            special: Whether special tokens such as [CLS] have rows.
        """
        from rich.console import Console

        from captum_globenc.results.terminal import show

        several = len(self) > 1
        for number, it in enumerate(self, start=1):
            index = number if several else None
            show(Console(highlight=False), it, of=of, top=top, special=special, index=index)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return what JSON can hold, an object for each; see `Explanation.to_dict`."""
        return [it.to_dict() for it in self]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each token and method of each text.

        Columns: `text`, the number of the text; `index` and `token`; `segment`, `start` and `stop`, missing
        where a token stands nowhere; `method` and `score`.

        Raises:
            ImportError: pandas is not installed (``pip install ".[pandas]"`` in a clone).
        """
        return to_frame(self)

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """Return a standalone page that shows all of them, and write it to `path` where that is given."""
        page = draw_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def save(self, path: str | PathLike[str]) -> None:
        """Write them as JSON lines, which `load` and ``captum-globenc show`` read.

        Args:
            path: Where to; packed by gzip where the name ends in ``.gz``.

        Raises:
            OSError: The file cannot be written.
        """
        write_lines(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Explanations:
        """Read what `save` wrote, or ``captum-globenc explain --json``; all is as it was.

        Raises:
            OSError: The file cannot be read.
            ValueError: It is of another format; the message names the line.
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
