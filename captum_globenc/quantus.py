"""GlobEnc, and any of Captum's methods, as Quantus calls an explanation: numpy in, numpy out.

Quantus knows images (B, C, H, W) and signals (B, C, T). A text is a signal: its tokens are the steps, the
dimensions of their embeddings the channels. B batch, N tokens, D embedding size.
"""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from captum_globenc.attr.globenc import GlobEnc


class TextSignal(nn.Module):
    """A text model that reads embeddings as a signal, `(B, D, N)`.

    Quantus cuts batches as it likes and hands over nothing but the signal, so texts must have one
    length and no padding: run it on texts of each length by themselves.

    Args:
        forward_func: a module of embeddings `(B, N, D)`, such as `EncoderForward(model)`.

    Example:
        >>> TextSignal(nn.Linear(3, 5))(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 4, 5])
    """

    def __init__(self, forward_func: nn.Module) -> None:
        super().__init__()
        self.forward_func = forward_func
        # A fresh module is in training mode, which Quantus refuses; what counts is whether dropout is.
        self.training = any(m.training for m in forward_func.modules() if isinstance(m, nn.Dropout))

    def forward(self, signal: Tensor) -> Tensor:
        """Run the model on `(B, D, N)`."""
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
    """Explain as Quantus's `explain_func` does.

    Args:
        model: the model, in the wrapper that makes a signal of a text.
        inputs: `(B, D, N)` embeddings.
        targets: `(B,)` classes.
        attribution: makes one of Captum's attributions of a module of embeddings `(B, N, D)`: the
            class itself, where it needs nothing else.
        method: the name that Quantus reports under, which it passes on; of no use here.
        device: where to compute; left out, where the model is.
        **options: for the `attribute` method, such as `n_steps`.

    Returns:
        `(B, 1, N)`: a score per token, the same for all channels.

    Raises:
        TypeError: `model` is no :class:`TextSignal`.

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
