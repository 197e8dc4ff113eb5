"""The limits of the web demo: time of a run, size of requests, kept results, and loaded resources."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from time import monotonic
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["KEPT_RESULTS", "MOST_BYTES", "STOPS", "Deadline", "Guard", "Turns", "drop_unfetched"]

MOST_BYTES = 1 << 20
"""Maximum bytes of a request; enough for the longest text and its pair."""
TOO_LARGE = f"a request may have {MOST_BYTES:,} bytes".encode()
KEPT_RESULTS = 32
"""Maximum number of results of all visitors that wait to be fetched; older ones are dropped."""
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'"
)
"""The content security policy, which blocks requests to other servers."""

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
"""Torch functions at which a run can stop: every layer calls some of them, cleanup code calls none."""


class Deadline(TorchFunctionMode):
    """Stop a model that runs within the block once a time limit is exceeded.

    A thread cannot be stopped from outside, so some torch functions (`STOPS`) check the clock before they
    start. A single call, or a backward pass, is not interrupted.

    Args:
        seconds: The time limit.

    Raises:
        TimeoutError: Within the block, when the limit is exceeded or `end` was called.

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
        """Stop the run, from another thread."""
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
                    f"this was stopped after {self._seconds:g} seconds: shorten the text, or choose fewer "
                    "methods"
                )
        return func(*args, **kwargs or {})


class Turns:
    """Run the requests of several visitors one after the other; each visitor can cancel their own.

    Args:
        seconds: The time limit of each request.

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
        """Wait for the running request, then run the block for a visitor.

        Raises:
            TimeoutError: Within the block, when the limit is exceeded or the visitor cancels.
        """
        deadline = self._running[visitor] = Deadline(self._seconds)
        try:
            with self._alone, deadline:
                yield
        finally:
            if self._running.get(visitor) is deadline:
                del self._running[visitor]

    def end(self, visitor: str) -> None:
        """Cancel the running or waiting request of a visitor, if there is one."""
        deadline = self._running.get(visitor)
        if deadline is not None:
            deadline.end()


class _TooLargeError(Exception):
    """A request whose body has more than `MOST_BYTES`."""


class Guard:
    """ASGI middleware that limits the size of requests and adds the content security policy."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve or reject an ASGI request."""
        read, started = 0, False

        async def guarded(message: Any) -> None:
            nonlocal started
            if read > MOST_BYTES and not started:
                return  # drop the application's response to an incomplete body
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
        elif scope["path"].rstrip("/").endswith("/upload"):  # Gradio has this route, the page needs none
            await _respond(404, b"uploads are not supported", guarded)
        elif _content_length(scope) > MOST_BYTES:
            await _respond(413, TOO_LARGE, guarded)
        else:
            if scope["method"] == "POST":
                drop_unfetched(scope["app"].get_blocks()._queue)
            with suppress(_TooLargeError):
                await self.app(scope, bounded, guarded)
            if read > MOST_BYTES and not started:
                read = 0
                await _respond(413, TOO_LARGE, guarded)


def _content_length(scope: Any) -> int:
    """Return the Content-Length of a request; 0 if it has none."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


async def _respond(status: int, reason: bytes, send: Any) -> None:
    """Send a plain-text response."""
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})


def drop_unfetched(queue: Any) -> None:
    """Drop the oldest results that visitors have not fetched.

    Gradio keeps the results of a visitor until they are fetched, which a script may never do.

    Args:
        queue: The Gradio queue of the page.
    """
    kept = 0
    for messages in reversed(list(queue.pending_messages_per_session.values())):
        kept += sum(it.msg == "process_completed" for it in messages._queue)
        if kept > KEPT_RESULTS:
            while not messages.empty():
                messages.get_nowait()
