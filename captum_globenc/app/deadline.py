"""An end to work that takes too long."""

from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from torch.overrides import TorchFunctionMode

__all__ = ["Deadline"]


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

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__name__", "") in STOPS and monotonic() > self._end:
            raise TimeoutError(f"this took longer than {self._seconds:g} seconds, and was given up")
        return func(*args, **kwargs or {})
