"""The web demo: a page that explains a text in the browser, and the server that shows it.

Gradio is imported where the page is built, so that this module needs nothing of it.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from captum_globenc.app import browser
from captum_globenc.app.answers import FILES, Answer, answer, depth, message, shown
from captum_globenc.app.deadline import Turns
from captum_globenc.app.form import LONGEST_LINK, Form
from captum_globenc.app.layout import (
    ABOUT,
    ENTAILMENT,
    EXAMPLES,
    TASKS,
    Answered,
    class_choices,
    describe,
    example_of,
    lay_out,
)
from captum_globenc.app.offered import Classifiers
from captum_globenc.texts.loading import LoadingError
from captum_globenc.texts.tasks import task_name

if TYPE_CHECKING:
    import gradio

__all__ = ["build", "launch_options", "serve"]

KEPT_SECONDS, KEPT_VISITORS = 3600, 200
"""How long what a visitor was shown is kept to be drawn anew, and of how many visitors."""
WAITING = 64
"""How many may wait for their answer; one more is told to come back."""
MOST_BYTES = 1 << 20
"""Bytes that a request may have: more than the longest text and its pair."""
TOO_LARGE = f"a request may have {MOST_BYTES:,} bytes".encode()
EXAMPLE_TEXTS = {it.text for it in (ENTAILMENT, *EXAMPLES.values(), *(of.example for of in TASKS.values()))}
"""Texts that nobody typed, which the example of another model replaces."""
KEPT_RESULTS = 32
"""Results, of all visitors together, that wait to be fetched; the oldest are dropped."""
SECONDS = 120.0
"""How long an answer may take until it is given up, so that the others are not kept waiting."""


def build(
    models: Sequence[str] = (), *, any_model: bool = False, seconds: float = SECONDS
) -> "gradio.Blocks":
    """Build the page.

    Args:
        models: Folders or hub names of the models that the page offers, the first to start with; by default
            the embedded classifier.
        any_model: Whether visitors may load any other model, for a page that only its owner reaches.
        seconds: Seconds after which an explanation is stopped.

    Returns:
        The page, to be launched with `launch_options`.

    Raises:
        ImportError: Gradio is not installed.
        LoadingError: The first model cannot be loaded, or is for a task that is not explained.
    """
    import gradio as gr

    classifiers = Classifiers(tuple(models), any_model)
    # A wrong name raises an error here, not in the browser.
    opening = answer(example_of(classifiers("")), classifiers)
    turns = Turns(seconds)
    with gr.Blocks(
        title="GlobEnc: explanations of Hugging Face models",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    ) as page:
        asked, answered, controls = lay_out(
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
            filled = _filled(found, answered) | described(form.model.strip())
            loaded = classifiers.loaded(form.model.strip())
            if found.explanation is not None and loaded is not None:
                more = TASKS[task_name(loaded.model)].targets
                targets, others = class_choices([*more, *found.explanation.probabilities])
                filled |= {
                    asked.target: gr.Dropdown(choices=targets),
                    asked.against: gr.Dropdown(choices=others),
                }
            return filled

        def described(name: str) -> dict[Any, Any]:
            """Return the description and the labels of a model that is in memory."""
            found = classifiers.loaded(name)
            if found is None:
                return {answered.about: gr.skip()}
            own = not models and not name
            texts = TASKS[task_name(found.model)]
            return {
                answered.about: ABOUT if own else describe(found, name or classifiers.first),
                asked.text: gr.Textbox(label=texts.text),
                asked.pair: gr.Textbox(label=texts.pair, visible=bool(texts.pair) and (any_model or not own)),
            }

        def choose(name: str | None, text: str) -> dict[Any, Any]:
            name = (name or "").strip()
            if name not in classifiers:  # a name that is typed is loaded when Explain is pressed
                return {answered.about: gr.skip()}
            try:
                example = example_of(classifiers(name))
            except LoadingError as error:
                return {answered.about: message(str(error))}
            updates = described(name)
            if not text.strip() or text in EXAMPLE_TEXTS:
                label = TASKS[task_name(classifiers(name).model)]
                updates[asked.text] = gr.Textbox(example.text, label=label.text)
                updates[asked.pair] = gr.Textbox(example.pair, label=label.pair, visible=bool(label.pair))
            return updates

        def redraw(kept: Answer | None, after: int, number: int, merged: bool, special: bool) -> Any:
            # What was explained stays, whatever the other fields say by now.
            found = _held(kept)
            form = found.form._replace(words=merged, special=special, result=number or 0)
            explanation = found.explanations[form.result]
            form = form._replace(layer=after % max(depth(explanation), 1))
            tokens, layers = shown(explanation, form)
            return {
                answered.prediction: found._replace(form=form).prediction,
                answered.tokens: tokens,
                answered.layers: layers,
                answered.query: form.link(),
            }

        def restore(before: Any, request: gr.Request) -> Form:
            refreshed = isinstance(before, dict) and "text" in before
            form = Form.of(before if refreshed else dict(request.query_params))
            return opening.form if form == Form() else form

        def fill(form: Form) -> Any:
            # The example is there already, and something may have been typed over it by now.
            if form == opening.form:
                return gr.skip()
            return form._replace(model=form.model or classifiers.first).fields()

        def run_restored(form: Form, text: str, request: gr.Request) -> dict[Any, Any]:
            if form == opening.form:
                return _filled(opening, answered) if text == form.text else {answered.prediction: gr.skip()}
            if not form.text:
                return {answered.prediction: gr.skip()}
            if form.model not in classifiers:  # a link alone loads nothing from anywhere
                refusal = classifiers.refusal(form.model)
                waiting = Answer((refusal or f"Press Explain to load the model {form.model}.",))
                return _filled(waiting, answered)
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
        # One run of a model at a time: Captum's methods over layers hook into it, whoever asks.
        alone: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "private",
            "show_progress_on": answered.prediction,
        }
        results = [*answered, asked.target, asked.against, asked.text, asked.pair]
        everything = [answered.query, *asked, answered.layer, answered.result]

        def remember(event: Any) -> None:
            event.then(None, everything, answered.link, js=browser.REMEMBER)

        # Listeners of one event run one after the other, in the order in which they are added.
        pressed = [controls.explain.click, asked.text.submit, asked.pair.submit, asked.position.submit]
        gr.on(pressed, None, None, cancel, js=browser.BEGIN)
        runs = [gr.on(pressed, run, list(asked), results, trigger_mode="always_last", **alone)]
        if controls.examples is not None:
            chosen = controls.examples.load_input_event.then(None, None, cancel, js=browser.BEGIN)
            runs.append(chosen.then(run, list(asked), results, trigger_mode="always_last", **alone))
        page.load(restore, before, wanted, js=browser.READ, **private)
        wanted.change(fill, wanted, list(asked), **private)
        wanted.change(None, None, cancel, js=browser.BEGIN_RESTORED)
        runs.append(wanted.change(run_restored, [wanted, asked.text], results, **alone))
        for event in runs:
            event.then(None, None, cancel, js=browser.END)
            remember(event)
        cancel.click(stop, None, None, cancels=runs, queue=False, **private)
        page.unload(stop)

        options = [answered.kept, answered.layer, answered.result, asked.words, asked.special]
        drawn = [answered.prediction, answered.tokens, answered.layers, answered.query]
        turned = [answered.layer.input, answered.layer.release, answered.result.input]
        turned += [asked.words.input, asked.special.input]
        remember(gr.on(turned, redraw, options, drawn, trigger_mode="always_last", **private))
        asked.model.input(
            choose, [asked.model, asked.text], [answered.about, asked.text, asked.pair], **alone
        )
        # Not as each letter is typed: reading the fields then would undo what is typed meanwhile.
        typed = [asked.text, asked.pair, asked.position]
        left = [field.blur if field in typed else field.input for field in asked]
        gr.on([*pressed, *left], None, everything[1:], None, js=browser.KEEP)
        for end, download in controls.downloads.items():
            written = download.click(partial(write, end), answered.kept, controls.file, **private)
            written.success(None, None, None, js=browser.DOWNLOAD)
    page.queue(max_size=WAITING)
    return page


def _held(kept: Answer | None) -> Answer:
    """Return the answer that a visitor was shown; raise an error that the page shows if it is gone."""
    import gradio as gr

    if kept is None:
        raise gr.Error("This answer is no longer kept: press Explain.", print_exception=False)
    return kept


def _filled(found: Answer, answered: Answered) -> dict[Any, Any]:
    """Return the updates that show an answer."""
    import gradio as gr

    explanation, form = found.explanation, found.form
    count = len(found.explanations)
    chosen = gr.Dropdown(
        choices=[(it.headline, index) for index, it in enumerate(found.explanations)],
        value=form.result if count else None,
        visible=count > 1,
    )
    if explanation is None:
        return {
            **dict.fromkeys((answered.tokens, answered.layers, answered.query), ""),
            **dict.fromkeys((answered.viewing, answered.heading, answered.sharing), gr.update(visible=False)),
            answered.layer: gr.Slider(value=0, minimum=0),
            answered.result: chosen,
            answered.prediction: found.prediction,
            answered.kept: None,
        }
    tokens, layers = shown(explanation, form)
    deepest = depth(explanation)
    return {
        answered.result: chosen,
        answered.prediction: found.prediction,
        answered.tokens: tokens,
        answered.layer: gr.Slider(
            minimum=int(deepest > 1),  # Gradio rejects a slider from 1 to 1
            maximum=max(deepest, 1),
            value=form.layer or deepest,
            visible=deepest > 1,
        ),
        answered.heading: gr.Accordion(visible=bool(layers)),
        answered.layers: layers,
        answered.query: form.link(),
        answered.link: gr.Textbox(
            placeholder=f"This is too long for a link, which holds {LONGEST_LINK:,} characters: it stays "
            "in this tab, and whole in the downloads."
        ),
        **dict.fromkeys((answered.viewing, answered.sharing), gr.update(visible=True)),
        answered.kept: found,
    }


def launch_options() -> dict[str, Any]:
    """Return what `gradio.Blocks.launch` needs to show the page and nothing of anybody else's."""
    import gradio as gr
    from starlette.middleware import Middleware

    return {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": browser.STYLE,
        "footer_links": [],
        "share": False,
        "ssr_mode": False,
        "state_session_capacity": KEPT_VISITORS,
        "app_kwargs": {"middleware": [Middleware(_Guard)]},
    }


