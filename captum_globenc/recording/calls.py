"""How modules are watched past their hooks, and without a trace on their copies."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import nn

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Where a module keeps its hooks, and what it knows of them, by their ids."""


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


@contextmanager
def copied_as_before(modules: Iterable[nn.Module], ours: Set[int]) -> Iterator[None]:
    """Keep what is put on modules from here on off their copies and pickles.

    A copy that is made during a pass, by an EMA or a thread that saves checkpoints, would otherwise stay
    bound to the module that it was made of.

    Args:
        modules: what is watched.
        ours: the ids of the hooks that are put on them, known by the time of a copy.
    """
    watched = list({id(module): module for module in modules}.values())
    # One of them may be watched already, by a pass in whose forward function this one runs.
    before = [vars(module).get("__reduce_ex__") for module in watched]
    for module in watched:
        vars(module)["__reduce_ex__"] = _reducing(module, vars(module).get("forward"), ours)
    try:
        yield
    finally:
        for module, reduce in zip(watched, before, strict=True):
            del vars(module)["__reduce_ex__"]
            if reduce is not None:
                vars(module)["__reduce_ex__"] = reduce


def _reducing(module: nn.Module, forward: Any, ours: Set[int]) -> Callable[[Any], Any]:
    """Return the `__reduce_ex__` of a module that leaves out what is put on it, and itself."""

    def reduce(protocol: Any) -> Any:
        made = type(module).__reduce_ex__(module, protocol)
        if isinstance(made, str) or len(made) < 3 or not isinstance(made[2], dict):
            return made
        state = {name: value for name, value in made[2].items() if name not in ("__reduce_ex__", "forward")}
        if forward is not None:
            state["forward"] = forward
        for name in HOOKS:
            kept = state.get(name, {})
            state[name] = type(kept)((key, hook) for key, hook in kept.items() if key not in ours)
        return (*made[:2], state, *made[3:])

    return reduce


def bound_arguments(module: nn.Module, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return what a module is called with, by the names of its parameters."""
    return inspect.signature(module.forward).bind(*args, **kwargs)
