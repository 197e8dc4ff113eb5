"""What the web demo asks and answers: a form, its link, and an explanation drawn in HTML.

Knows no web framework. All texts are escaped by the time they are returned.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import urlencode

from captum_globenc.attr.proof import ProofError
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.drawing.numbers import SHARE
from captum_globenc.drawing.page import heat_map, legend, number_table, shaded_tokens
from captum_globenc.recording.refusal import RecordingError
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.words import merge_scores
from captum_globenc.texts.explaining import explain
from captum_globenc.texts.loading import Classifier, LoadingError
from captum_globenc.texts.methods import BASELINES, DEFAULT_METHODS, METHODS
from captum_globenc.texts.position import parse_position

__all__ = ["LONGEST_TEXT", "Answer", "Form", "answer", "linked", "message", "shown"]

LONGEST_TEXT = 20_000
"""Characters that a text may have; what a model takes is far less."""
LONGEST_LINK = 6_000


_TYPED = ("text", "pair", "model", "position", "target", "against")
"""The fields of a form that anything may be typed into."""


class Form(NamedTuple):
    """What is asked for: the fields of the page, and of a link to it.

    Attributes:
        text: The text.
        pair: Its second segment, or "".
        model: A folder or a hub name, or "" for the model that the demo was started with.
        mixing: GlobEnc's kind of mixing.
        methods: Names of `captum_globenc.texts.METHODS`, those shown side by side.
        words: Whether pieces are merged into words.
        special: Whether special tokens are shown.
        position: Which token is explained: its index, "mean", or "" for what the model's head reads.
        target: The class that is explained, by name or index, or "" for the predicted one.
        against: The class that it is held against, or "".
        baseline: What a text is compared with, of `captum_globenc.texts.BASELINES`.
    """

    text: str = ""
    pair: str = ""
    model: str = ""
    mixing: str = "N-Enc"
    methods: Sequence[str] = DEFAULT_METHODS
    words: bool = False
    special: bool = True
    position: str = ""
    target: str = ""
    against: str = ""
    baseline: str = "mask"

    def link(self) -> str:
        """Return the query that restores this form, what is as by default left out.

        Example:
            >>> Form("not bad", words=True).link()
            '?text=not+bad&words=1'
        """
        plain = Form()
        values = {
            **{name: getattr(self, name) for name in (*_TYPED, "mixing", "baseline")},
            "methods": ",".join(self.methods),
            "words": int(self.words),
            "special": int(self.special),
        }
        usual = {**plain._asdict(), "methods": ",".join(plain.methods)}
        changed = {name: value for name, value in values.items() if value != usual[name]}
        return "?" + urlencode(changed)

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Form":
        """Restore a form from a query; what makes no sense there is as by default.

        Example:
            >>> Form.of({"text": "not bad", "mixing": "N-Nothing"}) == Form("not bad")
            True
        """
        plain = cls()
        methods = tuple(name for name in METHODS if name in query.get("methods", "").split(","))
        mixing, baseline = query.get("mixing", ""), query.get("baseline", "")
        typed = {name: query.get(name, "")[:LONGEST_TEXT] for name in _TYPED}
        return cls(
            **{name: value if name in ("text", "pair") else value.strip() for name, value in typed.items()},
            mixing=mixing if mixing in MIXINGS else plain.mixing,
            baseline=baseline if baseline in BASELINES else plain.baseline,
            methods=methods or plain.methods,
            words=query.get("words", "0") == "1",
            special=query.get("special", "1") != "0",
        )


def shown(explanation: Explanation, form: Form, layer: int) -> tuple[str, str]:
    """Draw an explanation: every method's shaded tokens, and the heat maps over the layers.

    Args:
        explanation: With its layers.
        form: What to show of it.
        layer: After which layer shares are shown, from 1.

    Returns:
        Both as HTML, escaped.
    """
    words = [word for word in explanation.groups if form.special or not word.special]
    # Each piece alone is what a word of one token is.
    if form.words:
        tokens = [word.text for word in words]
        groups = words
    else:
        places = [place for word in words for place in word.tokens]
        tokens = [explanation.tokens[place] for place in places]
        groups = [word._replace(tokens=(place,)) for word in words for place in word.tokens]
    units, notes = explanation.units, explanation.notes
    depths = {name: [merge_scores(row, groups) for row in rows] for name, rows in explanation.layers.items()}
    lines, rows = [], {}
    for name, scores in explanation.scores.items():
        label, row = name, merge_scores(scores, groups)
        if units[name] == SHARE and layer < len(depths.get(name, ())):
            label, row = f"{name}, after layer {layer} of {len(depths[name])}", depths[name][layer - 1]
        rows[name] = row
        lines.append(
            f'<section aria-label="{escape(label)}"><h3>{escape(label)}</h3>'
            f'{shaded_tokens(tokens, row, units[name])}<p class="note">{escape(notes[name])}</p></section>'
        )
    numbers = number_table(tokens, rows, units)
    key = legend(shares=SHARE in units.values(), signed=any(unit != SHARE for unit in units.values()))
    maps = [
        f"<h3>{escape(name)}</h3>{heat_map(tokens, made, units[name], first=int(units[name] == SHARE))}"
        for name, made in depths.items()
    ]
    return (
        f'<div class="globenc">{"".join(lines)}<p class="legend">{key}</p>'
        f"<details><summary>Numbers</summary>{numbers}</details></div>",
        f'<div class="globenc">{"".join(maps)}</div>' if maps else "",
    )


class Answer(NamedTuple):
    """What the page shows, in HTML, and the explanation that it shows, if there is one, with its form."""

    prediction: str = ""
    tokens: str = ""
    layers: str = ""
    link: str = ""
    explanation: Explanation | None = None
    form: Form | None = None


def linked(form: Form) -> str:
    """Return the link that restores a form, or nothing where it would be too long."""
    link = form.link()
    if len(link) > LONGEST_LINK:
        return ""
    return f'<div class="globenc"><a href="{escape(link)}">Link to this input</a></div>'


def message(text: str) -> str:
    """Return a message, read out at once by a screen reader."""
    return f'<div class="globenc"><p class="message" role="alert">{escape(text)}</p></div>'


def answer(form: Form, classifiers: Callable[[str], Classifier]) -> Answer:
    """Explain what a form asks for; what stands in the way becomes a message.

    Args:
        form: What is asked for.
        classifiers: Returns the classifier of a name, "" among them; raises `LoadingError`.
    """
    if not form.text.strip():
        return Answer(message("Type a text to explain."))
    if any(len(getattr(form, name)) > LONGEST_TEXT for name in _TYPED):
        return Answer(message(f"A text may have {LONGEST_TEXT:,} characters, and no field more."))
    if not form.methods:
        return Answer(message("Choose a method."))
    notes: list[str] = []
    try:
        model, tokenizer, missing = classifiers(form.model.strip())
        found = explain(
            [form.text],
            model,
            tokenizer,
            pair=form.pair.strip() or None,
            position=parse_position(form.position),
            mixing=form.mixing,
            layers=True,
            # Of the usual ones, as many as hold for the model.
            methods=None if tuple(form.methods) == DEFAULT_METHODS else form.methods,
            target=form.target.strip() or None,
            against=form.against.strip() or None,
            baseline=form.baseline,
            tell=notes.append,
        )
        explanation = max(found, key=lambda it: it.probability or 0)  # of several likely labels
    except (LoadingError, ValueError, ProofError, RecordingError) as error:
        return Answer(message(str(error)))
    if missing:
        notes.append(f"The model lacks {', '.join(missing)}: its predictions are random.")
    if explanation.truncated:
        notes.append(
            f"The text is too long for this model: only its first {len(explanation.tokens)} tokens are read."
        )
    return Answer(
        '<div class="globenc" aria-live="polite">'
        f'<p class="prediction">{escape(explanation.headline)}</p></div>' + "".join(map(message, notes)),
        *shown(explanation, form, len(explanation.layers.get("globenc", ()))),
        linked(form),
        explanation,
        form,
    )
