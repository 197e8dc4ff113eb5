"""What the web demo answers: an explanation drawn in HTML, its files, and what is to say of them.

Knows no web framework. All texts are escaped by the time they are returned.
"""

from collections.abc import Callable, Mapping
from html import escape
from os import PathLike
from typing import NamedTuple

from captum_globenc.app.form import LONGEST_TEXT, TYPED, Form
from captum_globenc.drawing.document import Line, Part, shaded
from captum_globenc.drawing.numbers import SHARE, depths_note
from captum_globenc.drawing.page import heat_map, legend, number_table
from captum_globenc.errors import CaptumGlobencError
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.words import merge_scores
from captum_globenc.texts.explaining import TRUNCATED, explain
from captum_globenc.texts.loading import Classifier
from captum_globenc.texts.methods import DEFAULT_METHODS
from captum_globenc.texts.position import parse_position

__all__ = ["FILES", "Answer", "answer", "depth", "message", "shown"]

BARS = 8
"""Of how many classes the probabilities are shown."""
TAIL = 40
"""How many characters ahead of a cut tell where it is."""


class Answer(NamedTuple):
    """What is said of a prediction, in HTML; what explains it, if there is something; what was asked."""

    prediction: str
    explanation: Explanation | None = None
    form: Form = Form()


FILES: Mapping[str, Callable[[Explanation, str | PathLike[str]], object]] = {
    "jsonl": Explanation.save,
    "html": Explanation.to_html,
    "csv": lambda explanation, path: explanation.to_pandas().to_csv(path, index=False),
}
"""What writes an explanation to a file, by the end of its name."""


def shown(explanation: Explanation, form: Form) -> tuple[str, str]:
    """Draw an explanation: every method's shaded tokens, and the heat maps over the layers.

    Args:
        explanation: With its layers.
        form: What to show of it.

    Returns:
        Both as HTML, escaped.
    """
    texts = [
        [piece for piece in pieces if form.special or not piece.special]
        for pieces in explanation.pieces("words" if form.words else "tokens")
    ]
    scored = [piece for pieces in texts for piece in pieces if piece.tokens]
    tokens = [
        it.text if form.words else " ".join(explanation.tokens[place] for place in it.tokens) for it in scored
    ]
    units, notes = explanation.units, explanation.notes
    depths = {name: [merge_scores(row, scored) for row in rows] for name, rows in explanation.layers.items()}
    lines, rows = [], {}
    for name, scores in explanation.scores.items():
        label, row = name, merge_scores(scores, scored)
        if units[name] == SHARE and 0 < form.layer < len(depths.get(name, ())):
            label = f"{name}, after layer {form.layer} of {len(depths[name])}"
            row = depths[name][form.layer - 1]
        rows[name], score = row, iter(row)
        line = [
            [Part(it.text, next(score) if it.tokens else None, it.special, it.note) for it in pieces]
            for pieces in texts
        ]
        lines.append(
            f'<section aria-label="{escape(label)}"><h3>{escape(label)}</h3>'
            f'<div class="shaded">{shaded(Line(name, units[name], line))}</div>'
            f'<p class="note">{escape(notes[name])}</p></section>'
        )
    numbers = number_table(tokens, rows, units)
    key = legend(shares=SHARE in units.values(), signed=any(unit != SHARE for unit in units.values()))
    maps = [
        f'<section><h3>{escape(name)}</h3><p class="note">{depths_note(units[name])}</p>'
        f"{heat_map(tokens, made, units[name], first=int(units[name] == SHARE))}</section>"
        for name, made in depths.items()
    ]
    return (
        f'<div class="globenc">{"".join(lines)}<p class="legend">{key}</p>'
        f"<details><summary>Numbers</summary>{numbers}</details></div>",
        f'<div class="globenc maps">{"".join(maps)}</div>' if maps else "",
    )


def depth(explanation: Explanation) -> int:
    """Return after how many layers GlobEnc's shares can be shown; 0 where it has none of single layers."""
    return len(explanation.layers.get("globenc", ()))


def message(text: str) -> str:
    """Return a message, read out at once by a screen reader."""
    return f'<div class="globenc"><p class="message" role="alert">{escape(text)}</p></div>'


def answer(form: Form, classifiers: Callable[[str], Classifier]) -> Answer:
    """Explain what a form asks for; what stands in the way becomes a message.

    Args:
        form: What is asked for.
        classifiers: Returns the classifier of a name, "" among them; raises `LoadingError`.
    """
    wrong = _wrong(form)
    if wrong:
        return Answer(message(wrong))
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
    except (CaptumGlobencError, ValueError) as error:
        return Answer(message(str(error)))
    if missing:
        notes.append(f"The model lacks {', '.join(missing)}: its predictions are random.")
    if explanation.truncated:
        # The form has no windows, and this says more of the one text than the notice of explain() does.
        notes = [*(it for it in notes if not it.startswith(TRUNCATED)), _cut(explanation)]
    return Answer(
        '<div class="globenc" aria-live="polite">'
        f'<p class="prediction">{escape(explanation.headline)}</p>{_bars(explanation)}</div>'
        + "".join(map(message, notes)),
        explanation,
        form._replace(layer=form.layer if form.layer < depth(explanation) else 0),
    )


def _bars(explanation: Explanation) -> str:
    """Return the probabilities of the most probable classes, as bars and numbers."""
    ranked = sorted(explanation.probabilities.items(), key=lambda it: -it[1])
    bars = [
        f'<li style="--part:{share:.4f}">{escape(name)} <i></i> <span>{share:.1%}</span></li>'
        for name, share in ranked[:BARS]
    ]
    left = len(ranked) - BARS
    more = f'<p class="note">{left} more classes are less probable.</p>' if left > 0 else ""
    return f'<ul class="classes" aria-label="Probabilities">{"".join(bars)}</ul>{more}' if bars else ""


def _wrong(form: Form) -> str:
    """Return what can be told to be wrong before a model is looked at; "" where nothing is."""
    if not form.text.strip():
        return "Type a text to explain."
    for name in TYPED:
        length = len(getattr(form, name))
        if length > LONGEST_TEXT:
            return f"The {name} has {length:,} characters, and {LONGEST_TEXT:,} are the most: shorten it."
    return "" if form.methods else "Choose a method."


def _cut(explanation: Explanation) -> str:
    """Return what is to say of a text that was longer than the model takes."""
    said = f"The text is too long for this model: only its first {len(explanation.tokens)} tokens are read"
    stops = [place.stop for place in explanation.offsets if place is not None]
    if explanation.pair is not None or not stops:
        return f"{said}."
    text, read = explanation.text, max(stops)
    tail = " ".join(text[max(0, read - TAIL) : read].split())
    return f"{said}, up to “… {tail}”. The last {len(text) - read:,} of its {len(text):,} characters are not."
