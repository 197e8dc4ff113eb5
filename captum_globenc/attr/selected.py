"""The output that is explained, as Captum selects it.

B batch, C classes.
"""

from typing import Any

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType, select_targets

__all__ = ["select", "selected"]

CAPTUM_RAISES = (AssertionError, IndexError, TypeError, RuntimeError)
"""What Captum's selection of a target raises."""


def selected(output: Tensor, target: TargetType) -> Tensor:
    """Return the output that a target chooses, with its graph even where gradients are off.

    Args:
        output: of a forward function.
        target: as for every Captum method.

    Returns:
        `(B,)`.

    Raises:
        AssertionError, IndexError, RuntimeError: `target` is missing, or as :func:`select` raises.
    """
    with torch.inference_mode(False), torch.enable_grad():
        chosen = select(output, target)
        if not chosen.dim() or chosen[0].numel() != 1:
            raise AssertionError(
                "Target not provided when necessary, cannot explain several outputs at once."
            )
        return chosen.reshape(len(chosen))


def select(output: Tensor, target: TargetType) -> Tensor:
    """Select outputs as Captum does, with messages that say what the output has.

    Args:
        output: `(B, C)`, or `(B, ...)`.
        target: as for every Captum method.

    Raises:
        AssertionError, IndexError, RuntimeError: `target` has the wrong length, is out of range or is no
            index. The types are those that Captum raises.
    """
    try:
        return select_targets(output, target)
    except CAPTUM_RAISES as error:
        message = _what_is_wrong(output, target)
        if message is None:
            raise
        kind = next(kind for kind in CAPTUM_RAISES if isinstance(error, kind))
        raise kind(message) from error


def _what_is_wrong(output: Tensor, target: Any) -> str | None:
    """Return what is wrong with a target; None where Captum's own message has to do."""
    given = target.tolist() if isinstance(target, Tensor) else target
    of_each = given if isinstance(given, list) else [given]
    indices = [one if isinstance(one, tuple) else (one,) for one in of_each]
    named = next((index for one in indices for index in one if isinstance(index, str)), None)
    shape = tuple(output.shape[1:])
    count = f"the output has {shape[0]} classes, 0 to {shape[0] - 1}" if len(shape) == 1 else ""
    has = count or f"the output of each example is {shape}"
    if named is not None:
        return (
            f"target {named!r} is a class name, and {has}: pass the index, model.config.label2id[{named!r}]"
        )
    if isinstance(given, list) and len(given) != len(output):
        return f"there are {len(given)} targets for {len(output)} examples: pass one for each, or one for all"
    for one, original in zip(indices, of_each, strict=True):
        sizes = zip(one, shape, strict=False)
        if any(isinstance(index, int) and not -size <= index < size for index, size in sizes):
            return f"target {original} is out of range: {has}"
    return None
