"""Inputs, baselines and the places of contributions, for methods that compare an input with a baseline.

B batch, N tokens, D embedding size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_globenc.captum_api import format_inputs
from captum_globenc.differences.trace import Source
from captum_globenc.forward import check_batched

__all__ = ["as_tensors", "formatted_baselines", "formatted_inputs", "on_inputs"]

Baselines = Tensor | int | float | tuple[Tensor | int | float, ...] | None
"""What inputs are compared with, as for Captum's own methods."""


def as_tensors(inputs: Any, *, ids_of_texts: bool = False) -> tuple[Tensor, ...]:
    """Return the inputs as a tuple of tensors.

    Args:
        inputs: as for every Captum method: a tensor, or a tuple of tensors.
        ids_of_texts: whether integers are token ids `(B, N)`, so that they need two dimensions.

    Raises:
        AssertionError: an input is not a tensor. Captum raises the same type.
        ValueError: token ids have no batch dimension.
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    wrong = next((it for it in given if not isinstance(it, Tensor)), None)
    if wrong is not None:
        raise AssertionError(
            f"`inputs` must be a tensor or a tuple of tensors, not a {type(wrong).__name__}. From a "
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
        TypeError: one of them has booleans or complex numbers.
    """
    tensors = as_tensors(inputs)
    for tensor in tensors:
        if tensor.dtype is torch.bool or tensor.is_complex():
            raise TypeError("inputs must be tensors of token ids or of real numbers")
    return tuple(tensor.detach() for tensor in tensors)


def formatted_baselines(baselines: Baselines, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return a baseline of the shape of each input.

    Raises:
        ValueError: there are not as many as inputs, one does not fit its input, or ids have none.
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
            "token ids need baselines: ids of the same shape, such as those of the text with all its tokens "
            "masked, EncoderForward.masked(batch, tokenizer), or one id."
        )
    if isinstance(baseline, Tensor):
        if baseline.dim() != tensor.dim() or any(
            size not in (wanted, 1 if place == 0 else wanted)
            for place, (size, wanted) in enumerate(zip(baseline.shape, tensor.shape, strict=True))
        ):
            raise ValueError(f"baselines {tuple(baseline.shape)} do not fit inputs {tuple(tensor.shape)}")
    else:
        dtype = tensor.dtype if tensor.is_floating_point() else None
        baseline = torch.tensor(baseline, dtype=dtype, device=tensor.device)
    baseline = baseline.detach().to(tensor.device)
    of_ids = baseline.is_floating_point() and not tensor.is_floating_point()
    if of_ids and not torch.equal(baseline, baseline.trunc()):
        raise ValueError("baselines of token ids have to be ids, whole numbers: for others, pass embeddings")
    made: Tensor = baseline.to(tensor.dtype).expand_as(tensor).contiguous()
    return made


def on_inputs(
    contributions: Sequence[Tensor], sources: Sequence[Source], inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Lay the contributions of sources on the inputs that they came from.

    Args:
        contributions: one for each source, of its shape; of a look-up `(..., D)`.
        sources: what they are of, as both runs saw it.
        inputs: the inputs.

    Returns:
        One for each input, in its shape.

    Raises:
        ValueError: something that was looked up contributes, and it is not known for which id.
    """
    floats = iter([part for it, part in zip(sources, contributions, strict=True) if not it.looked_up])
    sizes = [0 if it.is_floating_point() else it.numel() for it in inputs]
    dtype = next((it.dtype for it in contributions), None)
    of_ids = torch.zeros(sum(sizes), dtype=dtype, device=inputs[0].device)
    for source, contribution in zip(sources, contributions, strict=True):
        if not source.looked_up or not contribution.any():
            continue
        assert source.positions is not None
        credited = source.positions.credit(contribution.sum(-1))
        if credited is None:
            raise ValueError(
                f"embeddings {tuple(contribution.shape)} were looked up by numbers made of the ids in a way "
                "that does not tell which id they belong to."
            )
        of_ids = of_ids.to(credited.device) + credited
    return tuple(
        next(floats) if tensor.is_floating_point() else part.view(tensor.shape)
        for tensor, part in zip(inputs, torch.split(of_ids, sizes), strict=True)
    )
