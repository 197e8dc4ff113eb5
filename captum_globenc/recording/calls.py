"""How modules are watched past their hooks, and without a trace on their copies."""

import inspect
import threading
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


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Make a hook deaf to passes of the same module in other threads than the one that asks for it."""
    thread = threading.get_ident()
    return lambda *args: hook(*args) if threading.get_ident() == thread else None


@contextmanager
def around(module: nn.Module, run: Callable[[Callable[..., Any], Any, Any], Any]) -> Iterator[None]:
    """Call `run` with a module's own forward and its arguments, in place of that forward.

    In place of hooks, because peft and sentence-transformers call an encoder's forward itself, past
    its hooks.
    """
    forward, own = module.forward, "forward" in vars(module)

    @wraps(forward)
    def watched(*args: Any, **kwargs: Any) -> Any:
        return run(forward, args, kwargs)

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
    with _guard:
        for module in watched:
            # One of them may be watched already: by another thread, or by a pass that this one runs in.
            vars(module).setdefault("__reduce_ex__", _Reducing(module)).ours.append(ours)
    try:
        yield
    finally:
        with _guard:
            for module in watched:
                reducing: _Reducing = vars(module)["__reduce_ex__"]
                reducing.ours = [it for it in reducing.ours if it is not ours]
                if not reducing.ours:
                    del vars(module)["__reduce_ex__"]


_guard = threading.Lock()


class _Reducing:
    """The `__reduce_ex__` of a module that leaves out what is put on it, and itself.

    Args:
        module: as it is before anything is put on it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.ours: list[Set[int]] = []
        self._module = module
        self._forward = vars(module).get("forward")

    def __call__(self, protocol: Any) -> Any:
        """Return what a copy is made of."""
        module = self._module
        made = type(module).__reduce_ex__(module, protocol)
        if isinstance(made, str) or len(made) < 3 or not isinstance(made[2], dict):
            return made
        state = {name: value for name, value in made[2].items() if name not in ("__reduce_ex__", "forward")}
        if self._forward is not None:
            state["forward"] = self._forward
        for name in HOOKS:
            kept = state.get(name, {})
            ours = set().union(*self.ours)
            state[name] = type(kept)((key, hook) for key, hook in kept.items() if key not in ours)
        return (*made[:2], state, *made[3:])


def bound_arguments(module: nn.Module, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return what a module is called with, by the names of its parameters."""
    return inspect.signature(module.forward).bind(*args, **kwargs)
