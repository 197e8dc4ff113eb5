"""The components of the web demo's page, and the texts that depend on the model's task."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from captum_globenc.app.form import Form
from captum_globenc.app.offered import Classifiers
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts.classes import class_names
from captum_globenc.texts.loading import Classifier
from captum_globenc.texts.methods import MAIN_METHODS
from captum_globenc.texts.request import BASELINES
from captum_globenc.texts.tasks import SIMILARITY, task_name
from captum_globenc.texts.tokenizing import token_limit

if TYPE_CHECKING:
    import gradio

__all__ = [
    "ABOUT",
    "ENTAILMENT",
    "EXAMPLE",
    "EXAMPLES",
    "TASKS",
    "Answered",
    "Asked",
    "TaskTexts",
    "class_choices",
    "describe",
    "example_of",
    "lay_out",
]

PREDICTED, NONE = ("predicted", ""), ("none", "")
"""What stands for no choice of a class."""

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


TASKS: Mapping[str, TaskTexts] = {
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
    said = [f"The model {name} ({type(model).__name__}) {TASKS[task].does}."]
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
    example = TASKS[task].example
    if task == "text-classification" and any(
        "entail" in it.lower() for it in class_names(found.model.config)
    ):
        example = ENTAILMENT
    return example._replace(text=example.text.replace("[MASK]", found.tokenizer.mask_token or "[MASK]"))


DOWNLOADS = {"jsonl": "Download JSON", "html": "Download page", "csv": "Download CSV"}
"""The files that an answer is downloaded as, by the end of their names, and what they are called."""


class Asked(NamedTuple):
    """The fields of the form, in its order, except `layer` and `result`."""

    text: Any
    pair: Any
    model: Any
    mixing: Any
    methods: Any
    words: Any
    special: Any
    position: Any
    target: Any
    against: Any
    baseline: Any
    windows: Any


class Answered(NamedTuple):
    """The components that an answer fills."""

    about: Any
    result: Any
    prediction: Any
    tokens: Any
    layers: Any
    layer: Any
    viewing: Any
    heading: Any
    sharing: Any
    query: Any
    link: Any
    kept: Any


class Controls(NamedTuple):
    """What is pressed: buttons, by the end of a file's name those that download it, and the examples."""

    explain: Any
    cancel: Any
    downloads: dict[str, Any]
    file: Any
    examples: "gradio.Examples | None"


def class_choices(classes: list[str]) -> tuple[list[Any], list[Any]]:
    """Return what can be chosen: as the class that is explained, and as the one it is held against."""
    return [PREDICTED, *classes], [NONE, *classes]


def lay_out(
    classifiers: Classifiers, *, embedded: bool, any_model: bool, kept_seconds: int
) -> tuple[Asked, Answered, Controls]:
    """Lay out the page within a block of Gradio's: the form on the left, the answer on the right.

    Args:
        classifiers: The models.
        embedded: Whether the first is the embedded one.
        any_model: Whether visitors may name any other model.
        kept_seconds: Seconds for which an answer is kept, to be drawn with other options.

    Returns:
        The fields, the components of the answer, and the buttons.
    """
    import gradio as gr

    plain, targets = Form(), class_choices(classifiers.classes(""))
    first = classifiers("")
    texts, example = TASKS[task_name(first.model)], example_of(first)
    gr.Markdown("# GlobEnc\nWhich words does the model use, and which support or oppose its prediction?")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            about = gr.HTML(ABOUT if embedded else describe(first, classifiers.first), elem_id="about")
            text = gr.Textbox(
                example.text,
                label=texts.text,
                placeholder="Enter explains it, Shift+Enter begins a new line.",
                lines=1,
                max_lines=8,
                html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),
                elem_id="text",
            )
            pair = gr.Textbox(
                example.pair,
                label=texts.pair,
                lines=1,
                max_lines=8,
                visible=bool(texts.pair) and (any_model or not embedded),
                elem_id="pair",
            )
            button = gr.Button("Explain", variant="primary", elem_id="explain")
            chips = gr.Column(visible=embedded)
            methods = gr.CheckboxGroup(
                list(MAIN_METHODS),
                value=list(plain.methods),
                label="Methods",
                info="globenc: the share of each token, without a class. The others: positive and negative "
                "contributions to the explained class.",
            )
            with gr.Row():
                target = gr.Dropdown(
                    targets[0], value="", label="Explained class", allow_custom_value=True, min_width=140
                )
                against = gr.Dropdown(
                    targets[1], value="", label="Rather than", allow_custom_value=True, min_width=140
                )
            with gr.Accordion("More options", open=False):
                named = gr.Dropdown(
                    [("the embedded one", "")] if embedded else list(classifiers.offered),
                    label="Model: a folder or a name on the hub" if any_model else "Model",
                    allow_custom_value=True,  # which a link may hold; others are refused when they are asked
                    visible=any_model or len(classifiers.offered) > 1,
                )
                baseline = gr.Dropdown(list(BASELINES), value=plain.baseline, label="Compared with")
                mixing = gr.Dropdown(list(MIXINGS), value=plain.mixing, label="Mixing of GlobEnc")
                position = gr.Textbox(
                    label="Explained token of GlobEnc: an index, or mean", placeholder="what the head reads"
                )
                windows = gr.Checkbox(
                    plain.windows, label="Windows", info="Explain long texts whole, in overlapping windows."
                )
        with gr.Column(scale=5, min_width=320, elem_id="answer"):
            result = gr.Dropdown([], label="Explained", visible=False, elem_id="result")
            with gr.Row():
                prediction = gr.HTML(
                    '<div class="globenc"><p class="note">The answer comes here.</p></div>',
                    elem_id="prediction",
                    min_height=80,
                )
                cancel = gr.Button(
                    "Cancel", visible=False, size="md", scale=0, min_width=100, elem_id="cancel"
                )
            tokens = gr.HTML(elem_id="tokens")
            with gr.Column(visible=False) as viewing:
                with gr.Row():
                    words = gr.Checkbox(plain.words, label="Whole words", min_width=140)
                    special = gr.Checkbox(plain.special, label="Special tokens", min_width=140)
                layer = gr.Slider(0, 1, 0, step=1, label="GlobEnc after layer", elem_id="layer")
            with gr.Group(visible=False) as sharing:
                link = gr.Textbox(
                    label="Link to this answer",
                    interactive=False,
                    buttons=["copy"],
                    elem_id="link",
                    max_lines=1,
                )
                with gr.Row():
                    downloads = {
                        end: gr.Button(label, size="sm", min_width=100) for end, label in DOWNLOADS.items()
                    }
            with gr.Accordion("Layers", visible=False) as heading:
                layers = gr.HTML(elem_id="layers", padding=False)
            query, file = gr.Textbox(visible=False), gr.DownloadButton(visible="hidden", elem_id="file")
            state = gr.State(None, time_to_live=kept_seconds)
    asked = Asked(
        text, pair, named, mixing, methods, words, special, position, target, against, baseline, windows
    )
    examples = None
    if embedded:
        with chips:
            examples = gr.Examples(
                [form.fields() for form in EXAMPLES.values()],
                list(asked),
                example_labels=[form.text for form in EXAMPLES.values()],
                label="Examples",
                api_visibility="private",
            )
    answered = Answered(
        about, result, prediction, tokens, layers, layer, viewing, heading, sharing, query, link, state
    )
    return asked, answered, Controls(button, cancel, downloads, file, examples)
