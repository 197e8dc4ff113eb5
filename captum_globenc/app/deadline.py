"""An end to work that takes too long, or that nobody waits for any more."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from time import monotonic
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["Deadline", "Turns"]


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
