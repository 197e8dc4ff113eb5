"""Deferred imports: the packages of extras, public names whose import takes seconds, installed versions."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def install(extra: str) -> str:
    """Return how an extra is installed, while the package is on no registry.

    Example:
        >>> install("pandas")
        'pip install ".[pandas]" in a clone of captum_globenc'
    """
    return f'pip install ".[{extra}]" in a clone of captum_globenc'


def installed_version() -> str:
    """Return the version of the installed package; "(not installed)" in a checkout that is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # deferred, to import fast

    try:
        return version("captum_globenc")
    except PackageNotFoundError:
        return "(not installed)"


def optional(name: str, extra: str = "evaluate") -> ModuleType:
    """Import a package of an extra.

    Args:
        name: the module.
        extra: the extra that installs it.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message says what to install.

    Example:
        >>> optional("no_such_module")
        Traceback (most recent call last):
        ImportError: no_such_module is not installed: pip install ".[evaluate]" in a clone of captum_globenc
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        package = {"sklearn": "scikit-learn"}.get(package, package)
        raise ImportError(f"{package} is not installed: {install(extra)}") from error


def on_demand(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package that imports its names on first access.

    torch and transformers take seconds to import; `captum-globenc --help` should not.

    Args:
        package: its `__name__`.
        homes: the module of each public name, from the package's own folder; from the one that this lies in,
            with a dot ahead.

    Returns:
        Both functions, as PEP 562 has them.

    Example:
        >>> find, names = on_demand("captum_globenc", {"optional": "extras"})
        >>> find("optional") is optional, "optional" in names()
        (True, True)
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{homes[name]}", package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return find, names
