"""Captum's arguments: inputs, baselines and target.

B batch, C classes, N tokens, D embedding size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.captum_api import TargetType, format_inputs, select_targets
from captum_globenc.forward import check_batched

CAPTUM_ERRORS = (AssertionError, IndexError, TypeError, RuntimeError)
"""The exceptions that Captum raises for a wrong target."""

Baselines = Tensor | int | float | tuple[Tensor | int | float, ...] | None
"""Reference values of the inputs, as in Captum."""


def as_tensors(inputs: Any, *, ids_of_texts: bool = False) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors.

    Args:
        inputs: a tensor, or a tuple of tensors.
        ids_of_texts: whether integers are token ids `(B, N)`, so that they need two dimensions.

    Raises:
        AssertionError: an input is not a tensor. Captum raises the same type.
        ValueError: token ids have no batch dimension.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    wrong = next((it for it in given if not isinstance(it, Tensor)), None)
    if wrong is not None:
        raise AssertionError(
            f"`inputs` must be a tensor or a tuple of tensors, not a {type(wrong).__name__}. With a "
            'tokenizer\'s batch (return_tensors="pt"): inputs, extra = forward.arguments(batch) with '
            "forward = EncoderForward(model), then .attribute(inputs, ..., additional_forward_args=extra)."
        )
    tensors = format_inputs(inputs)
    if ids_of_texts:
        for tensor in tensors:
            check_batched(tensor)
    return tensors


def formatted_inputs(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple, detached.

    Raises:
        AssertionError: one of them is not a tensor.
        TypeError: one of them is boolean or complex.
    """
    tensors = as_tensors(inputs)
    for tensor in tensors:
        if tensor.dtype is torch.bool or tensor.is_complex():
            raise TypeError("inputs must be tensors of token ids or of real numbers")
    return tuple(tensor.detach() for tensor in tensors)


def formatted_baselines(baselines: Baselines, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a baseline in the shape of each input.

    Raises:
        ValueError: their number is not that of the inputs, one does not fit its input, or ids have none.
    """
    given: tuple[Any, ...] = baselines if isinstance(baselines, tuple) else (baselines,) * len(inputs)
    if isinstance(baselines, Tensor) and len(inputs) > 1:
        given = (baselines,)
    if len(given) != len(inputs):
        raise ValueError(f"there are {len(given)} baselines for {len(inputs)} inputs")
    return tuple(_baseline(one, tensor) for one, tensor in zip(given, inputs, strict=True))


def _baseline(baseline: Any, tensor: Tensor) -> Tensor:
    if baseline is None:
        if tensor.is_floating_point():
            return torch.zeros_like(tensor)
        raise ValueError(
            "token ids need baselines: ids of the same shape, such as those of the fully masked text, "
            "EncoderForward.masked(batch, tokenizer), or one id."
        )
    if isinstance(baseline, Tensor):
        if baseline.dim() != tensor.dim() or any(
            size not in (wanted, 1 if dim == 0 else wanted)
            for dim, (size, wanted) in enumerate(zip(baseline.shape, tensor.shape, strict=True))
        ):
            raise ValueError(f"baselines {tuple(baseline.shape)} do not fit inputs {tuple(tensor.shape)}")
    else:
        dtype = tensor.dtype if tensor.is_floating_point() else None
        baseline = torch.tensor(baseline, dtype=dtype, device=tensor.device)
    baseline = baseline.detach().to(tensor.device)
    ids_as_floats = baseline.is_floating_point() and not tensor.is_floating_point()
    if ids_as_floats and not torch.equal(baseline, baseline.trunc()):
        raise ValueError(
            "baselines of token ids must be ids, whole numbers; for other values, pass embeddings"
        )
    expanded: Tensor = baseline.to(tensor.dtype).expand_as(tensor).contiguous()
    return expanded


def selected(output: Tensor, target: TargetType) -> Tensor:
    """Return the output that a target selects, with its graph even if gradients are off.

    Args:
        output: the output of a forward function, batch first.
        target: the index of the output, as in Captum.

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
    """Select outputs as Captum does, with error messages that name the size of the output.

    Args:
        output: `(B, C)`, or `(B, ...)`.
        target: the index of the output, as in Captum.

    Raises:
        AssertionError, IndexError, RuntimeError: `target` has the wrong length, is out of range or is not an
            index. The types are those that Captum raises.
    """
    try:
        return select_targets(output, target)
    except CAPTUM_ERRORS as error:
        message = _target_error(output, target)
        if message is None:
            raise
        kind = next(kind for kind in CAPTUM_ERRORS if isinstance(error, kind))
        raise kind(message) from error


def _target_error(output: Tensor, target: Any) -> str | None:
    """Return a message for a wrong target; None if Captum's own message is the best."""
    given = target.tolist() if isinstance(target, Tensor) else target
    targets = given if isinstance(given, list) else [given]
    indices = [one if isinstance(one, tuple) else (one,) for one in targets]
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
    for one, original in zip(indices, targets, strict=True):
        sizes = zip(one, shape, strict=False)
        if any(isinstance(index, int) and not -size <= index < size for index, size in sizes):
            return f"target {original} is out of range: {has}"
    return None
