"""The explanation of one text: parts, differences, files and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from operator import index
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from captum_globenc.results.files import fields_of, to_frame, to_json, write_lines
from captum_globenc.results.page import draw_page, draw_part
from captum_globenc.results.record import Record, Span
from captum_globenc.results.subtraction import subtract
from captum_globenc.results.words import Parts, merge_scores, score_spans, sentence_spans

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Explanation"]

OF = ("words", "tokens", "sentences")
"""The accepted values of `of` in `Explanation.top`."""


class Explanation(Record):
    """The prediction for one text and the scores of its tokens, as returned by `captum_globenc.explain`.

    :class:`captum_globenc.results.record.Record` documents the attributes: `text`, `tokens`, `offsets`,
    `scores` by method name, `probabilities`, `target`, `model`, `versions` and so on. The default of a
    `method` argument is the first method with signed scores.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> explanation = explain(["A wonderful film. We saw it."], *load_default())[0]
        >>> explanation.top(1)[0][0], [text for text, _ in explanation.sentences()]
        ('wonderful', ['A wonderful film.', 'We saw it.', ''])
    """

    @property
    def label(self) -> str:
        """The predicted class, an alias of `prediction`."""
        return self.prediction

    def words(self, method: str | None = None, *, reduce: str = "sum", special: bool = True) -> Parts:
        """Return the words and their scores.

        Args:
            method: The method; by default the first with signed scores.
            reduce: How the scores of a word's tokens are combined: "sum", "mean" or "max" (the score with
                the largest magnitude).
            special: Whether special tokens such as [CLS] are included; without them, the sum may change.

        Returns:
            `(text, score)` per word, in the order of the text.

        Raises:
            ValueError: There are no scores of `method`, `reduce` is unknown, or there are no words.
        """
        scores = self.scores[self.chosen(method)]
        if self.tokens and not self.groups:
            raise ValueError('the words of this explanation are not known: pass of="tokens" to top()')
        words = [word for word in self.groups if special or not word.special]
        return Parts(zip((word.text for word in words), merge_scores(scores, words, reduce), strict=True))

    def sentences(self, method: str | None = None) -> Parts:
        """Return the sentences of the text and of its pair with their scores, and last the rest.

        Sentences are found by punctuation. The rest has the text "" and includes the special tokens, so that
        the sum of the scores does not change.

        Args:
            method: The method; by default the first with signed scores.

        Raises:
            ValueError: There are no scores of `method`, or no character offsets.
        """
        return self._of_spans(sentence_spans(*self.sources), method)

    def spans(
        self, spans: Sequence[tuple[int, int]], method: str | None = None, *, segment: int = 0
    ) -> Parts:
        """Return the scores of spans of characters, and last of the rest.

        Args:
            spans: `(start, stop)` of each span. A token belongs to the span with most of its characters.
            method: The method; by default the first with signed scores.
            segment: 0 for spans of the text, 1 for spans of its pair.

        Returns:
            `(text, score)` per span, and of the rest, whose text is "". Sums do not change.

        Raises:
            ValueError: There are no scores of `method`, spans overlap, are outside the text or are not pairs
                of integers, or there are no character offsets.
        """
        try:
            found = [Span(index(start), index(stop), segment) for start, stop in spans]
        except (TypeError, ValueError):
            raise ValueError(f"spans is {spans!r}: pass a list of (start, stop), in characters") from None
        return self._of_spans(found, method)

    def passages(self, method: str | None = None) -> Parts:
        """Return the scores of the passages of a prompt, by name, and last of the rest.

        Args:
            method: The method; by default the first with signed scores.

        Returns:
            `(name, score)` per passage of `explain(..., passages=...)`, and of the rest, whose name is "".

        Raises:
            ValueError: There are no scores of `method`, no passages, or no character offsets.
        """
        if not self.passage_spans:
            raise ValueError("there are no passages: pass passages= to explain(), or use spans()")
        names, spans = zip(*self.passage_spans, strict=True)
        scores = (score for _, score in self._of_spans(spans, method))
        return Parts(zip([*names, ""], scores, strict=True))

    def _of_spans(self, spans: Sequence[Span], method: str | None) -> Parts:
        """Return the scores of spans of the text or its pair, and last of the rest."""
        if self.picture is not None:
            raise ValueError(f"the {self.picture.kind} {self.text} has no characters: use words() or top()")
        return Parts(score_spans(self.sources, self.offsets, self.scores[self.chosen(method)], spans))

    def top(self, k: int = 5, method: str | None = None, *, of: str = "words", special: bool = True) -> Parts:
        """Return the words, tokens or sentences with the largest scores by magnitude, the largest first.

        Args:
            k: The number of parts.
            method: The method; by default the first with signed scores.
            of: "words", "tokens" for word pieces, or "sentences".
            special: Whether special tokens such as [CLS] are included; sentences never include them.

        Returns:
            A list of `(text, score)`. Its repr rounds scores to three digits; the values are exact.

        Raises:
            ValueError: `k` is less than 1, `of` is unknown, or there are no scores of `method`.
        """
        if not hasattr(k, "__index__") or k < 1:
            raise ValueError(f"k is {k!r}: pass an integer of at least 1")
        if of not in OF:
            raise ValueError(f"of is {of!r}: one of {', '.join(OF)}")
        if of == "tokens":
            excluded = {
                token for word in self.groups if word.special and not special for token in word.tokens
            }
            scored = zip(self.tokens, self.scores[self.chosen(method)], strict=True)
            parts = Parts(part for index, part in enumerate(scored) if index not in excluded)
        else:
            parts = self.words(method, special=special) if of == "words" else self.sentences(method)[:-1]
        return Parts(sorted(parts, key=lambda part: -abs(part[1]))[:k])

    def by(self, *methods: str) -> Explanation:
        """Return this explanation with the scores of some methods only, in the given order.

        Args:
            methods: The names of the methods.

        Raises:
            ValueError: There are no scores of one of the methods.
        """
        names = [self.chosen(name) for name in methods]
        kept: dict[str, Any] = {}
        for field in ("scores", "kinds", "layers", "outputs", "answer_scores"):
            rows = getattr(self, field)
            kept[field] = {name: rows[name] for name in names if name in rows}
        return replace(self, **kept)

    def difference(self, other: Explanation) -> Explanation:
        """Return this explanation minus another: of two models, two texts, or two classes.

        Also written `self - other`. Explanations of one text by models with different tokenizers are aligned
        by words. Explanations of different models or texts must have the same target: pass `target` to
        `explain` for both.

        Args:
            other: The explanation that is subtracted.

        Returns:
            An explanation with the differences of the scores, for the common methods. Contributions sum to
            the difference of the two sums.

        Raises:
            ValueError: The targets differ, the tokens cannot be aligned, or there is no common method.
        """
        if not isinstance(other, Explanation):
            raise TypeError(f"other is a {type(other).__name__}: pass an explanation")
        return subtract(self, other)

    def __sub__(self, other: Explanation) -> Explanation:
        return self.difference(other) if isinstance(other, Explanation) else NotImplemented

    def show(
        self, *, of: Literal["words", "tokens"] = "words", top: int | None = None, special: bool = True
    ) -> None:
        """Print the shaded text and a table of scores.

        Args:
            of: "words", or "tokens" with their ids.
            top: Number of table rows, the largest scores first; by default all.
            special: Whether special tokens such as [CLS] have rows.
        """
        from rich.console import Console

        from captum_globenc.results.terminal import Shown

        Console(highlight=False).print(Shown(self, of=of, top=top, special=special))

    def plot(
        self, method: str | None = None, *, layers: bool = False, special: bool = True, ax: Any = None
    ) -> Any:
        """Draw the scores of the words with matplotlib: bars, or a heat map over the layers.

        Args:
            method: The method; by default the first with signed scores.
            layers: Whether to draw a heat map of layers x words; requires `explain(..., layers=True)`.
            special: Whether special tokens such as [CLS] are drawn.
            ax: The matplotlib axes; by default a new figure's.

        Returns:
            The axes.

        Raises:
            ValueError: There are no scores of `method`, or none per layer.
        """
        # Imported by name, because `visualization` is a higher level of the package.
        figures = import_module("captum_globenc.visualization.figures")
        return figures.plot_explanation(self, method, layers=layers, special=special, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; empty optional fields, such as the pair, are omitted."""
        return to_json(self)

    @classmethod
    def from_dict(cls, made: object) -> Explanation:
        """Return the explanation of a dictionary from `to_dict`.

        Raises:
            ValueError: The object is not such a dictionary, or has another format version.
        """
        return cls(**fields_of(made))

    def to_captum(self, method: str | None = None) -> Any:
        """Return the scores of generated text as Captum's result object, which has plots.

        Args:
            method: The method; by default the first with signed scores.

        Returns:
            A `captum.attr.LLMAttributionResult`. `seq_attr` holds the scores of the N prompt tokens, and
            `token_attr` the rows `(T, N)` of the answer's tokens, None unless `explain(..., per_token=True)`.

        Raises:
            ValueError: The explanation is not of generated text, or there are no scores of `method`.
        """
        return import_module("captum_globenc.visualization.records").llm_result(self, method)

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per token and method; see `Explanations.to_pandas`."""
        return to_frame([self])

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """Return a standalone HTML page of this explanation, and write it to `path` if it is not None."""
        return draw_page([self], path)

    def save(self, path: str | PathLike[str]) -> None:
        """Write one line of JSON for `Explanations.load`, compressed if the name ends in ``.gz``."""
        write_lines([self], path)

    def _repr_html_(self) -> str:
        return draw_part([self])

    def __rich__(self) -> RenderableType:
        from captum_globenc.results.terminal import Shown

        return Shown(self)
