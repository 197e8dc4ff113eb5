"""What the page of the web demo consists of, and where it stands."""

from typing import TYPE_CHECKING, Any, NamedTuple

from captum_globenc.app.form import Form
from captum_globenc.app.offered import Classifiers
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.question import BASELINES

if TYPE_CHECKING:
    import gradio

__all__ = ["Answered", "Asked", "class_choices", "lay_out"]

PREDICTED, NONE = ("predicted", ""), ("none", "")
"""What stands for no choice of a class."""

ABOUT = (
    "**The model** is a small one that comes with the package, to have something to explain. It has read "
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
"""What the embedded model shows well, or fails at, by what it teaches."""


DOWNLOADS = {"jsonl": "Download JSON", "html": "Download page", "csv": "Download CSV"}
"""The files that an answer is downloaded as, by the end of their names, and what they are called."""


class Asked(NamedTuple):
    """The fields of the form, in its order, but for the layer."""

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


class Answered(NamedTuple):
    """What an answer fills."""

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
    """Lay the page out, within a block of Gradio's: what is asked on the left, what is answered on the right.

    Args:
        classifiers: Those that there are.
        embedded: Whether the first is the embedded one.
        any_model: Whether any other can be named.
        kept_seconds: How long an answer is kept to be drawn anew.

    Returns:
        The fields, what is filled, and what is pressed.
    """
    import gradio as gr

    plain, targets = Form(), class_choices(classifiers.classes(""))
    gr.Markdown(
        "# GlobEnc\nWhich words did the model really use, and what speaks for and against its answer?"
    )
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            gr.Markdown(
                ABOUT if embedded else f"**The models:** {', '.join(classifiers.offered)}", elem_id="about"
            )
            text = gr.Textbox(
                label="Text",
                placeholder="Enter explains it, Shift+Enter begins a new line.",
                lines=1,
                max_lines=8,
                html_attributes=gr.InputHTMLAttributes(enterkeyhint="go"),
                elem_id="text",
            )
            button = gr.Button("Explain", variant="primary", elem_id="explain")
            chips = gr.Column(visible=embedded)
            methods = gr.CheckboxGroup(
                list(METHODS),
                value=list(plain.methods),
                label="Methods",
                info="globenc: each token's share in what was used. The others: for and against the class.",
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
                pair = gr.Textbox(label="Second text, for models of pairs", visible=any_model or not embedded)
                baseline = gr.Dropdown(list(BASELINES), value=plain.baseline, label="Compared with")
                mixing = gr.Dropdown(list(MIXINGS), value=plain.mixing, label="Mixing of GlobEnc")
                position = gr.Textbox(
                    label="Explained token of GlobEnc: an index, or mean", placeholder="what the head reads"
                )
        with gr.Column(scale=5, min_width=320, elem_id="answer"):
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
                layers = gr.HTML(elem_id="layers")
            query, file = gr.Textbox(visible=False), gr.DownloadButton(visible="hidden", elem_id="file")
            state = gr.State(None, time_to_live=kept_seconds)
    asked = Asked(text, pair, named, mixing, methods, words, special, position, target, against, baseline)
    examples = None
    if embedded:
        with chips:
            examples = gr.Examples(
                [form.fields() for form in EXAMPLES.values()],
                list(asked),
                example_labels=list(EXAMPLES),
                label="Examples",
                api_visibility="private",
            )
    answered = Answered(prediction, tokens, layers, layer, viewing, heading, sharing, query, link, state)
    return asked, answered, Controls(button, cancel, downloads, file, examples)
