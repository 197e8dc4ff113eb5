"""The limits of the web demo: how long work takes, what requests hold, what is kept, what a page loads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["KEPT_RESULTS", "MOST_BYTES", "STOPS", "Deadline", "Guard", "Turns", "drop_unfetched"]

MOST_BYTES = 1 << 20
"""Bytes that a request may have: more than the longest text and its pair."""
TOO_LARGE = f"a request may have {MOST_BYTES:,} bytes".encode()
KEPT_RESULTS = 32
"""Results, of all visitors together, that wait to be fetched; the oldest are dropped."""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""The content security policy: the browser itself refuses whatever would leave this server."""

STOPS = frozenset(
    (
        "linear",
        "matmul",
        "bmm",
        "addmm",
        "embedding",
        "layer_norm",
        "scaled_dot_product_attention",
        "conv1d",
        "conv2d",
    )
)
"""Names of the functions at which work is ended: every layer calls some, and nothing that tidies up does."""


class Deadline(TorchFunctionMode):
    """Ends whatever runs a model within its block, once that has taken too long.

    A thread cannot be ended from without: so some functions of torch look at the clock before they
    start (`STOPS`). One call, and one backward pass, run to their end.

    Args:
        seconds: How long the block may take.

    Raises:
        TimeoutError: Within the block, when the time is over.

    Example:
        >>> import torch
        >>> with Deadline(60.0):
        ...     torch.ones(2).sum()
        tensor(2.)
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._end = monotonic() + seconds
        self._ended = False

    def end(self) -> None:
        """End the work now; from another thread."""
        self._ended = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in STOPS:
            if self._ended:
                raise TimeoutError("this was cancelled")
            if monotonic() > self._end:
                raise TimeoutError(
                    f"this took longer than {self._seconds:g} seconds, and was given up: shorten the text, "
                    "or choose fewer methods"
                )
        return func(*args, **kwargs or {})


class Turns:
    """Work of several visitors, one after the other, each of which can end their own.

    Args:
        seconds: How long each may take.

    Example:
        >>> turns = Turns(60.0)
        >>> with turns.of("a visitor"):
        ...     turns.end("another")
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._alone = Lock()
        self._running: dict[str, Deadline] = {}

    @contextmanager
    def of(self, visitor: str) -> Iterator[None]:
        """Wait for what runs, and then run the block for a visitor.

        Raises:
            TimeoutError: Within the block, when the time is over, or the visitor has ended it.
        """
        deadline = self._running[visitor] = Deadline(self._seconds)
        try:
            with self._alone, deadline:
                yield
        finally:
            if self._running.get(visitor) is deadline:
                del self._running[visitor]

    def end(self, visitor: str) -> None:
        """End what runs for a visitor, or waits to be run, if something does."""
        deadline = self._running.get(visitor)
        if deadline is not None:
            deadline.end()


class _TooLargeError(Exception):
    """A request whose body has more than `MOST_BYTES`."""


class Guard:
    """Bounds what a request may hold, and adds the content security policy to every response."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request as ASGI has it, or refuse it."""
        read, started = 0, False

        async def guarded(message: Any) -> None:
            nonlocal started
            if read > MOST_BYTES and not started:
                return  # the application's response to a body that was cut off
            if message["type"] == "http.response.start":
                started = True
                policy = (b"content-security-policy", POLICY.encode())
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
                drop_unfetched(scope["app"].get_blocks()._queue)
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


def drop_unfetched(queue: Any) -> None:
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
