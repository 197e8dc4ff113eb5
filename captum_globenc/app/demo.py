"""The web demo: a page that explains a text in the browser, and the server that shows it.

Gradio is imported where the page is built, so that this module needs nothing of it.
"""

import os
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from captum_globenc.app.answers import LONGEST_TEXT, Answer, Form, answer, linked, message, shown
from captum_globenc.app.deadline import Deadline
from captum_globenc.app.offered import Classifiers
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.drawing.style import DARK, LIGHT, RULES
from captum_globenc.results.explanation import Explanation
from captum_globenc.texts.methods import BASELINES, METHODS

if TYPE_CHECKING:
    import gradio

__all__ = ["build", "launch_options", "serve"]

KEPT_SECONDS, KEPT_VISITORS = 3600, 200
"""How long what a visitor was shown is kept to be drawn anew, and of how many visitors."""
WAITING = 64
"""How many may wait for their answer; one more is told to come back."""
SECONDS = 120.0
"""How long an answer may take until it is given up, so that the others are not kept waiting."""
EXAMPLES = (
    ("The plot is thin, but the acting is simply wonderful.", ""),
    ("I expected a masterpiece and got two hours of boredom.", ""),
    ("Not a bad film at all.", "Would you watch it again?"),
)

# Gradio marks its dark theme with a class, not with a media query.
STYLE = f"""
.globenc {{ {LIGHT} color: var(--text); }} .dark .globenc {{ {DARK} }}
.globenc h3 {{ font-size: .85rem; font-weight: 600; color: var(--quiet); margin: .8rem 0 .2rem; }}
.globenc .prediction {{ font-size: 1.2rem; font-weight: 600; overflow-wrap: anywhere; margin: 0; }}
.globenc .message {{ border-left: .25rem solid rgb(var(--for)); padding: .2rem .6rem; margin: .4rem 0;
  overflow-wrap: anywhere; }}
.globenc .scroll {{ max-height: 30rem; overflow: auto; }}
.globenc :is(table, tr, th, td) {{ border: 0 !important; color: inherit; }}
.globenc summary {{ cursor: pointer; color: var(--quiet); font-size: .85rem; margin-top: .8rem; }}
.globenc a {{ text-decoration: underline; color: inherit; }}
{RULES}"""

# The browser itself refuses whatever would leave this server.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)


def _form(values: Sequence[Any]) -> Form:
    """Return the form of the page's fields: an empty one of text may be None."""
    return Form._make("" if value is None else value for value in values)


