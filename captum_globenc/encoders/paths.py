"""What the paths of a spec lead to, in the version of transformers that is there."""

from itertools import chain
from typing import Any

import transformers
from torch import nn

from captum_globenc.errors import UnsupportedModelError


def alternatives(entry: str) -> list[str]:
    """Return what an entry of a spec names: one name, or several with "|" between them.

    Example:
        >>> alternatives("attention.o_proj|attention.output.dense")
        ['attention.o_proj', 'attention.output.dense']
    """
    return entry.split("|")


def parts(module: nn.Module, path: str, model_type: str) -> list[Any]:
    """Return what a path leads to: the first of its alternatives that is all there.

    Args:
        module: where it starts.
        path: dotted, "*" for every child; see :class:`~captum_globenc.encoders.EncoderSpec`.
        model_type: of the spec, for the error.

    Raises:
        UnsupportedModelError: nothing is there.
    """
    for alternative in alternatives(path):
        try:
            return _follow(module, alternative.split("."))
        except AttributeError:
            continue
    raise UnsupportedModelError(
        f"The spec of {model_type!r} does not fit: {type(module).__name__} has no "
        f"{' or '.join(map(repr, alternatives(path)))} in transformers {transformers.__version__}."
    )


def _follow(part: Any, path: list[str]) -> list[Any]:
    if not path:
        return [part]
    name, *rest = path
    found = part.children() if name == "*" else [getattr(part, name)]
    return list(chain.from_iterable(_follow(each, rest) for each in found))
