"""How modules are called: watched past their hooks, by the names of their parameters."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import nn


@contextmanager
def around(
    module: nn.Module, enter: Callable[[nn.Module, Any, Any], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Call `enter` and `leave` around a module's forward.

    In place of hooks, because peft and sentence-transformers call an encoder's forward itself, past
    its hooks.
    """
    forward, own = module.forward, "forward" in vars(module)

    @wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        enter(module, args, kwargs)
        output = forward(*args, **kwargs)
        leave()
        return output

    module.forward = watched
    try:
        yield
    finally:
        if own:  # wrapped already, by accelerate for one
            module.forward = forward
        else:
            del module.forward


def bound_arguments(module: nn.Module, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return what a module is called with, by the names of its parameters."""
    return inspect.signature(module.forward).bind(*args, **kwargs)


def ask_for_probabilities(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Have an attention module return its probabilities, which its layer passes on or drops."""
    call = bound_arguments(module, args, kwargs)
    call.arguments["output_attentions"] = True
    return call.args, call.kwargs