def build(
    models: Sequence[str] = (), *, any_model: bool = False, seconds: float = SECONDS
) -> "gradio.Blocks":
    """Build the page.

    Args:
        models: Folders or hub names of the classifiers that it shows, the first to start with; left out,
            the embedded one.
        any_model: Whether it loads any other that is typed as well: for a page that only its owner reaches.
        seconds: How long an answer may take until it is given up.

    Returns:
        The page, to be launched with `launch_options`.

    Raises:
        ImportError: Gradio is not installed.
        LoadingError: The classifier cannot be loaded.
    """
    import gradio as gr

    classifiers = Classifiers(tuple(models), any_model)
    classifiers("")  # A wrong name is told of now, not in the browser.
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    with gr.Blocks(title="GlobEnc: what an encoder attends to", analytics_enabled=False) as page:
        gr.Markdown(
            "# GlobEnc\nWhich tokens did the model really use, and what speaks for and against its answer? "
            "Type a text, and see what each token has to do with the prediction."
        )
        text = gr.Textbox(label="Text", lines=2, max_length=LONGEST_TEXT, elem_id="text")
        with gr.Accordion("Options", open=False):
            pair = gr.Textbox(label="Second text, for models of pairs", max_length=LONGEST_TEXT)
            choice = (
                "a folder or a name on the hub" if any_model else f"one of {', '.join(classifiers.offered)}"
            )
            named = gr.Textbox(
                label=f"Model: {choice}",
                placeholder=next(iter(classifiers.offered), "embedded"),
                visible=any_model or len(models) > 1,
            )
            mixing = gr.Dropdown(list(MIXINGS), value=Form().mixing, label="Mixing of GlobEnc")
            methods = gr.CheckboxGroup(list(METHODS), value=list(Form().methods), label="Methods")
            words = gr.Checkbox(False, label="Merge pieces into words")
            special = gr.Checkbox(True, label="Show special tokens")
            position = gr.Textbox(
                label="Explained token of GlobEnc: an index, or mean", placeholder="what the head reads"
            )
            target = gr.Textbox(label="Explained class", placeholder="the predicted one")
            against = gr.Textbox(label="Rather than the class", placeholder="none")
            baseline = gr.Dropdown(list(BASELINES), value=Form().baseline, label="Compared with")
        button = gr.Button("Explain", variant="primary")
        examples = gr.Examples([list(example) for example in EXAMPLES], [text, pair])
        prediction, tokens = gr.HTML(elem_id="prediction"), gr.HTML(elem_id="tokens")
        layer = gr.Slider(1, 2, 1, step=1, label="GlobEnc after layer", visible=False, elem_id="layer")
        with gr.Accordion("Layers", open=True, visible=False) as heading:
            layers = gr.HTML(elem_id="layers")
        link, state = gr.HTML(elem_id="link"), gr.State(None, time_to_live=KEPT_SECONDS)

        fields = [text, pair, named, mixing, methods, words, special, position, target, against, baseline]
        results = [prediction, tokens, layers, link, state, layer, heading]

        def run(*values: Any) -> list[Any]:
            try:
                with Deadline(seconds):
                    found = answer(_form(values), classifiers)
            except TimeoutError as error:
                found = Answer(message(f"{error}: shorten the text, or choose fewer methods."))
            if found.explanation is None or found.form is None:
                return [*found[:4], None, gr.Slider(visible=False), gr.Accordion(visible=False)]
            count = len(found.explanation.layers.get("globenc", ()))
            slider = gr.Slider(maximum=max(count, 2), value=max(count, 1), visible=count > 1)
            drawn = gr.Accordion(visible=bool(found.layers))
            return [*found[:4], (found.explanation, found.form), slider, drawn]

        def redraw(
            explained: tuple[Explanation, Form] | None, after: int, merged: bool, shows_special: bool
        ) -> list[Any]:
            if explained is None:
                return [gr.skip() for _ in range(3)]
            # What was explained stays, whatever the other fields say by now.
            form = explained[1]._replace(words=merged, special=shows_special)
            return [*shown(explained[0], form, int(after)), linked(form)]

        def restore(request: gr.Request) -> list[Any]:
            form = Form.of(dict(request.query_params))
            if form == Form():  # what somebody has typed by the time this answers must stay
                return [gr.skip() for _ in fields]
            return list(form._replace(methods=list(form.methods)))

        def run_restored(request: gr.Request, *values: Any) -> list[Any]:
            if not request.query_params.get("text"):
                return [gr.skip() for _ in results]
            form = _form(values)
            if form.model not in classifiers:  # a link alone loads nothing from anywhere
                refusal = classifiers.refusal(form.model)
                waiting = Answer(message(refusal or f"Press Explain to load the model {form.model}."))
                return [*waiting[:4], None, gr.Slider(visible=False), gr.Accordion(visible=False)]
            return run(*values)

        # One run of a model at a time: Captum's methods over layers hook into it, whoever asks.
        alone: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, **private}
        for event in (button.click, text.submit, examples.load_input_event.then):
            event(run, fields, results, trigger_mode="always_last", **alone)
        for event in (layer.input, layer.release, words.input, special.input):
            options = [state, layer, words, special]
            event(redraw, options, [tokens, layers, link], trigger_mode="always_last", **private)
        page.load(restore, None, fields, **private).then(run_restored, fields, results, **alone)
    page.queue(max_size=WAITING)
    return page


def launch_options() -> dict[str, Any]:
    """Return what `gradio.Blocks.launch` needs to show the page and nothing of anybody else's."""
    import gradio as gr
    from starlette.middleware import Middleware

    return {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": STYLE,
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "state_session_capacity": KEPT_VISITORS,
        "app_kwargs": {"middleware": [Middleware(_Guard)]},
    }


class _Guard:
    """Adds the content security policy to every answer of the server."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, receive, guarded)


def _is_of_this_machine(host: str) -> bool:
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
    """Serve the page until it is interrupted. Nothing is reported to anybody.

    Args:
        host: The address to listen on; the default is reached from this machine alone.
        port: The port to listen on.
        models: As for `build`.
        any_model: As for `build`; left out, on an address of this machine alone. Behind a proxy that
            others reach, such an address is no proof of who asks: say False.
        seconds: As for `build`.
        started: Called with the page's address once it is there.

    Raises:
        ImportError: Gradio is not installed.
        LoadingError: The classifier cannot be loaded.
        OSError: The address cannot be listened on.
    """
    # For this process, and before Gradio reads them: no usage statistics, no question for updates.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if any_model is None:
        any_model = _is_of_this_machine(host)
    page = build(models, any_model=any_model, seconds=seconds)
    _, url, _ = page.launch(
        server_name=host, server_port=port, quiet=True, prevent_thread_lock=True, **launch_options()
    )
    started(url)
    page.block_thread()
