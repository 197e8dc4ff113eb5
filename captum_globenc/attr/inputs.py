"""Inputs of `attribute()` as a tuple of tensors, with errors that say what to pass instead.

B batch, N tokens.
"""

from typing import Any

from torch import Tensor

from captum_globenc.captum_api import format_inputs
from captum_globenc.forward import check_batched

__all__ = ["as_tensors"]


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