class _TooLargeError(Exception):
    """A request whose body has more than `MOST_BYTES`."""


class _Guard:
    """Bounds what a request may hold, and adds the content security policy to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        read, started = 0, False

        async def guarded(message: Any) -> None:
            nonlocal started
            if read > MOST_BYTES and not started:
                return  # the application's response to a body that was cut off
            if message["type"] == "http.response.start":
                started = True
                policy = (b"content-security-policy", browser.POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        async def bounded() -> Any:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > MOST_BYTES:
                raise _TooLargeError
            return message

        if scope["type"] != "http":
            await self.app(scope, receive, guarded)
        elif scope["path"].rstrip("/").endswith("/upload"):  # the page has none
            await _answer(404, b"there is nothing to upload here", guarded)
        elif _declared(scope) > MOST_BYTES:
            await _answer(413, TOO_LARGE, guarded)
        else:
            if scope["method"] == "POST":
                _drop_unfetched(scope["app"].get_blocks()._queue)
            with suppress(_TooLargeError):
                await self.app(scope, bounded, guarded)
            if read > MOST_BYTES and not started:
                read = 0
                await _answer(413, TOO_LARGE, guarded)


def _declared(scope: Any) -> int:
    """Return how many bytes a request says that its body has; 0 where it does not."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


async def _answer(status: int, reason: bytes, send: Any) -> None:
    """Send a response of plain text."""
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})


def _drop_unfetched(queue: Any) -> None:
    """Drop the messages of visitors who never fetched their results, the oldest first.

    Gradio keeps what it has for a visitor until the visitor asks for it, which a script need not do.

    Args:
        queue: Gradio's queue of a page.
    """
    kept = 0
    for messages in reversed(list(queue.pending_messages_per_session.values())):
        kept += sum(it.msg == "process_completed" for it in messages._queue)
        if kept > KEPT_RESULTS:
            while not messages.empty():
                messages.get_nowait()


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
