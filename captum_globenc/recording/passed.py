"""Remember the checks that a model passed, together with all that decided how it ran."""

import sys
import weakref
from collections.abc import Iterable, Set
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module
from transformers import PretrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from captum_globenc.forward import Wrapper

Fingerprint = list[Any]
"""Compared with `==`. Holds weak references and hook ids, so it keeps nothing alive."""

KEPT = 8
"""Fingerprints that are remembered of each module, the latest ones."""

_OURS = ("__reduce_ex__", "forward")
"""Attributes that a recorder sets during a pass: on hooked modules, and on the stack as well."""


class Passed:
    """The checks that modules passed, for each fingerprint; keeps no module alive."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[nn.Module, list[tuple[Fingerprint, Any]]] = (
            weakref.WeakKeyDictionary()
        )

    def get(self, module: nn.Module, fingerprint: Fingerprint) -> Any:
        """Return what was checked of a module that runs as it does now; None if nothing was."""
        return next((it for known, it in self._found.get(module, ()) if known == fingerprint), None)

    def add(self, module: nn.Module, fingerprint: Fingerprint, checked: Any) -> None:
        """Remember what was checked, in place of what was known for this fingerprint."""
        others = [entry for entry in self._found.get(module, ()) if entry[0] != fingerprint]
        self._found[module] = [(fingerprint, checked), *others][:KEPT]


class _Reference(weakref.ref[Any]):
    """A weak reference that equals another only if both refer to one living object."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reference) and self() is other() is not None

    __hash__ = None  # type: ignore[assignment]


def reference(value: Any) -> Any:
    """Return a weak reference that equals another only if both refer to one living object."""
    if isinstance(value, MethodType):  # every access makes a new bound method
        return reference(value.__func__), reference(value.__self__)
    try:
        return _Reference(value)
    except TypeError:
        return id(value)


def fingerprint_of(
    modules: Iterable[nn.Module], stack: nn.Module | None = None, ours: Set[int] = frozenset()
) -> Fingerprint:
    """Return all that decides how modules run, besides their arguments: hooks, functions, attention.

    Args:
        modules: the modules. Instances of :class:`~captum_globenc.forward.Wrapper` may be made anew.
        stack: the module whose forward function a recorder replaced.
        ours: ids of the recorder's hooks, which do not count.
    """
    found: Fingerprint = [
        list(torch_module._global_forward_hooks),
        list(torch_module._global_forward_pre_hooks),
    ]
    classes: dict[type, None] = {}
    for module in modules:
        classes[type(module)] = None
        skipped = _OURS if module is stack else _OURS[:1]
        own = [
            reference(value)
            for name, value in vars(module).items()
            if name not in skipped and callable(value)
        ]
        found += [_identity(module), hooks_of(module, ours), own]
        config = vars(module).get("config")
        if isinstance(config, PretrainedConfig):
            name = config._attn_implementation
            found += [name, reference(ALL_ATTENTION_FUNCTIONS.get(name))]
    for kind in classes:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        found.append(reference(eager))
        for base in kind.__mro__:
            if base is nn.Module:
                break
            found += [reference(it) for it in vars(base).values() if callable(it)]
    return found


def _identity(module: nn.Module) -> Any:
    """Return what tells a module from others: of wrappers the class and the settings."""
    if isinstance(module, Wrapper) and "settings" in vars(type(module)):
        return reference(type(module)), module.settings
    return reference(module)


def hooks_of(module: nn.Module, ours: Set[int]) -> tuple[list[int], list[int]]:
    """Return the ids of a module's hooks; torch never reuses an id."""
    if not module._forward_hooks and not module._forward_pre_hooks:
        return [], []
    return (
        [it for it in module._forward_hooks if it not in ours],
        [it for it in module._forward_pre_hooks if it not in ours],
    )
