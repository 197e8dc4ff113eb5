"""Which of torch's functions a name stands for: a function, a method, an operator, in place or not."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["changes_in_place", "functions", "spelt"]

NAMESPACES = (
    torch,
    Tensor,
    torch.nn.functional,
    torch._C._nn,
    torch._C._VariableFunctions,
    torch.special,
    torch.linalg,
    torch._C._fft,  # type: ignore[attr-defined]
)


def functions(names: str) -> set[Callable[..., Any]]:
    """Return every function that goes by one of these names, separated by spaces.

    `add` is torch.add, Tensor.add, Tensor.add_ and the operators + and +=, from either side. Of an
    attribute of tensors it is what reads it.

    Example:
        >>> torch.Tensor.__radd__ in functions("add"), torch.Tensor.mT.__get__ in functions("mT")
        (True, True)
    """
    found: set[Callable[..., Any]] = set()
    for name in names.split():
        for variant in (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__"):
            for namespace in NAMESPACES:
                function: Any = getattr(namespace, variant, None)
                if hasattr(function, "__objclass__") and not callable(function):
                    found.add(function.__get__)
                elif callable(function):
                    found.add(function)
    return found


def table(rows: Iterable[tuple[str, Any]]) -> dict[Callable[..., Any], Any]:
    """Return what each function of some rows of names and values is given."""
    return {function: value for names, value in rows for function in functions(names)}


def spelt(function: Any) -> str:
    """Return what a message calls a function.

    Example:
        >>> spelt(torch.nn.functional.gelu), spelt(torch.Tensor.cumprod)
        ('torch.nn.functional.gelu', 'torch.Tensor.cumprod')
    """
    name = torch.overrides.resolve_name(function)
    return name or getattr(function, "__qualname__", None) or str(function)


def changes_in_place(function: Any) -> bool:
    """Whether a function writes into its first argument.

    Example:
        >>> [changes_in_place(function) for function in (Tensor.add_, Tensor.__iadd__, Tensor.__add__)]
        [True, True, False]
    """
    name = getattr(function, "__name__", "")
    if name.startswith("__"):
        return (
            name.startswith("__i") and name not in ("__invert__", "__index__", "__int__")
        ) or name == "__setitem__"
    return name.endswith("_") and not name.startswith("_")
