"""The page of the web demo: components, style, scripts, event handlers, and the server.

Gradio is imported inside functions, so that this module can be imported without it.
"""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.demo.explaining import FILES, Answer, answer, depth, message, shown
from captum_globenc.demo.form import LONGEST_LINK, Form
from captum_globenc.demo.limits import Guard, Turns
from captum_globenc.demo.models import (
    ABOUT,
    ENTAILMENT,
    EXAMPLES,
    TEXTS,
    Classifiers,
    TaskTexts,
    describe,
    example_of,
)
from captum_globenc.drawing.style import DARK, LIGHT, RULES
from captum_globenc.texts.loading import LoadingError
from captum_globenc.texts.methods import MAIN_METHODS
from captum_globenc.texts.request import BASELINES
from captum_globenc.texts.tasks import task_name

if TYPE_CHECKING:
    import gradio

__all__ = ["STYLE", "build", "launch_options", "serve"]

KEPT_SECONDS, KEPT_VISITORS = 3600, 200
"""Seconds for which an answer is kept for redrawing, and the maximum number of visitors."""
WAITING = 64
"""Maximum number of waiting requests; further ones are rejected."""
EXAMPLE_TEXTS = {it.text for it in (ENTAILMENT, *EXAMPLES.values(), *(of.example for of in TEXTS.values()))}
"""Example texts, which are replaced when another model is chosen; typed texts are kept."""
SECONDS = 120.0
"""Seconds after which an explanation is stopped, so that other visitors do not wait."""
PREDICTED, NONE = ("predicted", ""), ("none", "")
"""The choices for no target and for no contrast class."""

# Gradio sets its dark theme with a class, not with a media query.
STYLE = f"""
#about {{ font-size: .85rem; opacity: .85; }}
.globenc {{ {LIGHT} color: var(--text); }} .dark .globenc {{ {DARK} }}
.globenc h3 {{ font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }}
.globenc .prediction {{ font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; margin: 0; }}
.globenc .message {{ border-left: .25rem solid rgb(var(--for)); padding: .2rem .6rem; margin: .4rem 0;
  overflow-wrap: anywhere; }}
.globenc .scroll {{ max-height: 30rem; overflow: auto; }}
.globenc :is(table, tr, th, td) {{ border: 0 !important; color: inherit; }}
.globenc summary {{ cursor: pointer; color: var(--quiet); font-size: .85rem; margin-top: .8rem; }}
{RULES}
.globenc .legend {{ margin-top: .6rem; }}
.globenc .bars {{ list-style: none; margin: .4rem 0 0; padding: 0; }} .globenc .bars li {{ margin: 0; }}
.globenc.maps {{ display: flex; flex-wrap: wrap; gap: 0 1.5rem; }}
.globenc.maps section {{ min-width: 0; }}
.globenc .heat tr > :first-child {{ min-width: 4rem; max-width: 9rem; position: sticky; left: 0;
  background: var(--block-background-fill); }}
.globenc .heat {{ font-size: .8rem; }}
.globenc .heat td {{ padding: .1rem .25rem; }}
.globenc .heat:has(tr:first-child > :nth-child(10)) td {{ font-size: .7rem; padding: .1rem .2rem; }}
@media (max-width: 40rem) {{
  #answer {{ min-height: 100vh; }}
  #prediction [data-testid="status-tracker"] {{ align-items: flex-start; padding: 0; }}
  .globenc.maps {{ margin: 0 -.6rem; }}
  .globenc .heat {{ font-size: .65rem; }}
  .globenc .heat td, .globenc .heat th {{ padding: .1rem; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) {{ font-size: .58rem; letter-spacing: -.03em; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) :is(td, th) {{ padding: .1rem .06rem; }}
  .globenc .heat:has(tr:first-child > :nth-child(8)) tr > :first-child {{ min-width: 3rem; }}
}}"""
"""The CSS of the page."""

# The fields are stored in the history entry of the tab, which a reload keeps and other tabs do not see.
_FORM = f"""const form = values => Object.fromEntries(
  {json.dumps(Form._fields)}.map((name, index) => [name, String(values[index] ?? "")]));"""
