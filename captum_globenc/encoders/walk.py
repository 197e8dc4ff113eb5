"""A walk over the parts of a module, as often as a call needs one."""

from collections.abc import Iterator

from torch import nn


def every(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all of its parts, each once, in the order of `module.modules()`.

    That one goes through a generator for each level, and takes several times as long.

    Example:
        >>> shared = nn.Linear(2, 2)
        >>> model = nn.Sequential(nn.Sequential(shared, nn.GELU()), shared)
        >>> list(every(model)) == list(model.modules())
        True
    """
    seen: set[nn.Module] = set()
    left: list[nn.Module | None] = [module]
    while left:
        part = left.pop()
        if part is not None and part not in seen:
            seen.add(part)
            yield part
            left.extend(reversed(part._modules.values()))
