"""The models of a demo: which are loaded and kept in memory, and what the page says of each."""

from collections.abc import Mapping, Sequence
from html import escape
from threading import Lock
from typing import NamedTuple

from captum_globenc.demo.form import Form
from captum_globenc.errors import LoadingError
from captum_globenc.texts.classes import VALUE, class_names, problem_of
from captum_globenc.texts.loading import Classifier, load_model
from captum_globenc.texts.tasks import SIMILARITY, TASKS, task_name, task_of
from captum_globenc.texts.tokenizing import token_limit

__all__ = [
    "ABOUT",
    "ENTAILMENT",
    "EXAMPLE",
    "EXAMPLES",
    "TEXTS",
    "Classifiers",
    "TaskTexts",
    "check_shown",
    "describe",
    "example_of",
]

KEPT_MODELS = 2


class Classifiers:
    """Load models by name and keep the ones that were used last; "" is the first that the demo offers.

    Args:
        models: Folders or hub names of the models that the demo offers; none for the embedded classifier.
        any_model: Whether visitors may load any other model.
    """

    def __init__(self, models: Sequence[str], any_model: bool) -> None:
        last = [model.rstrip("/").rpartition("/")[2] for model in models]
        # Where a model lies on this machine is nobody's business, if its last name tells it from others.
        names = last if len(set(last)) == len(models) else models
        self.offered = dict(zip(names, models, strict=True))
        self._any_model = any_model
        self._kept: dict[str, Classifier] = {}
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        return not name or name in self.offered or name in self._kept

    def __call__(self, name: str) -> Classifier:
        """Return the model of a name, for the task that its files name; load it unless it is in memory.

        Raises:
            LoadingError: The model is not offered, cannot be loaded, or is for a task that is not explained.
        """
        refusal = self.refusal(name)
        if refusal:
            raise LoadingError(refusal)
        name = self._full(name)
        with self._lock:
            found = self._kept.pop(name, None)
            if found is None:
                while len(self._kept) >= KEPT_MODELS:  # ahead of loading, so that no more are ever there
                    del self._kept[next(iter(self._kept))]
                found = load_model(name or None)
                check_shown(found, name)
            self._kept[name] = found
        return found

    def classes(self, name: str) -> list[str]:
        """Return the names of a model's classes; none for a regression and for tasks without classes.

        Raises:
            LoadingError: The model is not offered, or cannot be loaded.
        """
        model = self(name).model
        if task_name(model) != TASKS[-1].name:
            return []
        config = model.config
        return [] if problem_of(config) == VALUE else class_names(config)

    def refusal(self, name: str) -> str:
        """Return why a name is neither looked up nor loaded; "" where it may be."""
        if not name or name in self.offered or self._any_model:
            return ""
        known = ", ".join(self.offered) or "its own model"
        return f"this demo shows {known} only; who runs it can allow others (--any-model)"

    def loaded(self, name: str) -> Classifier | None:
        """Return the model of a name if it is in memory; load nothing."""
        return self._kept.get(self._full(name))

    @property
    def first(self) -> str:
        """The name of the first that the demo was started with; "" for the embedded one."""
        return next(iter(self.offered), "")

    def _full(self, name: str) -> str:
        return self.offered.get(name or self.first, name)


def check_shown(found: Classifier, name: str) -> None:
    """Check that the page can show the task of a model.

    Raises:
        LoadingError: The model generates text.
    """
    if task_of(found.model).generates:
        raise LoadingError(
            f"{name} generates text, which the demo does not show: use captum-globenc explain --model {name} "
            "--html page.html"
        )


ABOUT = (
    "The model is a small one that comes with the package, to have something to explain. It has read "
    "3,000 English sentences about films, restaurants and goods, and tells NEGATIVE from POSITIVE. Negation "
    "is hard for it, other languages and other kinds of texts are beyond it, and its percentages are not "
    "calibrated."
)
"""What the embedded model is, and what it cannot do."""

EXAMPLES = {
    "For and against": Form("The plot is thin, but the acting is simply wonderful."),
    "A good word in a bad review": Form("I expected a masterpiece and got two hours of boredom."),
    "Why not the other class?": Form(
        "The food was good, the service was terrible.", target="POSITIVE", against="NEGATIVE"
    ),
    "A negation that it gets wrong": Form("The film was not a waste of time."),
}
"""Sentences that the embedded model gets right or wrong, by what they teach."""
EXAMPLE = next(iter(EXAMPLES.values()))
"""The first of them, with which the page opens."""


class TaskTexts(NamedTuple):
    """The texts of the page that depend on the task.

    Attributes:
        does: What the model does, for its description.
        text: The label of the text field.
        pair: The label of the field for the second text; "" hides it.
        example: What the page opens with; "[MASK]" stands for the tokenizer's own mask token.
        targets: What can be chosen as the target besides the predictions.
    """

    does: str
    text: str
    pair: str
    example: Form
    targets: tuple[str, ...] = ()


TEXTS: Mapping[str, TaskTexts] = {
    "text-classification": TaskTexts(
        "classifies texts, or pairs of texts", "Text", "Second text, for models of pairs", EXAMPLE
    ),
    "token-classification": TaskTexts(
        "finds entities in a text, each of which is explained",
        "Text",
        "",
        Form("Ada Lovelace worked with Charles Babbage in London."),
    ),
    "question-answering": TaskTexts(
        "finds the answer to a question in a context",
        "Question",
        "Context that holds the answer",
        Form("Where did Ada meet Charles?", "Ada Lovelace met Charles Babbage in London in 1833."),
        ("start", "end"),
    ),
    "fill-mask": TaskTexts(
        "predicts the word at each mask token", "Text with a mask token", "", Form("A [MASK] film.")
    ),
    SIMILARITY: TaskTexts(
        "measures the similarity of two texts; of one text alone, its embedding is explained",
        "Text",
        "Second text to compare with",
        Form("A cat sleeps on the warm sofa.", "The kitten is taking a nap on the couch."),
    ),
}
"""The texts by the name of a model's task, as `captum_globenc.texts.tasks.task_name` returns it."""

ENTAILMENT = Form("A cat sleeps on the warm sofa.", "An animal is resting.")
"""The example of classifiers with a class for entailment."""
CLASSES = 8
"""How many classes the description of a model names."""


def describe(found: Classifier, name: str) -> str:
    """Return the description of a model: its name, its class, what it does, its classes and its limit.

    Args:
        found: The model.
        name: Its name as the user gave it.

    Returns:
        Escaped HTML.
    """
    model, task = found.model, task_name(found.model)
    said = [f"The model {name} ({type(model).__name__}) {TEXTS[task].does}."]
    if task in ("text-classification", "token-classification"):
        names = class_names(model.config)
        more = f" and {len(names) - CLASSES} more" if len(names) > CLASSES else ""
        said.append(f"Its classes are {', '.join(names[:CLASSES])}{more}.")
    limit = model.max_seq_length if task == SIMILARITY else token_limit(model, found.tokenizer)
    if limit is not None:
        said.append(f"It reads at most {limit:,} tokens.")
    return escape(" ".join(said))


def example_of(found: Classifier) -> Form:
    """Return the example of a model's task; a pair for models of entailment."""
    task = task_name(found.model)
    example = TEXTS[task].example
    if task == "text-classification" and any(
        "entail" in it.lower() for it in class_names(found.model.config)
    ):
        example = ENTAILMENT
    return example._replace(text=example.text.replace("[MASK]", found.tokenizer.mask_token or "[MASK]"))
