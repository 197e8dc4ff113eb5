"""What is known of one text: what a classifier predicts, and what every token had to do with it. Plain data.

N tokens, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from captum_globenc.drawing.picture import PARTS, Picture
from captum_globenc.results.shading import Piece, cut_into_pieces
from captum_globenc.results.words import Span, Word, check_spans

__all__ = ["KINDS", "Answer", "Kind", "Record", "Span"]

Kind = Literal["shares", "sizes", "signed", "contributions", "difference"]

KINDS: Mapping[Kind, str] = {
    "shares": "of what was used, which sum to 1",
    "sizes": "of no sign, which sum to 1: how much, but not for what",
    "signed": "for and, where negative, against a class",
    "contributions": "signed, and adding up to what the output differs from that of the baseline",
    "difference": "shares, less other shares",
}
"""What the scores of a method may be."""


class Answer(NamedTuple):
    """The text that a language model generated, or was given, after a prompt; T tokens.

    Attributes:
        text: The text.
        tokens: What its T tokens read.
        ids: Their ids.
        log_probabilities: The log-probability of each, in nats.
    """

    text: str
    tokens: list[str]
    ids: list[int]
    log_probabilities: list[float]


@dataclass(frozen=True, repr=False)
class Record:
    """One text's prediction and the scores of its tokens, special tokens included.

    Of an image or a sound it is the same: its parts are what tokens are of a text.

    Attributes:
        text: The text; of an image or a sound, its file.
        pair: The second segment, if there is one.
        prediction: The name of the predicted class; of a regression model, of its output.
        probability: The predicted class's probability; None for a regression model.
        value: The model's output for `prediction`: a logit, or what a regression model predicts.
        probabilities: Those of all classes by name; empty for a regression model.
        target: The name of the class that is explained: `prediction` unless another was chosen.
        against: The class that it is held against, if there is one.
        explained: The output that is explained: that of `target`, less that of `against`.
        position: The token whose mixture GlobEnc explains, "mean" for the average of all, or None where
            the model's head reads something else, or GlobEnc did not run.
        tokens: N tokens, without padding.
        scores: N scores by the name of each method.
        kinds: By method, what they are: a name of `KINDS`.
        layers: By method, the rows of N scores at every depth. GlobEnc's: what the explained position has
            gathered after each of L layers, `scores` the last. TransformerDeepLift's: L + 1, of what enters
            each layer and of what leaves the last, each adding up to the same. Empty unless asked for.
        groups: The words that the tokens make up, special tokens among them.
        offsets: Where each of the N tokens stands, None for special tokens; empty where the tokenizer does
            not tell, being written in Python.
        model: Its "name", the path or name that it was loaded by, and its "class".
        settings: What else the scores depend on: the "mixing" of GlobEnc, the "baseline".
        versions: Of the packages that made them, by name.
        truncated: Whether the text was longer than the model takes, so that its end or beginning is missing;
            `explain(..., windows=N)` explains such texts as a whole.
        less: What was subtracted from what, such as "model-a minus model-b"; None where nothing was.
        ids: The ids of the N tokens; empty where they are not known, as in files of earlier versions.
        unknown: Which tokens stand for what the vocabulary has not, such as [UNK].
        span: Where in the text stands what is explained, an entity, an answer or a masked token; None where
            that is the text as a whole.
        outputs: By the name of scores that are for another output than `target`, as where classes are shown
            side by side: its name, and its value as `explained` is that of `target`.
        picture: The image or sound that this explains, whose parts are the first tokens; None of a text.
        answer: The answer of a language model, whose log-probability is explained; then `text` is the prompt.
        answer_scores: By method, a row of N scores for each of T answer tokens. The rows of contributions sum
            to `scores`. Empty unless asked for, and of differences.
        passage_spans: The name and the character span of each passage of the prompt.

    Raises:
        ValueError: There are not as many scores, offsets or ids as tokens, a position or a word lies outside
            of them, passages overlap or lie outside of the prompt, tokens of the answer have no scores, the
            words are not the parts of the picture, or a kind is missing or not known.
    """

    text: str
    pair: str | None
    prediction: str
    probability: float | None
    value: float
    probabilities: Mapping[str, float]
    target: str
    against: str | None
    explained: float
    position: int | Literal["mean"] | None
    tokens: list[str]
    scores: Mapping[str, list[float]]
    kinds: Mapping[str, Kind]
    layers: Mapping[str, list[list[float]]] = field(default_factory=dict)
    groups: list[Word] = field(default_factory=list)
    offsets: list[Span | None] = field(default_factory=list)
    model: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    truncated: bool = False
    less: str | None = None
    ids: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    span: Span | None = None
    outputs: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    picture: Picture | None = None
    answer: Answer | None = None
    answer_scores: Mapping[str, list[list[float]]] = field(default_factory=dict)
    passage_spans: list[tuple[str, Span]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows = [("scores", name, row) for name, row in self.scores.items()]
        rows += [("layers", name, row) for name, layers in self.layers.items() for row in layers]
        rows += [("answer_scores", name, row) for name, found in self.answer_scores.items() for row in found]
        for what, name, row in rows:
            if len(row) != len(self.tokens):
                raise ValueError(f"{what} of {name}: {len(row)} for {len(self.tokens)} tokens")
        for what, given in (("offsets", self.offsets), ("ids", self.ids)):
            if given and len(given) != len(self.tokens):
                raise ValueError(f"{len(given)} {what} for {len(self.tokens)} tokens")
        places = [*self.unknown, *(token for word in self.groups for token in word.tokens)]
        places += [self.position] if isinstance(self.position, int) else []
        if not all(0 <= place < len(self.tokens) for place in places):
            raise ValueError(f"a position or a word lies outside of the {len(self.tokens)} tokens")
        if self.span is not None and self.span.segment >= len(self.sources):
            raise ValueError("the span lies in a second segment, and there is none")
        check_spans(self.sources, [span for _, span in self.passage_spans])
        if self.answer is not None:
            _, names, ids, values = self.answer
            if len({len(names), len(ids), len(values), *map(len, self.answer_scores.values())}) > 1:
                raise ValueError("an answer has an id, a log-probability and a row of scores for each token")
        if self.picture is not None:
            parts = [(place,) for place in range(self.picture.count)]
            words = [word.tokens for word in self.groups[: len(parts)]]
            if words != parts or self.pair is not None or self.offsets:
                raise ValueError(f"the first words are not the {len(parts)} parts of a picture, a token each")
        for name in (*self.scores, *self.layers):
            if self.kinds.get(name) not in KINDS:
                raise ValueError(f"kind of {name}: {self.kinds.get(name)!r} is none of {', '.join(KINDS)}")

    def __repr__(self) -> str:
        methods = ", ".join(self.scores) or "no method"
        text = self.text if len(self.text) <= 40 else f"{self.text[:39]}…"
        name = self.model.get("name")
        model = f"; model {name}" if name else ""
        tokens = f"{len(self.tokens)} tokens by {methods}"
        return f"<{type(self).__name__} {text!r}: {self.headline}; {tokens}{model}>"

    @property
    def headline(self) -> str:
        """The prediction in a few words, such as ``POSITIVE (98.1%)``, and the target if it is another one.

        A difference reads ``POSITIVE: model-a minus model-b``.
        """
        truncated = ", text truncated" if self.truncated else ""
        return f"{self._said}{truncated}"

    @property
    def _said(self) -> str:
        if self.less is not None:
            part = "" if self.span is None or self.part == self.prediction else f"{self.part}: "
            return f"{part}{self.less}" if self._less_names_subjects else f"{part}{self.subject}: {self.less}"
        if self.answer is not None:
            said = f"{self.prediction!r} (log-probability {self.value:z.2f})"
        elif self.probability is None:
            said = f"{self.prediction} = {self.value:.4g}"
        else:
            said = f"{self.prediction} ({self.probability:.1%})"
        if self.span is not None and self.part != self.prediction:
            said = f"{self.part}: {said}"
        asked = self.target != self.prediction or self.against is not None
        return f"{said}, explained: {self.subject}" if asked and self._knows_classes else said

    @property
    def _less_names_subjects(self) -> bool:
        """Whether what was subtracted from what differs in the class, or is of several classes."""
        less = self.less or ""
        return bool(self.outputs) or less.startswith((f"{self.subject} minus ", f"{self.subject}, "))

    @property
    def heading(self) -> str:
        """The headline; of an image or a sound, which shows no words of its own, after its file."""
        return self.headline if self.picture is None else f"{self.text}: {self.headline}"

    @property
    def elements(self) -> tuple[str, str]:
        """What is scored: one, and several of it."""
        return ("token", "tokens") if self.picture is None else PARTS[self.picture.kind]

    @property
    def subject(self) -> str:
        """The class that is explained, and which it is held against."""
        return self.target if self.against is None else f"{self.target} rather than {self.against}"

    @property
    def part(self) -> str:
        """What is explained of the text, as it is spelt there: an entity, an answer; or the text."""
        if self.span is None:
            return self.text
        return self.sources[self.span.segment][self.span.start : self.span.stop].strip()

    @property
    def captions(self) -> dict[str, str]:
        """What the scores of each method are, such as ``for and against POSITIVE``."""
        higher = "a higher value of " if self.probability is None and self.answer is None else ""
        less = "" if self.less is None else f"; {self.less}"
        said = {
            "shares": self._shares,
            "difference": self._shares,
            "sizes": f"share of each {self.elements[0]} in the sum of all, for or against",
        }
        made = {}
        for name in self.scores:
            subject, _ = self.outputs.get(name, (self.subject, 0.0))
            signed = f"for and against {higher}{subject}"
            made[name] = said.get(self.kinds[name], signed) + less
        return made

    @property
    def units(self) -> dict[str, str]:
        """What the scores of each method are counted in: ``%`` of a whole, or as the output is."""
        unit = "nats" if self.answer is not None else "value" if self.probability is None else "logit"
        known = {"shares": "%", "sizes": "%", "difference": "share"}
        return {name: known.get(self.kinds[name], unit) for name in self.scores}

    @property
    def sums(self) -> dict[str, str]:
        """What the scores of methods that add up come to: ``0.80 baseline + 4.10 tokens = 4.90 ...``.

        Rounded so that what is shown adds up as well.
        """
        against = "" if self.against is None else f" less that of {self.against}"
        less = "" if self.less is None else f"; {self.less}"
        whose = self.elements[1] if self.answer is None else "prompt"
        made = {}
        for name, row in self.scores.items():
            if self.kinds[name] == "contributions":
                target, explained = self.outputs.get(name, (self.target, self.explained))
                unit = "value" if self.probability is None else f"logit of {target}{against}"
                if self.answer is not None:
                    unit = f"log-probability of the answer{against}"
                if self._less_names_subjects and not self.outputs:
                    unit = unit.partition(" ")[0]
                whole, tokens = round(explained, 2), round(math.fsum(row), 2)
                sign = "-" if tokens < 0 else "+"
                parts = f"{whole - tokens:z.2f} baseline {sign} {abs(tokens):.2f} {whose}"
                made[name] = f"{parts} = {whole:z.2f} {unit}{less}"
        return made

    @property
    def notes(self) -> dict[str, str]:
        """What is to say of the scores of each method in one line: what they are, and add up to."""
        sums = self.sums
        return {
            name: f"{caption}: {sums[name]}" if name in sums else caption
            for name, caption in self.captions.items()
        }

    def chosen(self, method: str | None = None) -> str:
        """Return the name of a method: that which is given, or else the first that speaks for and against.

        Raises:
            ValueError: There are no scores of it.
        """
        if not self.scores:
            raise ValueError("there are no scores in this explanation")
        if method is None:
            signed = [name for name in self.scores if self.kinds[name] in ("signed", "contributions")]
            return next(iter([*signed, *self.scores]))
        if method not in self.scores:
            raise ValueError(f"no scores of {method!r}: there are those of {', '.join(self.scores)}")
        return method

    @property
    def sources(self) -> Sequence[str]:
        """The text, and the pair if there is one: what the segments of offsets count."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    def pieces(self, of: Literal["words", "tokens"] = "words") -> list[list[Piece]]:
        """Return what is shaded: the text as it was written, and its pair, cut into words or tokens.

        Args:
            of: "words", where they are known, or "tokens".

        Returns:
            The pieces of each of `sources`, in order: words or tokens, gaps between them, and special tokens
            with the text that they belong to. All but the special ones join to the text, letter by letter.
            Where the tokenizer does not tell where tokens stand, they are what was read, with spaces between.

        Raises:
            ValueError: `of` is something else.

        Example:
            >>> from captum_globenc import explain
            >>> from captum_globenc.texts import load_default
            >>> ((pieces,),) = (it.pieces() for it in explain(["Unfathomably  GOOD"], *load_default()))
            >>> [(piece.text, piece.tokens) for piece in pieces if not piece.special]
            [('Unfathomably', (1, 2, 3, 4)), ('  ', ()), ('GOOD', (5,))]
        """
        if of not in ("words", "tokens"):
            raise ValueError(f"of is {of!r}: words or tokens")
        sources = self.sources
        places = [
            place
            if place and place.segment < len(sources) and place.stop <= len(sources[place.segment])
            else None
            for place in self.offsets
        ]
        units = self.groups
        if of == "tokens" or not units:
            special = {token for word in self.groups for token in word.tokens if word.special}
            if not self.groups:
                special = {token for token, place in enumerate(places) if place is None}
            units = [Word(name, (token,), token in special) for token, name in enumerate(self.tokens)]
        unknown = [(token, self.tokens[token]) for token in self.unknown]
        return cut_into_pieces(sources, units, places, unknown, truncated=self.truncated)

    @property
    def _knows_classes(self) -> bool:
        return any(self.kinds[name] in ("signed", "contributions") for name in self.scores)

    @property
    def _shares(self) -> str:
        what = f"share of each {self.elements[0]} in what"
        if self.position == "mean":
            return f"{what} all {self.elements[1]} have mixed in, on average"
        if self.position is None and self.span is not None:
            return f"{what} {self.part} has mixed in"
        if self.position is None:
            return f"{what} the head reads"
        return f"{what} {self.tokens[self.position]} has mixed in"
