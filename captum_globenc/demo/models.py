"""The models of the web demo: loading, caching, and the page's texts about each."""

from collections.abc import Mapping, Sequence
from html import escape
from threading import Lock
from typing import NamedTuple

from captum_globenc.demo.form import Form
from captum_globenc.errors import LoadingError
from captum_globenc.texts.classes import VALUE, class_names, problem_of
from captum_globenc.texts.loading import Classifier, load_model
from captum_globenc.texts.tasks import SIMILARITY, TASKS, task_name
from captum_globenc.texts.tokenizing import token_limit

__all__ = [
    "ABOUT",
    "ENTAILMENT",
    "EXAMPLE",
    "EXAMPLES",
    "TEXTS",
    "Classifiers",
    "TaskTexts",
    "describe",
    "example_of",
]

KEPT_MODELS = 2


class Classifiers:
    """Load models by name, and keep the most recently used in memory; "" is the demo's first model.

    Args:
        models: Folders or hub names of the demo's models; empty for the embedded classifier.
        any_model: Whether visitors may load any other model.
    """

    def __init__(self, models: Sequence[str], any_model: bool) -> None:
        last = [model.rstrip("/").rpartition("/")[2] for model in models]
        # Hide the paths of this machine, if the last parts of the names are unique.
        names = last if len(set(last)) == len(models) else models
        self.offered = dict(zip(names, models, strict=True))
        self._any_model = any_model
        self._kept: dict[str, Classifier] = {}
        self._lock = Lock()

    def __contains__(self, name: str) -> bool:
        return not name or name in self.offered or name in self._kept

    def __call__(self, name: str) -> Classifier:
        """Return the model of a name; load it unless it is in memory.

        Raises:
            LoadingError: The model is not offered, cannot be loaded, or has an unsupported task.
        """
        reason = self.rejection(name)
        if reason:
            raise LoadingError(reason)
        name = self._full(name)
        with self._lock:
            found = self._kept.pop(name, None)
            if found is None:
                while len(self._kept) >= KEPT_MODELS:  # before loading, to limit the memory
                    del self._kept[next(iter(self._kept))]
                found = load_model(name or None)
            self._kept[name] = found
        return found

    def classes(self, name: str) -> list[str]:
        """Return the names of a model's classes; empty for a regression and for tasks without classes.

        Raises:
            LoadingError: The model is not offered, or cannot be loaded.
        """
        model = self(name).model
        if task_name(model) != TASKS[-1].name:
            return []
        config = model.config
        return [] if problem_of(config) == VALUE else class_names(config)

    def rejection(self, name: str) -> str:
        """Return the reason why a model may not be loaded; "" if it may."""
        if not name or name in self.offered or self._any_model:
            return ""
        known = ", ".join(self.offered) or "its own model"
        return f"this demo offers {known} only; its operator can allow others with --any-model"

    def loaded(self, name: str) -> Classifier | None:
        """Return the model of a name if it is in memory, else None."""
        return self._kept.get(self._full(name))

    @property
    def first(self) -> str:
        """The name of the demo's first model; "" for the embedded classifier."""
        return next(iter(self.offered), "")

    def _full(self, name: str) -> str:
        return self.offered.get(name or self.first, name)


ABOUT = (
    "This small example model is part of the package. It was trained on 3,000 English sentences about films, "
    "restaurants and products, and classifies texts as NEGATIVE or POSITIVE. It often misreads negation, "
    "knows no other languages or kinds of texts, and its probabilities are not calibrated."
)
"""Description and limits of the embedded model."""

EXAMPLES = {
    "Support and opposition": Form("The plot is thin, but the acting is simply wonderful."),
    "A good word in a bad review": Form("I expected a masterpiece and got two hours of boredom."),
    "Why not the other class?": Form(
        "The food was good, the service was terrible.", target="POSITIVE", against="NEGATIVE"
    ),
    "A negation that it gets wrong": Form("The film was not a waste of time."),
}
"""Examples for the embedded model, by title; some predictions are wrong."""
EXAMPLE = next(iter(EXAMPLES.values()))
"""The example with which the page opens."""


class TaskTexts(NamedTuple):
    """The texts of the page that depend on the task.

    Attributes:
        does: The predicate of the model's description, such as "classifies texts".
        text: The label of the text field.
        pair: The label of the field for the second text, or for the answer to a prompt; "" hides it.
        example: The example with which the page opens; "[MASK]" stands for the tokenizer's mask token.
        targets: Possible targets besides the predictions.
        target: The label of the field for the explained class; "" hides it.
        against: The label of the field for the contrast class, or for a contrast answer; "" hides it.
    """

    does: str
    text: str
    pair: str
    example: Form
    targets: tuple[str, ...] = ()
    target: str = "Explained class"
    against: str = "Rather than"


GENERATED = TaskTexts(
    "writes an answer to a prompt; the log-probability of the answer is explained",
    "Prompt",
    "Answer; leave it empty to let the model write one",
    Form("Give Ada pears. Give Ben nuts. Give Clara figs. Give Ben"),
    target="",
    against="Rather than the answer",
)
"""The texts for models that generate text."""


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
        target="",
        against="",
    ),
    **{task.name: GENERATED for task in TASKS if task.generates},
}
"""The texts by task, a return value of `captum_globenc.texts.tasks.task_name`."""

ENTAILMENT = Form("A cat sleeps on the warm sofa.", "An animal is resting.")
"""The example for classifiers with a class for entailment."""
CLASSES = 8
"""Maximum number of classes in the description of a model."""


def describe(found: Classifier, name: str) -> str:
    """Return the description of a model as escaped HTML: name, class, task, classes and token limit."""
    model, task = found.model, task_name(found.model)
    sentences = [f"The model {name} ({type(model).__name__}) {TEXTS[task].does}."]
    if task in ("text-classification", "token-classification"):
        names = class_names(model.config)
        more = f" and {len(names) - CLASSES} more" if len(names) > CLASSES else ""
        sentences.append(f"Its classes are {', '.join(names[:CLASSES])}{more}.")
    limit = model.max_seq_length if task == SIMILARITY else token_limit(model, found.tokenizer)
    if limit is not None:
        sentences.append(f"It reads at most {limit:,} tokens.")
    return escape(" ".join(sentences))


def example_of(found: Classifier) -> Form:
    """Return the example for a model's task."""
    task = task_name(found.model)
    example = TEXTS[task].example
    if task == "text-classification" and any(
        "entail" in it.lower() for it in class_names(found.model.config)
    ):
        example = ENTAILMENT
    return example._replace(text=example.text.replace("[MASK]", found.tokenizer.mask_token or "[MASK]"))
