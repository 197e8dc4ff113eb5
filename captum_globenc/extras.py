"""The packages of the extra `evaluate`, imported when they are first needed."""

import importlib
from types import ModuleType


def optional(name: str) -> ModuleType:
    """Import a package of the extra `evaluate`.

    Args:
        name: the module.

    Returns:
        The module.

    Raises:
        ImportError: it is not installed; the message says what to install.

    Example:
        >>> optional("no_such_module")
        Traceback (most recent call last):
        ImportError: no_such_module is not installed: pip install "captum_globenc[evaluate]"
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        package = {"sklearn": "scikit-learn"}.get(package, package)
        raise ImportError(f'{package} is not installed: pip install "captum_globenc[evaluate]"') from error
