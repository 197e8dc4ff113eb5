"""Hook modules past callers that skip hooks, in one thread, without traces on copies; find hidden states."""

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
"""Attributes of a module that hold its hooks, or facts about them, by the hooks' ids."""


def in_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Make a hook ignore passes from other threads than the current one."""
    thread = threading.get_ident()
    return lambda *args: hook(*args) if threading.get_ident() == thread else None


@contextmanager
def replaced_forward(module: nn.Module, run: Callable[[Callable[..., Any], Any, Any], Any]) -> Iterator[None]:
    """Call `run(forward, args, kwargs)` in place of a module's forward.

    Hooks would not do: peft and sentence-transformers call an encoder's `forward` directly, which skips its
    hooks.
    """
    forward, is_attribute = module.forward, "forward" in vars(module)

    @wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return run(forward, args, kwargs)

    module.forward = wrapper
    try:
        yield
    finally:
        if is_attribute:  # wrapped before, for example by accelerate
            module.forward = forward
        else:
            del module.forward


@contextmanager
def hidden_from_copies(modules: Iterable[nn.Module], ours: Set[int]) -> Iterator[None]:
    """Keep our hooks and forward functions out of copies and pickles of modules.

    A copy made during a pass, by an EMA or a thread that saves checkpoints, would otherwise call the
    forward function of the original module.

    Args:
        modules: the hooked modules.
        ours: ids of the hooks to hide; may grow during the pass.
    """
    hooked = list({id(module): module for module in modules}.values())
    with _lock:
        for module in hooked:
            # Another thread, or an outer pass of this one, may have hooked the module already.
            vars(module).setdefault("__reduce_ex__", _CleanReduce(module)).hidden.append(ours)
    try:
        yield
    finally:
        with _lock:
            for module in hooked:
                reduce: _CleanReduce = vars(module)["__reduce_ex__"]
                reduce.hidden = [it for it in reduce.hidden if it is not ours]
                if not reduce.hidden:
                    del vars(module)["__reduce_ex__"]


_lock = threading.Lock()


class _CleanReduce:
    """A module's `__reduce_ex__` that leaves out hidden hooks, our forward function, and itself.

    Args:
        module: the module, before it is hooked.
    """

    def __init__(self, module: nn.Module) -> None:
        self.hidden: list[Set[int]] = []
        self._module = module
        self._forward = vars(module).get("forward")

    def __call__(self, protocol: Any) -> Any:
        """Return the reduced module, as `object.__reduce_ex__` does."""
        module = self._module
        reduced = type(module).__reduce_ex__(module, protocol)
        if isinstance(reduced, str) or len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced
        state = {name: it for name, it in reduced[2].items() if name not in ("__reduce_ex__", "forward")}
        if self._forward is not None:
            state["forward"] = self._forward
        hidden = set().union(*self.hidden)
        for name in HOOKS:
            hooks = state.get(name, {})
            state[name] = type(hooks)((key, hook) for key, hook in hooks.items() if key not in hidden)
        return (*reduced[:2], state, *reduced[3:])


def bound_arguments(module: nn.Module, args: Any, kwargs: Any) -> inspect.BoundArguments:
    """Return the arguments of a call of a module by parameter name."""
    return inspect.signature(module.forward).bind(*args, **kwargs)


def layer_input(args: Any, kwargs: Any) -> Any:
    """Return the hidden states in a layer's arguments."""
    return args[0] if args else kwargs["hidden_states"]


def with_layer_input(args: Any, kwargs: Any, stream: Any) -> Any:
    """Return a layer's arguments with other hidden states."""
    return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})


def layer_output(output: Any) -> Any:
    """Return the hidden states in a layer's output."""
    return output[0] if isinstance(output, tuple) else output
