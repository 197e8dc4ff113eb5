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
from captum_globenc.app.layout import Answered, class_choices, lay_out
from captum_globenc.app.offered import Classifiers
from captum_globenc.results.explanation import Explanation

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
KEPT_RESULTS = 32
"""Results, of all visitors together, that wait to be fetched; the oldest are dropped."""
SECONDS = 120.0
"""How long an answer may take until it is given up, so that the others are not kept waiting."""

Kept = tuple[Explanation, Form]
"""What a visitor was shown, and what for."""


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
    turns = Turns(seconds)
    with gr.Blocks(
        title="GlobEnc: what an encoder attends to",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS, KEPT_SECONDS),
    ) as page:
        asked, answered, controls = lay_out(
            classifiers, embedded=not models, any_model=any_model, kept_seconds=KEPT_SECONDS
        )
        cancel, before, wanted = controls.cancel, gr.JSON(visible=False), gr.State(None)

        def run(request: gr.Request, *values: Any) -> dict[Any, Any]:
            return explained(Form._make("" if value is None else value for value in (*values, 0)), request)

        def explained(form: Form, request: gr.Request) -> dict[Any, Any]:
            try:
                with turns.of(request.session_hash or ""):
                    found = answer(form, classifiers)
            except TimeoutError as error:
                found = Answer(message(f"{error}."))
            filled = _filled(found, answered)
            if found.explanation is not None:
                targets, others = class_choices(list(found.explanation.probabilities))
                filled |= {
                    asked.target: gr.Dropdown(choices=targets),
                    asked.against: gr.Dropdown(choices=others),
                }
            return filled

        def redraw(kept: Kept | None, after: int, merged: bool, shows_special: bool) -> dict[Any, Any]:
            # What was explained stays, whatever the other fields say by now.
            explanation, form = _held(kept)
            form = form._replace(
                words=merged, special=shows_special, layer=after % max(depth(explanation), 1)
            )
            tokens, layers = shown(explanation, form)
            return {answered.tokens: tokens, answered.layers: layers, answered.query: form.link()}

        def restore(before: Any, request: gr.Request) -> Any:
            refreshed = isinstance(before, dict) and "text" in before
            form = Form.of(before if refreshed else dict(request.query_params))
            # What somebody has typed by the time this answers must stay.
            return gr.skip() if form == Form() else form

        def fill(form: Form) -> list[Any]:
            return form._replace(model=form.model or classifiers.first).fields()

        def run_restored(form: Form, request: gr.Request) -> dict[Any, Any]:
            if not form.text:
                return {answered.prediction: gr.skip()}
            if form.model not in classifiers:  # a link alone loads nothing from anywhere
                refusal = classifiers.refusal(form.model)
                waiting = Answer(message(refusal or f"Press Explain to load the model {form.model}."))
                return _filled(waiting, answered)
            return explained(form, request)

        def stop(request: gr.Request) -> None:
            turns.end(request.session_hash or "")

        def write(end: str, kept: Kept | None) -> str:
            explanation, _ = _held(kept)
            with TemporaryDirectory() as folder:
                path = Path(folder) / f"globenc.{end}"
                FILES[end](explanation, path)
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
        results = [*answered, asked.target, asked.against]
        everything = [answered.query, *asked, answered.layer]

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
        wanted.change(None, None, cancel, js=browser.BEGIN)
        runs.append(wanted.change(run_restored, wanted, results, **alone))
        for event in runs:
            event.then(None, None, cancel, js=browser.END)
            remember(event)
        cancel.click(stop, None, None, cancels=runs, queue=False, **private)
        page.unload(stop)

        options = [answered.kept, answered.layer, asked.words, asked.special]
        drawn = [answered.tokens, answered.layers, answered.query]
        turned = [answered.layer.input, answered.layer.release, asked.words.input, asked.special.input]
        remember(gr.on(turned, redraw, options, drawn, trigger_mode="always_last", **private))
        # Not as each letter is typed: reading the fields then would undo what is typed meanwhile.
        typed = [asked.text, asked.pair, asked.position]
        left = [field.blur if field in typed else field.input for field in asked]
        gr.on([*pressed, *left], None, everything[1:], None, js=browser.KEEP)
        for end, download in controls.downloads.items():
            written = download.click(partial(write, end), answered.kept, controls.file, **private)
            written.success(None, None, None, js=browser.DOWNLOAD)
    page.queue(max_size=WAITING)
    return page


def _held(kept: Kept | None) -> Kept:
    """Return what a visitor was shown; tell them where it is kept no longer."""
    import gradio as gr

    if kept is None:
        raise gr.Error("This answer is no longer kept: press Explain.", print_exception=False)
    return kept


def _filled(found: Answer, answered: Answered) -> dict[Any, Any]:
    """Return what fills the page by an answer."""
    import gradio as gr

    explanation, form = found.explanation, found.form
    if explanation is None:
        return {
            **dict.fromkeys((answered.tokens, answered.layers, answered.query), ""),
            **dict.fromkeys((answered.viewing, answered.heading, answered.sharing), gr.update(visible=False)),
            answered.layer: gr.Slider(value=0, minimum=0),
            answered.prediction: found.prediction,
            answered.kept: None,
        }
    tokens, layers = shown(explanation, form)
    count = depth(explanation)
    return {
        answered.prediction: found.prediction,
        answered.tokens: tokens,
        answered.layer: gr.Slider(
            minimum=min(count, 1), maximum=max(count, 1), value=form.layer or count, visible=count > 1
        ),
        answered.heading: gr.Accordion(visible=bool(layers)),
        answered.layers: layers,
        answered.query: form.link(),
        answered.link: gr.Textbox(
            placeholder=f"This is too long for a link, which holds {LONGEST_LINK:,} characters: it stays "
            "in this tab, and whole in the downloads."
        ),
        **dict.fromkeys((answered.viewing, answered.sharing), gr.update(visible=True)),
        answered.kept: (explanation, form),
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