KEEP = f"""(...values) => {{ {_FORM} history.replaceState(form(values), ""); }}"""
"""Store the fields, in the order of `Form`, for a reload."""
READ = "() => history.state"
"""Read the stored fields."""
REMEMBER = f"""(query, ...values) => {{ {_FORM}
  const here = new URL(query || location.pathname, location.href), link = query && here.href;
  for (const [name, value] of new URLSearchParams(location.search)) {{
    if (name.startsWith("__")) here.searchParams.append(name, value);  // Gradio's own, such as its theme
  }}
  history.replaceState(form(values), "", here);
  return link;
}}"""
"""Store the fields, put the query into the page's address, and return the full link."""

BEGIN = """() => {
  const answer = document.querySelector("#answer");
  answer.setAttribute("aria-busy", "true");
  if (answer.getBoundingClientRect().top > innerHeight / 2) {
    document.activeElement?.blur();  // which puts a phone's keyboard away
    answer.scrollIntoView();
  }
  return {__type__: "update", visible: true};
}"""
"""Show the Cancel button, and scroll to the answer if it is below the first screen."""
BEGIN_RESTORED = f"""() => new URLSearchParams(location.search).has("text") || history.state?.text
  ? ({BEGIN})() : {{__type__: "update", visible: false}}"""
"""Do the same for a link or a reload, but do not scroll to the example of a new page."""
END = """() => {
  document.querySelector("#answer").setAttribute("aria-busy", "false");
  return {__type__: "update", visible: false};
}"""
"""Hide the Cancel button."""
DOWNLOAD = """() => document.querySelector("#file").click()"""
"""Download the written file."""

DOWNLOADS = {"jsonl": "Download JSON", "html": "Download page", "csv": "Download CSV"}
"""The labels of the download buttons, by file ending."""


class Fields(NamedTuple):
    """The input components, one per field of `Form` except `layer` and `result`, in the same order."""

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


class Outputs(NamedTuple):
    """The output components."""

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
    """The buttons (for downloads, by file ending), and the examples."""

    explain: Any
    cancel: Any
    downloads: dict[str, Any]
    file: Any
    examples: "gradio.Examples | None"


def class_fields(fields: Fields, texts: TaskTexts, classes: list[str] | None = None) -> dict[Any, Any]:
    """Return the updates of the fields for the explained class and the contrast class.

    Fields without a label in `texts` are hidden and emptied. Without `classes`, the choices stay.
    """
    import gradio as gr

    choices = (None, None) if classes is None else class_choices(classes)
    return {
        field: gr.Dropdown(
            label=label,
            visible=bool(label),
            **({} if label else {"value": ""}),
            **({} if known is None else {"choices": known}),
        )
        for field, label, known in zip(
            (fields.target, fields.against), (texts.target, texts.against), choices, strict=True
        )
    }


def class_choices(classes: list[str]) -> tuple[list[Any], list[Any]]:
    """Return the choices for the explained class and for the contrast class."""
    return [PREDICTED, *classes], [NONE, *classes]


