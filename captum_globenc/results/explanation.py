"""An explanation of one text, and what can be done with it: parts, differences, files, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from os import PathLike
from pathlib import Path
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
"""What `Explanation.top` ranks."""


class Explanation(Record):
    """One text's prediction and the scores of its tokens: what `captum_globenc.explain` makes.

    Its attributes are those of :class:`captum_globenc.results.record.Record`: `text`, `tokens`, `offsets`,
    `scores` by the name of the method, `probabilities`, `target`, `model`, `versions` and so on. Where a
    `method` is left out, it is the first that speaks for and against a class.

    Example:
        >>> from captum_globenc import explain
        >>> from captum_globenc.texts import load_default
        >>> explanation = explain(["A wonderful film. We saw it."], *load_default())[0]
        >>> explanation.top(1)[0][0], [text for text, _ in explanation.sentences()]
        ('wonderful', ['A wonderful film.', 'We saw it.', ''])
    """

    @property
    def label(self) -> str:
        """The predicted class: another name of `prediction`."""
        return self.prediction

    def words(self, method: str | None = None, *, reduce: str = "sum", special: bool = True) -> Parts:
        """Return what each word reads and scores.

        Args:
            method: Whose scores.
            reduce: How those of its tokens become one: "sum", "mean" or "max", the largest magnitude.
            special: Whether special tokens such as [CLS] are words too, so that sums are kept.

        Returns:
            `(text, score)` of each, in the order of the text.

        Raises:
            ValueError: There is no such method or way, or the words are not known.
        """
        scores = self.scores[self.chosen(method)]
        if self.tokens and not self.groups:
            raise ValueError('the words of this explanation are not known: pass of="tokens" to top()')
        words = [word for word in self.groups if special or not word.special]
        return Parts(zip((word.text for word in words), merge_scores(scores, words, reduce), strict=True))

    def sentences(self, method: str | None = None) -> Parts:
        """Return what each sentence of the text, and of its pair, reads and scores, and at last the rest.

        Sentences are told by punctuation. Sums are kept: special tokens are in the rest, which reads "".

        Raises:
            ValueError: There is no such method, or the tokenizer does not tell where tokens stand.
        """
        spans = [
            span for segment, source in enumerate(self.sources) for span in sentence_spans(source, segment)
        ]
        return Parts(score_spans(self.sources, self.offsets, self.scores[self.chosen(method)], spans))

    def spans(
        self, spans: Sequence[tuple[int, int]], method: str | None = None, *, segment: int = 0
    ) -> Parts:
        """Return what spans of characters read and score, and at last what none of them holds.

        Args:
            spans: From which character up to which, each; a token counts where most of it stands.
            method: Whose scores.
            segment: 0 for spans of the text, 1 for those of its pair.

        Returns:
            `(text, score)` of each, and of the rest, which reads "": sums are kept.

        Raises:
            ValueError: There is no such method, spans overlap or lie outside of the text, or the tokenizer
                does not tell where tokens stand.
        """
        scores = self.scores[self.chosen(method)]
        wanted = [Span(start, stop, segment) for start, stop in spans]
        return Parts(score_spans(self.sources, self.offsets, scores, wanted))

    def passages(self, method: str | None = None) -> Parts:
        """Return what each passage of a prompt scores, by name, and at last what none of them holds.

        Args:
            method: Whose scores.

        Returns:
            `(name, score)` of each, from `explain(..., passages=...)`, and of the rest, whose name is "".

        Raises:
            ValueError: There is no such method, there are no passages, or the tokenizer does not tell where
                tokens stand.
        """
        if not self.passage_spans:
            raise ValueError("there are no passages: pass passages= to explain(), or use spans()")
        names = [*(name for name, _ in self.passage_spans), ""]
        spans = [span for _, span in self.passage_spans]
        found = score_spans(self.sources, self.offsets, self.scores[self.chosen(method)], spans)
        return Parts(zip(names, (score for _, score in found), strict=True))

    def top(self, k: int = 5, method: str | None = None, *, of: str = "words", special: bool = True) -> Parts:
        """Return the words, tokens or sentences with the largest scores by magnitude, the largest first.

        Args:
            k: How many.
            method: Whose scores; by default the first method with signed scores.
            of: "words", "tokens" for word pieces, or "sentences".
            special: Whether special tokens such as [CLS] are included; sentences never include them.

        Returns:
            A list of `(text, score)`. Printed, scores have three digits; the values are exact.

        Raises:
            ValueError: `k` is less than 1, or a name is not known.
        """
        if k < 1:
            raise ValueError(f"k is {k}: at least 1")
        if of not in OF:
            raise ValueError(f"of is {of!r}: one of {', '.join(OF)}")
        if of == "tokens":
            left_out = {
                token for word in self.groups if word.special and not special for token in word.tokens
            }
            scored = zip(self.tokens, self.scores[self.chosen(method)], strict=True)
            parts = Parts(part for index, part in enumerate(scored) if index not in left_out)
        else:
            parts = self.words(method, special=special) if of == "words" else self.sentences(method)[:-1]
        return Parts(sorted(parts, key=lambda part: -abs(part[1]))[:k])

    def by(self, *methods: str) -> Explanation:
        """Return this with the scores of some methods alone, in that order.

        Raises:
            ValueError: There are no scores of one of them.
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
        by words. Those of different models or texts must explain the same target: pass `target` to `explain`
        for both.

        Args:
            other: The explanation that is subtracted.

        Returns:
            An explanation whose scores are the differences, for all methods that both have. Contributions
            sum to the difference of what both sum to.

        Raises:
            ValueError: The targets differ, the tokens cannot be aligned, or there is no common method.
        """
        return subtract(self, other)

    def __sub__(self, other: Explanation) -> Explanation:
        return self.difference(other) if isinstance(other, Explanation) else NotImplemented

    def show(
        self, *, of: Literal["words", "tokens"] = "words", top: int | None = None, special: bool = True
    ) -> None:
        """Print this in the terminal, or below a notebook's cell: the shaded text and a table of scores.

        Args:
            of: "words", or "tokens" with their ids.
            top: How many rows the table has, the largest scores first; every word unless given.
            special: Whether special tokens such as [CLS] have rows.
        """
        from rich.console import Console

        from captum_globenc.results.terminal import show

        show(Console(highlight=False), self, of=of, top=top, special=special)

    def plot(
        self, method: str | None = None, *, layers: bool = False, special: bool = True, ax: Any = None
    ) -> Any:
        """Draw the scores of the words with matplotlib: bars, or a heat map over the layers.

        Args:
            method: Whose scores; by default the first method with signed scores.
            layers: Whether to draw a heat map of layers x words, from `explain(..., layers=True)`.
            special: Whether special tokens such as [CLS] are drawn.
            ax: The matplotlib axes to draw in; by default those of a new figure.

        Returns:
            The axes.

        Raises:
            ValueError: There is no such method, or it has no scores of layers.
        """
        # Drawing is the visualization wing's, which is above this one: imported by name when it is needed.
        figures = import_module("captum_globenc.visualization.explained")
        return figures.plot_explanation(self, method, layers=layers, special=special, ax=ax)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; what there may be none of, such as a pair, is left out then."""
        return to_json(self)

    @classmethod
    def from_dict(cls, made: object) -> Explanation:
        """Return the explanation that `to_dict` made this of.

        Raises:
            ValueError: It is none, or of another version.
        """
        return cls(**fields_of(made))

    def to_captum(self, method: str | None = None) -> Any:
        """Return the scores of generated text as Captum's own result, whose plots show them.

        Args:
            method: Whose scores.

        Returns:
            A `captum.attr.LLMAttributionResult`. `seq_attr` holds the scores of the N prompt tokens, and
            `token_attr` the rows `(T, N)` of the answer's tokens, None unless `explain(..., per_token=True)`.

        Raises:
            ValueError: This explains no generated text, or there is no such method.
        """
        return import_module("captum_globenc.visualization.records").llm_result(self, method)

    def to_pandas(self) -> Any:
        """Return a table with a row for each token and method; see `Explanations.to_pandas`."""
        return to_frame([self])

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """Return a standalone page that shows this, and write it to `path` where that is given."""
        page = draw_page([self])
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def save(self, path: str | PathLike[str]) -> None:
        """Write this as a line of JSON, packed where the name ends in ``.gz``: see `Explanations.load`."""
        write_lines([self], path)

    def _repr_html_(self) -> str:
        return draw_part([self])

    def __rich__(self) -> RenderableType:
        from captum_globenc.results.terminal import Shown

        return Shown(self)
