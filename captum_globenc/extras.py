"""Defer imports: packages of extras, and public names whose import takes seconds."""

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any


def install(extra: str) -> str:
    """Return the command that installs an extra; the package is not on PyPI.

    Example:
        >>> install("pandas")
        'pip install ".[pandas]" in a clone of captum_globenc'
    """
    return f'pip install ".[{extra}]" in a clone of captum_globenc'


@cache
def installed_version(package: str = "captum_globenc") -> str:
    """Return the version of an installed package; "(not installed)" in a plain checkout."""
    from importlib.metadata import PackageNotFoundError, version  # deferred, because the import is slow

    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def optional(name: str, extra: str = "evaluate") -> ModuleType:
    """Import a package of an extra.

    Args:
        name: the module.
        extra: the extra that installs it.

    Raises:
        ImportError: the package is not installed; the message names the command that installs it.

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
        homes: the module of each public name, relative to the package; a leading dot starts at its parent.

    Returns:
        Both functions, as in PEP 562.

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
