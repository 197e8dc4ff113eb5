"""The linear maps that modules are: projections by their matrix, norms by what they saw.

B batch, N tokens, D hidden size, E size of a projection's input.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from captum_globenc.decomposition.record import Normalization
from captum_globenc.encoders.walk import every

_UNKNOWN = object()


def linear_map(module: nn.Module, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the matrix and the bias of an affine module.

    A plain `torch.nn.Linear` of a plain weight is read. Anything else, such as a projection that an
    adapter wraps or that is quantised, is asked: its answers to zero and to the unit vectors are its
    bias and its columns.

    Args:
        module: maps `(..., E)` to `(..., D)`.
        size: E.
        dtype: of what is returned.

    Returns:
        The matrix `(D, E)` and the bias `(D,)` or None.

    Example:
        >>> matrix, bias = linear_map(nn.Linear(3, 2), size=3, dtype=torch.float64)
        >>> matrix.shape, bias.shape
        (torch.Size([2, 3]), torch.Size([2]))
    """
    refuse_meta([module])
    weight: Any = getattr(module, "weight", None)
    if type(module) is nn.Linear and is_plain(weight):
        bias = None if module.bias is None else module.bias.to(dtype)
        return weight.to(dtype), bias
    like = next(iter([*module.parameters(), *module.buffers()]), torch.empty(0))
    kind = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    units = torch.eye(size, dtype=kind, device=like.device)
    # forward itself, so that no hook of the user's takes the probes for a pass of the model.
    answers = module.forward(torch.cat([torch.zeros_like(units[:1]), units])).to(dtype)
    return (answers[1:] - answers[0]).T, answers[0]


def refuse_meta(modules: Iterable[nn.Module]) -> None:
    """Refuse modules whose weights are not here.

    Raises:
        ValueError: a parameter is on the meta device.
    """
    for module in modules:
        if any(it is not None and it.is_meta for part in every(module) for it in part._parameters.values()):
            raise ValueError(
                f"The weights of a {type(module).__name__} are on the meta device, offloaded or not loaded "
                "yet: they are needed, so load the model onto one device."
            )


def is_plain(weight: Any) -> bool:
    """Tell whether a weight is what it says, and no packed or quantised form of it."""
    return type(weight) in (Tensor, nn.Parameter) and weight.is_floating_point()


def linearized_norm(norm: nn.Module, seen: Tensor, centred: bool) -> tuple[Normalization, ...]:
    """Return a norm as the linear map that it was for the vectors that it saw.

    Args:
        norm: a LayerNorm or an RMSNorm of any library, or an Identity where a layer has none.
        seen: `(B, N, D)` its input.
        centred: whether it takes off the mean.

    Returns:
        One normalisation, or none for an Identity.
    """
    if isinstance(norm, nn.Identity):
        return ()
    gain: Any = getattr(norm, "weight", None)
    eps: Any = getattr(norm, "eps", getattr(norm, "variance_epsilon", _UNKNOWN))
    if eps is _UNKNOWN:
        raise ValueError(
            f"{type(norm).__name__} is no LayerNorm or RMSNorm that could be read: it has no eps. If an "
            "adapter wraps it, merge the adapter first."
        )
    if eps is None:  # as torch's own RMSNorm takes it
        eps = torch.finfo(seen.dtype if gain is None else gain.dtype).eps
    if centred:
        # In one kernel; Tensor.var takes longer by itself.
        scale = torch.native_layer_norm(seen, seen.shape[-1:], None, None, eps)[2][..., 0]
    else:
        scale = torch.rsqrt(torch.linalg.vecdot(seen, seen) / seen.shape[-1] + eps)
    return (Normalization(None if gain is None else gain.to(seen.dtype), centred, scale),)