def create_components(
    classifiers: Classifiers, *, embedded: bool, any_model: bool, kept_seconds: int
) -> tuple[Fields, Outputs, Controls]:
    """Create the components of the page within a Gradio block: the form on the left, the answer on the right.

    Args:
        classifiers: The models.
        embedded: Whether the first model is the embedded classifier.
        any_model: Whether visitors may load any other model.
        kept_seconds: Seconds for which an answer is kept for redrawing.

    Returns:
        The input components, the output components, and the buttons.
    """
    import gradio as gr

    plain, targets = Form(), class_choices(classifiers.classes(""))
    first = classifiers("")
    texts, example = TEXTS[task_name(first.model)], example_of(first)
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
                target, against = (
                    gr.Dropdown(
                        choices,
                        value="",
                        label=label,
                        visible=bool(label),
                        allow_custom_value=True,
                        min_width=140,
                    )
                    for choices, label in zip(targets, (texts.target, texts.against), strict=True)
                )
            with gr.Accordion("More options", open=False):
                named = gr.Dropdown(
                    [("the embedded one", "")] if embedded else list(classifiers.offered),
                    label="Model: a folder or a name on the hub" if any_model else "Model",
                    allow_custom_value=True,  # a link may have any value; it is checked on submit
                    visible=any_model or len(classifiers.offered) > 1,
                )
                baseline = gr.Dropdown(list(BASELINES), value=plain.baseline, label="Baseline")
                mixing = gr.Dropdown(list(MIXINGS), value=plain.mixing, label="Mixing of GlobEnc")
                position = gr.Textbox(
                    label="Explained token of GlobEnc: an index, or mean", placeholder="the pooled token"
                )
                windows = gr.Checkbox(
                    plain.windows, label="Windows", info="Explain long texts whole, in overlapping windows."
                )
        with gr.Column(scale=5, min_width=320, elem_id="answer"):
            result = gr.Dropdown([], label="Explained", visible=False, elem_id="result")
            with gr.Row():
                prediction = gr.HTML(
                    '<div class="globenc"><p class="note">The explanation appears here.</p></div>',
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
    fields = Fields(
        text, pair, named, mixing, methods, words, special, position, target, against, baseline, windows
    )
    examples = None
    if embedded:
        with chips:
            examples = gr.Examples(
                [form.fields() for form in EXAMPLES.values()],
                list(fields),
                example_labels=[form.text for form in EXAMPLES.values()],
                label="Examples",
                api_visibility="private",
            )
    outputs = Outputs(
        about, result, prediction, tokens, layers, layer, viewing, heading, sharing, query, link, state
    )
    return fields, outputs, Controls(button, cancel, downloads, file, examples)


def build(
    models: Sequence[str] = (), *, any_model: bool = False, seconds: float = SECONDS
) -> "gradio.Blocks":
    """Build the page.

    Args:
        models: Folders or hub names of the models that the page offers, the first to start with; by default
            the embedded classifier.
        any_model: Whether visitors may load any other model; unsafe on a public page.
        seconds: Seconds after which an explanation is stopped.

    Returns:
        The page, to be launched with `launch_options`.

    Raises:
        ImportError: Gradio is not installed.
        LoadingError: The first model cannot be loaded, or is for a task that is not explained.
    """
    import gradio as gr

    classifiers = Classifiers(tuple(models), any_model)
    # A wrong name raises an error here, before the page is built.
    opening = answer(example_of(classifiers("")), classifiers)
    turns = Turns(seconds)
    with gr.Blocks(
        title="GlobEnc: explanations of Hugging Face models",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    ) as page:
        fields, outputs, controls = create_components(
            classifiers, embedded=not models, any_model=any_model, kept_seconds=KEPT_SECONDS
        )
        cancel, before, wanted = controls.cancel, gr.JSON(visible=False), gr.State(None)

        def run(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return explained(Form._make((*("" if it is None else it for it in values), 0, 0)), request)

        def explained(form: Form, request: gr.Request) -> dict[Any, Any]:
            try:
                with turns.of(request.session_hash or ""):
                    found = answer(form, classifiers)
            except TimeoutError as error:
                found = Answer((f"{error}.",))
            filled = _filled(found, outputs) | described(form.model.strip())
            loaded = classifiers.loaded(form.model.strip())
            if found.explanation is not None and loaded is not None:
                texts = TEXTS[task_name(loaded.model)]
                filled |= class_fields(fields, texts, [*texts.targets, *found.explanation.probabilities])
            return filled

        def described(name: str) -> dict[Any, Any]:
            """Return the updates for the description and labels of a model in memory."""
            found = classifiers.loaded(name)
            if found is None:
                return {outputs.about: gr.skip()}
            own = not models and not name
            texts = TEXTS[task_name(found.model)]
            return {
                outputs.about: ABOUT if own else describe(found, name or classifiers.first),
                fields.text: gr.Textbox(label=texts.text),
                fields.pair: gr.Textbox(
                    label=texts.pair, visible=bool(texts.pair) and (any_model or not own)
                ),
                **class_fields(fields, texts),
            }

        def choose(name: str | None, text: str) -> dict[Any, Any]:
            name = (name or "").strip()
            if name not in classifiers:  # a typed name is loaded when Explain is pressed
                return {outputs.about: gr.skip()}
            try:
                example = example_of(classifiers(name))
            except LoadingError as error:
                return {outputs.about: message(str(error))}
            updates = described(name)
            if not text.strip() or text in EXAMPLE_TEXTS:
                label = TEXTS[task_name(classifiers(name).model)]
                updates[fields.text] = gr.Textbox(example.text, label=label.text)
                updates[fields.pair] = gr.Textbox(example.pair, label=label.pair, visible=bool(label.pair))
            return updates

        def redraw(kept: Answer | None, after: int, number: int, merged: bool, special: bool) -> Any:
            # Use the form of the answer, because the fields may have changed since.
            found = _held(kept)
            form = found.form._replace(words=merged, special=special, result=number or 0)
            found = found._replace(form=form)
            found = found._replace(form=form._replace(layer=after % max(depth(found.explanation), 1)))
            tokens, layers = shown(found)
            return {
                outputs.prediction: found.prediction,
                outputs.tokens: tokens,
                outputs.layers: layers,
                outputs.query: found.form.link(),
            }

        def restore(before: Any, request: gr.Request) -> Form:
            refreshed = isinstance(before, dict) and "text" in before
            form = Form.of(before if refreshed else dict(request.query_params))
            return opening.form if form == Form() else form

        def fill(form: Form) -> Any:
            # The example is shown already, and the visitor may have changed it.
            if form == opening.form:
                return gr.skip()
            return form._replace(model=form.model or classifiers.first).fields()

        def run_restored(form: Form, text: str, request: gr.Request) -> dict[Any, Any]:
            if form == opening.form:
                return _filled(opening, outputs) if text == form.text else {outputs.prediction: gr.skip()}
            if not form.text:
                return {outputs.prediction: gr.skip()}
            if form.model not in classifiers:  # opening a link must not load a model
                rejection = classifiers.rejection(form.model)
                waiting = Answer((rejection or f"Press Explain to load the model {form.model}.",))
                return _filled(waiting, outputs)
            return explained(form, request)

        def stop(request: gr.Request) -> None:
            turns.end(request.session_hash or "")

        def write(end: str, kept: Answer | None) -> str:
            explanations = _held(kept).explanations
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"globenc.{end}"
                FILES[end](explanations, path)
                copied: str = controls.file.move_resource_to_block_cache(path)
            return copied

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        # One run at a time, because methods of Captum register hooks on the shared model.
        alone: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress_on": outputs.prediction,
        }
        results = [*outputs, fields.target, fields.against, fields.text, fields.pair]
        everything = [outputs.query, *fields, outputs.layer, outputs.result]

        def remember(event: Any) -> None:
            event.then(None, everything, outputs.link, js=REMEMBER)

        # Listeners of an event run in the order in which they are added.
        pressed = [controls.explain.click, fields.text.submit, fields.pair.submit, fields.position.submit]
        gr.on(pressed, None, None, cancel, js=BEGIN)
        runs = [gr.on(pressed, run, list(fields), results, trigger_mode="always_last", **alone)]
        if controls.examples is not None:
            chosen = controls.examples.load_input_event.then(None, None, cancel, js=BEGIN)
            runs.append(chosen.then(run, list(fields), results, trigger_mode="always_last", **alone))
        page.load(restore, before, wanted, js=READ, **private)
        wanted.change(fill, wanted, list(fields), **private)
        wanted.change(None, None, cancel, js=BEGIN_RESTORED)
        runs.append(wanted.change(run_restored, [wanted, fields.text], results, **alone))
        for event in runs:
            event.then(None, None, cancel, js=END)
            remember(event)
        cancel.click(stop, None, None, cancels=runs, queue=False, **private)
        page.unload(stop)

        options = [outputs.kept, outputs.layer, outputs.result, fields.words, fields.special]
        drawn = [outputs.prediction, outputs.tokens, outputs.layers, outputs.query]
        turned = [outputs.layer.input, outputs.layer.release, outputs.result.input]
        turned += [fields.words.input, fields.special.input]
        remember(gr.on(turned, redraw, options, drawn, trigger_mode="always_last", **private))
        fields.model.input(
            choose,
            [fields.model, fields.text],
            [outputs.about, fields.text, fields.pair, fields.target, fields.against],
            **alone,
        )
        # Use blur for typed fields: reading them on every key would undo fast typing.
        typed = [fields.text, fields.pair, fields.position]
        left = [field.blur if field in typed else field.input for field in fields]
        gr.on([*pressed, *left], None, everything[1:], None, js=KEEP)
        for end, download in controls.downloads.items():
            written = download.click(partial(write, end), outputs.kept, controls.file, **private)
            written.success(None, None, None, js=DOWNLOAD)
    page.queue(max_size=WAITING)
    return page


def _held(kept: Answer | None) -> Answer:
    """Return the kept answer of a visitor, or raise an error on the page if it has expired."""
    import gradio as gr

    if kept is None:
        raise gr.Error("This explanation has expired: press Explain.", print_exception=False)
    return kept


def _filled(found: Answer, outputs: Outputs) -> dict[Any, Any]:
    """Return the updates that show an answer."""
    import gradio as gr

    explanation, form = found.explanation, found.form
    choices = found.choices
    count = len(choices)
    chosen = gr.Dropdown(
        choices=[(it, index) for index, it in enumerate(choices)],
        value=form.result if count else None,
        visible=count > 1,
    )
    if explanation is None:
        return {
            **dict.fromkeys((outputs.tokens, outputs.layers, outputs.query), ""),
            **dict.fromkeys((outputs.viewing, outputs.heading, outputs.sharing), gr.update(visible=False)),
            outputs.layer: gr.Slider(value=0, minimum=0),
            outputs.result: chosen,
            outputs.prediction: found.prediction,
            outputs.kept: None,
        }
    tokens, layers = shown(found)
    deepest = depth(explanation)
    return {
        outputs.result: chosen,
        outputs.prediction: found.prediction,
        outputs.tokens: tokens,
        outputs.layer: gr.Slider(
            minimum=int(deepest > 1),  # Gradio rejects a slider from 1 to 1
            maximum=max(deepest, 1),
            value=form.layer or deepest,
            visible=deepest > 1,
        ),
        outputs.heading: gr.Accordion(visible=bool(layers)),
        outputs.layers: layers,
        outputs.query: form.link(),
        outputs.link: gr.Textbox(
            placeholder=f"This is too long for a link, whose limit is {LONGEST_LINK:,} characters. Reloading "
            "this tab keeps it, and the downloads are complete."
        ),
        **dict.fromkeys((outputs.viewing, outputs.sharing), gr.update(visible=True)),
        outputs.kept: found,
    }


def launch_options() -> dict[str, Any]:
    """Return the arguments of `gradio.Blocks.launch`, which load nothing from other servers."""
    import gradio as gr
    from starlette.middleware import Middleware

    return {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": STYLE,
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "state_session_capacity": KEPT_VISITORS,
        "app_kwargs": {"middleware": [Middleware(Guard)]},
    }


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    models: Sequence[str] = (),
    *,
    any_model: bool | None = None,
    seconds: float = SECONDS,
    started: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve the page until it is interrupted, without usage statistics.

    Args:
        host: The address to listen on; the default can be reached from this machine only.
        port: The port to listen on.
        models: Folders or hub names of the models that the page offers, the first to start with; by default
            the embedded classifier.
        any_model: Whether visitors may load any other model; by default only if `host` is a local address.
            Pass False behind a proxy that others can reach.
        seconds: Seconds after which an explanation is stopped.
        started: Function that is called with the page's address when the server has started.

    Raises:
        ImportError: Gradio is not installed.
        LoadingError: The first model cannot be loaded, or has an unsupported task.
        OSError: The server cannot listen on the address.
    """
    # Turn off usage statistics and update checks, before Gradio reads these variables.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if any_model is None:
        any_model = _is_local(host)
    page = build(models, any_model=any_model, seconds=seconds)
    _, url, _ = page.launch(
        server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **launch_options()
    )
    started(url)
    page.block_thread()
