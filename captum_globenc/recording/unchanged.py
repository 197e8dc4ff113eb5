"""Tell whether a model runs as when it was checked: the same modules, hooks and attention functions."""

import sys
import weakref
from collections.abc import Callable, Set
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as every_module
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from captum_globenc.encoders.walk import every

__all__ = ["Fingerprint", "fingerprint", "has_hooks"]

Fingerprint = list[Any]
"""Compared with `==`. It holds weak references and numbers of hooks, so that it keeps nothing alive."""

_OURS = ("forward", "__reduce_ex__")
"""Attributes that the recorder sets on the stack during a pass."""


def fingerprint(stack: nn.Module, forward: Callable[..., Any], ours: Set[int]) -> Fingerprint:
    """Return what decides how a stack of layers runs.

    Args:
        stack: runs the layers.
        forward: its own forward function.
        ours: the numbers of the recorder's hooks, which do not count.
    """
    found: Fingerprint = [
        _reference(forward),
        list(every_module._global_forward_hooks),
        list(every_module._global_forward_pre_hooks),
    ]
    classes: dict[type, None] = {}
    for module in every(stack):
        classes[type(module)] = None
        skipped = _OURS if module is stack else _OURS[1:]
        own = [
            _reference(value)
            for name, value in vars(module).items()
            if name not in skipped and callable(value)
        ]
        found += [_reference(module), _hooks(module, ours), own]
        config = vars(module).get("config")
        if isinstance(config, PretrainedConfig):
            name = config._attn_implementation
            found += [name, _reference(ALL_ATTENTION_FUNCTIONS.get(name))]
    for kind in classes:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        found.append(_reference(eager))
        for base in kind.__mro__:
            if base is nn.Module:
                break
            found += [_reference(it) for it in vars(base).values() if callable(it)]
    return found


def has_hooks(stack: nn.Module, ours: Set[int]) -> bool:
    """Return whether anybody else has hooks on the modules of a stack, or on all modules."""
    everywhere = every_module._global_forward_hooks or every_module._global_forward_pre_hooks
    return bool(everywhere) or any(any(_hooks(module, ours)) for module in every(stack))


def _hooks(module: nn.Module, ours: Set[int]) -> tuple[list[int], list[int]]:
    """Return the numbers of a module's hooks, which torch gives to no second hook."""
    if not module._forward_hooks and not module._forward_pre_hooks:
        return [], []
    return (
        [it for it in module._forward_hooks if it not in ours],
        [it for it in module._forward_pre_hooks if it not in ours],
    )


def _reference(value: Any) -> Any:
    """Return a weak reference, which equals another only where both are of one living object."""
    if isinstance(value, MethodType):  # made anew whenever it is asked for
        return _reference(value.__func__), _reference(value.__self__)
    try:
        return weakref.ref(value)
    except TypeError:
        return id(value)
