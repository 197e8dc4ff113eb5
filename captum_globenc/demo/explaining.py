"""The answers of the web demo: explanations in HTML, their files, and messages.

This module does not depend on a web framework. All returned texts are escaped.
"""

import traceback
from collections.abc import Callable, Mapping
from html import escape
from os import PathLike
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.demo.form import LONGEST_TEXT, TYPED, Form
from captum_globenc.drawing.elements import bars
from captum_globenc.drawing.numbers import SHARE
from captum_globenc.errors import CaptumGlobencError
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.page import draw_pieces
from captum_globenc.texts.explaining import TRUNCATED, explain
from captum_globenc.texts.loading import Classifier
from captum_globenc.texts.methods import DEFAULT_METHODS
from captum_globenc.texts.options import parse_position
from captum_globenc.texts.tasks import SIMILARITY, task_name, task_of
from captum_globenc.texts.tokenizing import token_ids, token_limit

__all__ = ["FILES", "Answer", "answer", "depth", "message", "shown"]

BARS = 8
"""Number of classes whose probabilities are shown."""
SHARED = 16
"""Number of tokens that neighboring windows of a long text share."""
NEW_TOKENS = 24
"""Maximum number of tokens of a generated answer."""
TAIL = 40
"""Number of characters quoted in the message about a truncated text."""


class Answer(NamedTuple):
    """The explanations of a text.

    Attributes:
        messages: Errors and notices, in plain text.
        explanations: One explanation, or one per entity, mask token or label; none after an error.
        form: The form of the request.
    """

    messages: tuple[str, ...] = ()
    explanations: Explanations = Explanations()
    form: Form = Form()

    @property
    def explanation(self) -> Explanation | None:
        """The explanation that is shown; None after an error."""
        if not self.explanations:
            return None
        return self.explanations[0 if self._has_rows else self.form.result]

    @property
    def choices(self) -> list[str]:
        """What can be shown: each explanation, or a generated answer and each of its tokens."""
        if not self._has_rows:
            return [it.headline for it in self.explanations]
        assert self.explanations[0].answer is not None
        tokens = self.explanations[0].answer.tokens
        return ["the whole answer", *(f"{number}: {token}" for number, token in enumerate(tokens, 1))]

    @property
    def answer_token(self) -> int | None:
        """The index of the shown answer token; None for the whole answer, and for other tasks."""
        return self.form.result - 1 if self._has_rows and self.form.result else None

    @property
    def _has_rows(self) -> bool:
        """Whether there is one explanation, with a row of scores for each answer token."""
        return len(self.explanations) == 1 and bool(self.explanations[0].answer_scores)

    @property
    def prediction(self) -> str:
        """The prediction with its probabilities, and the messages, as HTML."""
        shown, messages = self.explanation, "".join(map(message, self.messages))
        if shown is None:
            return messages
        return (
            '<div class="globenc" aria-live="polite">'
            f'<p class="prediction">{escape(shown.headline)}</p>{_bars(shown)}</div>{messages}'
        )


FILES: Mapping[str, Callable[[Explanations, str | PathLike[str]], object]] = {
    "jsonl": lambda found, path: found.save(path),
    "html": lambda found, path: found.to_html(path),
    "csv": lambda found, path: found.to_pandas().to_csv(path, index=False),
}
"""Functions that write explanations to a file, by file ending."""


def shown(found: Answer) -> tuple[str, str]:
    """Draw the shaded tokens of every method, and the heat maps over the layers.

    Args:
        found: The answer; its form selects what is shown.

    Returns:
        The HTML of the tokens and of the heat maps; "" after an error.
    """
    explanation, form = found.explanation, found.form
    if explanation is None:
        return "", ""
    tokens, layers = draw_pieces(
        explanation,
        of="words" if form.words else "tokens",
        special=form.special,
        after=form.layer,
        answer_token=found.answer_token,
    )
    return (
        f'<div class="globenc">{tokens}</div>',
        f'<div class="globenc maps">{layers}</div>' if layers else "",
    )


def depth(explanation: Explanation | None) -> int:
    """Return the number of layers for which GlobEnc has scores; 0 if it has none."""
    return 0 if explanation is None else len(explanation.layers.get("globenc", ()))


def message(text: str) -> str:
    """Return a message as HTML that a screen reader reads out at once."""
    return f'<div class="globenc"><p class="message" role="alert">{escape(text)}</p></div>'


