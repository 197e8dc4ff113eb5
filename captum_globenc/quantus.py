"""Explain functions for Quantus: GlobEnc, or any Captum method, on numpy arrays.

Quantus supports images (B, C, H, W) and signals (B, C, T). Here a text is a signal: time steps are tokens,
channels are embedding dimensions. Shapes: B texts, N tokens, D embedding dimensions.
"""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from captum_globenc.attr.globenc import GlobEnc


class TextSignal(nn.Module):
    """Wrap a text model so that it reads embeddings as a signal, `(B, D, N)`.

    Quantus passes only the signal, without an attention mask, and splits batches itself. All texts must
    therefore have the same length and no padding: evaluate texts of each length separately.

    Args:
        forward_func: a module that maps embeddings `(B, N, D)` to outputs, such as `EncoderForward(model)`.

    Example:
        >>> TextSignal(nn.Linear(3, 5))(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, forward_func: nn.Module) -> None:
        super().__init__()
        self.forward_func = forward_func
        # Quantus rejects modules in training mode, as new modules are; only the mode of dropout matters.
        self.training = any(m.training for m in forward_func.modules() if isinstance(m, nn.Dropout))

    def forward(self, signal: Tensor) -> Tensor:
        """Run the model on a signal `(B, D, N)`."""
        output: Tensor = self.forward_func(signal.transpose(1, 2))
        return output


def explain(
    model: TextSignal,
    inputs: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    *,
    attribution: Callable[[nn.Module], Any] = GlobEnc,
    method: str | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> npt.NDArray[Any]:
    """Explain a batch, as an `explain_func` of Quantus.

    Args:
        model: the wrapped model.
        inputs: `(B, D, N)` embeddings.
        targets: `(B,)` class indices.
        attribution: a Captum attribution class, or a function that creates an attribution from a module that
            reads embeddings `(B, N, D)`.
        method: the name that Quantus uses in reports; ignored.
        device: the device to compute on; by default the model's device.
        **options: further arguments of the `attribute` method, such as `n_steps`.

    Returns:
        Scores `(B, 1, N)`, one per token, broadcast over channels.

    Raises:
        TypeError: `model` is not a :class:`TextSignal`.

    Example:
        >>> import numpy as np
        >>> from captum.attr import InputXGradient
        >>> signal = np.ones((2, 3, 4), dtype=np.float32)
        >>> class Sum(nn.Module):
        ...     def forward(self, embeddings):
        ...         return embeddings.sum(dim=(1, 2))[:, None]
        >>> explain(TextSignal(Sum()), signal, np.array([0, 0]), attribution=InputXGradient).tolist()
        [[[3.0, 3.0, 3.0, 3.0]], [[3.0, 3.0, 3.0, 3.0]]]
    """
    if not isinstance(model, TextSignal):
        raise TypeError(f"explain needs a TextSignal around the text model, and got a {type(model).__name__}")
    where = device or next((parameter.device for parameter in model.parameters()), "cpu")
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    embeddings = torch.as_tensor(inputs).to(where, dtype).transpose(1, 2).contiguous()
    scores = attribution(model.forward_func).attribute(
        embeddings, target=torch.as_tensor(targets).to(where), **options
    )
    per_token: npt.NDArray[Any] = scores.detach().sum(dim=2)[:, None].cpu().numpy()
    return per_token
