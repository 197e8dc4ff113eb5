"""What the web demo asks and answers: a form, its link, and an explanation drawn in HTML.

Knows no web framework. All texts are escaped by the time they are returned.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import urlencode

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts.explaining import COMPARISONS, explain, parse_position
from captum_globenc.texts.explanation import Explanation
from captum_globenc.texts.loading import Classifier, LoadingError
from captum_globenc.texts.words import merge_scores
from captum_globenc.visualization.page import heat_map, legend, number_table, shaded_tokens

__all__ = ["LONGEST_TEXT", "METHODS", "Answer", "Form", "answer", "linked", "message", "shown"]

METHODS = ("GlobEnc", *COMPARISONS)
LONGEST_TEXT = 20_000
"""Characters that a text may have; what a model takes is far less."""
LONGEST_LINK = 6_000


class Form(NamedTuple):
    """What is asked for: the fields of the page, and of a link to it.

    Attributes:
        text: The text.
        pair: Its second segment, or "".
        model: A folder or a hub name, or "" for the model that the demo was started with.
        mixing: GlobEnc's kind of mixing.
        methods: Of `METHODS`, those shown side by side.
        words: Whether pieces are merged into words.
        special: Whether special tokens are shown.
        position: Which token is explained: its index, "mean", or "" for what the model's head reads.
    """

    text: str = ""
    pair: str = ""
    model: str = ""
    mixing: str = "N-Enc"
    methods: Sequence[str] = ("GlobEnc",)
    words: bool = False
    special: bool = True
    position: str = ""

    def link(self) -> str:
        """Return the query that restores this form, what is as by default left out.

        Example:
            >>> Form("not bad", words=True).link()
            '?text=not+bad&words=1'
        """
        plain = Form()
        values = {
            **{name: getattr(self, name) for name in ("text", "pair", "model", "mixing", "position")},
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
        mixing = query.get("mixing", plain.mixing)
        text, pair, model, position = (
            query.get(name, "")[:LONGEST_TEXT] for name in ("text", "pair", "model", "position")
        )
        return cls(
            text,
            pair,
            model.strip(),
            mixing=mixing if mixing in MIXINGS else plain.mixing,
            methods=methods or plain.methods,
            words=query.get("words", "0") == "1",
            special=query.get("special", "1") != "0",
            position=position.strip(),
        )


def shown(explanation: Explanation, form: Form, layer: int) -> tuple[str, str]:
    """Draw an explanation: every method's shaded tokens, and the heat map over the layers.

    Args:
        explanation: With its layers, and with the compared methods of the form.
        form: What to show of it.
        layer: After which layer GlobEnc's scores are shown, from 1.

    Returns:
        Both as HTML, escaped.
    """
    words = [word for word in explanation.words if form.special or not word.special]
    # Each piece alone is what a word of one token is.
    if form.words:
        tokens = [word.text for word in words]
        groups = words
    else:
        places = [place for word in words for place in word.tokens]
        tokens = [explanation.tokens[place] for place in places]
        groups = [word._replace(tokens=(place,)) for word in words for place in word.tokens]
    layers = [merge_scores(row, groups) for row in explanation.layers]
    last = layer >= len(layers)
    name = "GlobEnc" if last else f"GlobEnc, after layer {layer} of {len(layers)}"
    rows = {name: layers[min(layer, len(layers)) - 1]} if "GlobEnc" in form.methods else {}
    rows |= {other: merge_scores(row, groups) for other, row in explanation.compared.items()}
    signed = any(score < 0 for row in rows.values() for score in row)
    lines = "\n".join(
        f'<section aria-label="{escape(method)}"><h3>{escape(method)}</h3>'
        f"{shaded_tokens(tokens, row)}"
        + (f'<p class="legend">{escape(explanation.sums[method])}</p>' if method in explanation.sums else "")
        + "</section>"
        for method, row in rows.items()
    )
    numbers = f"<details><summary>Numbers</summary>{number_table(tokens, rows)}</details>"
    return (
        f'<div class="globenc">{lines}<p class="legend">{legend(signed)}</p>{numbers}</div>',
        f'<div class="globenc">{heat_map(tokens, layers)}</div>',
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
    if any(len(field) > LONGEST_TEXT for field in (form.text, form.pair, form.model, form.position)):
        return Answer(message(f"A text may have {LONGEST_TEXT:,} characters, and no field more."))
    if not form.methods:
        return Answer(message("Choose a method."))
    try:
        model, tokenizer, missing = classifiers(form.model.strip())
        (explanation,) = explain(
            [form.text],
            model,
            tokenizer,
            pair=form.pair.strip() or None,
            position=parse_position(form.position),
            mixing=form.mixing,
            layers=True,
            compare=[name for name in form.methods if name in COMPARISONS],
        )
    except (LoadingError, ValueError) as error:
        return Answer(message(str(error)))
    notes = []
    if missing:
        notes.append(f"The model lacks {', '.join(missing)}: its predictions are random.")
    if explanation.truncated:
        notes.append(
            f"The text is too long for this model: only its first {len(explanation.tokens)} tokens are read."
        )
    return Answer(
        '<div class="globenc" aria-live="polite">'
        f'<p class="prediction">{escape(explanation.headline)}</p></div>' + "".join(map(message, notes)),
        *shown(explanation, form, len(explanation.layers)),
        linked(form),
        explanation,
        form,
    )