def answer(form: Form, classifiers: Callable[[str], Classifier]) -> Answer:
    """Explain the text of a form; errors become messages.

    Args:
        form: The form.
        classifiers: Function that returns the model of a name, which may be "", or raises `LoadingError`.

    Raises:
        TimeoutError: The run was cancelled, or exceeded its time limit.
    """
    error_message = _invalid(form)
    if error_message:
        return Answer((error_message,))
    notes: list[str] = []
    try:
        model, tokenizer, missing = classifiers(form.model.strip())
        generates = task_of(model).generates
        options = _answer_options(form, model, tokenizer) if generates else _text_options(form)
        found = explain(
            [form.text],
            model,
            tokenizer,
            position=parse_position(form.position),
            mixing=form.mixing,
            # By default, the default methods that support the model.
            methods=None if tuple(form.methods) == DEFAULT_METHODS else form.methods,
            baseline=form.baseline,
            tell=notes.append,
            **options,
        )
    except (CaptumGlobencError, ValueError) as error:
        return Answer((str(error),))
    except TimeoutError:
        raise
    except Exception as error:  # the model's code may raise anything; the page must not keep an older answer
        traceback.print_exc()
        return Answer((f"The model failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}",))
    if missing:
        notes.append(f"The model lacks {', '.join(missing)}: its predictions are random.")
    if any(it.truncated for it in found):
        # Replace the notice of explain() by one that says more about this text.
        notes = [
            *(it for it in notes if not it.startswith(TRUNCATED)),
            _truncation_message(found[0], windows=task_name(model) != SIMILARITY),
        ]
    if all(it.span is None for it in found):  # labels of a text; entities keep their order
        found = found.sort_by("confidence", reverse=True)
    if not found:
        return Answer(tuple(notes or ["There is nothing to explain in this text."]))
    made = Answer(tuple(notes), found)
    made = made._replace(form=form._replace(result=form.result if form.result < len(made.choices) else 0))
    deepest = depth(made.explanation)
    return made._replace(form=made.form._replace(layer=form.layer if form.layer < deepest else 0))


def _text_options(form: Form) -> dict[str, Any]:
    """Return the options of `explain` for tasks with classes or pairs."""
    return {
        "pair": form.pair.strip() or None,
        "layers": True,
        "target": form.target.strip() or None,
        "against": form.against.strip() or None,
        "windows": SHARED if form.windows else None,
    }


def _answer_options(form: Form, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the options of `explain` for models that generate text: the answer, or its largest length."""
    against = form.against if form.against.strip() else None
    options = {
        "layers": bool(getattr(model.config, "is_encoder_decoder", False)),
        "against": against,
        "per_token": against is None and "transformer-deep-lift" in form.methods,
    }
    if form.pair.strip():
        return options | {"answer": form.pair}
    limit = None if options["layers"] else token_limit(model, tokenizer)
    left = NEW_TOKENS if limit is None else limit + 1 - len(token_ids([form.text], tokenizer)[0])
    return options | {"max_new_tokens": max(1, min(NEW_TOKENS, left))}


def _bars(explanation: Explanation) -> str:
    """Return HTML of the probabilities of the most probable classes, as bars and numbers."""
    ranked = sorted(explanation.probabilities.items(), key=lambda it: -it[1])
    if not ranked:
        return ""
    names, shares = zip(*ranked[:BARS], strict=True)
    left = len(ranked) - BARS
    more = f'<p class="note">{left} more classes are less probable.</p>' if left > 0 else ""
    return bars(names, shares, SHARE, "Probabilities") + more


def _invalid(form: Form) -> str:
    """Return the error of a form that needs no model to detect, or ""."""
    if not form.text.strip():
        return "Type a text to explain."
    for name in TYPED:
        length = len(getattr(form, name))
        if length > LONGEST_TEXT:
            return f"The {name} has {length:,} characters, and {LONGEST_TEXT:,} are the most: shorten it."
    return "" if form.methods else "Choose a method."


def _truncation_message(explanation: Explanation, *, windows: bool) -> str:
    """Return the message about a truncated text, which suggests `windows` if they are supported."""
    advice = " Tick Windows under More options to explain it whole." if windows else ""
    start = f"The text is too long for this model: only its first {len(explanation.tokens)} tokens are read"
    stops = [place.stop for place in explanation.offsets if place is not None]
    if explanation.pair is not None or not stops:
        return f"{start}.{advice}"
    text, read = explanation.text, max(stops)
    tail = " ".join(text[max(0, read - TAIL) : read].split())
    unread = f"The last {len(text) - read:,} of its {len(text):,} characters are not."
    return f"{start}, up to “… {tail}”. {unread}{advice}"
