"""Whether each layer reads what the one before it wrote, in every pass: all tokens of all texts.

Shares are passed on from layer to layer, so that nothing may move them from token to token in between, as a
hook that patches or exchanges activations does. B batch, N tokens, D hidden size.
"""

import torch
from torch import Tensor

from captum_globenc.errors import RecordingError
from captum_globenc.recording.adding_up import ROUNDINGS

__all__ = ["StreamCheck", "Written"]


class Written:
    """What a layer wrote, before any hook on it ran.

    Args:
        output: `(B, N, D)`.
    """

    def __init__(self, output: Tensor) -> None:
        # Tensors of inference mode do not tell whether they were written into.
        self.value = output.clone() if output.is_inference() else output
        self._version = None if output.is_inference() else output._version

    @property
    def changed(self) -> bool:
        """Whether it was written into since."""
        return self._version is not None and self.value._version != self._version


class StreamCheck:
    """What was read of what layers wrote; looked at when all is done, as looking waits for the device."""

    def __init__(self) -> None:
        self._off: list[Tensor] = []

    def see(self, written: Written, read: Tensor, real: Tensor | None) -> None:
        """Compare what a layer wrote with what was read of it.

        Args:
            written: by the layer.
            read: by the next one; of the last, what its hooks made of it.
            real: `(B, N)`, False at padding, where anything may stand; None where every token is real.
        """
        wrote = written.value
        if wrote is read and not written.changed:
            return
        if written.changed or wrote.shape != read.shape:
            self._off.append(torch.ones((), dtype=torch.bool, device=read.device))
            return
        wrote = wrote.to(read)  # another device, a lower precision
        off, size = (
            (it if real is None else it * real.to(it)[..., None]).abs() for it in (wrote - read, wrote)
        )
        eps = torch.finfo(read.dtype).eps
        self._off.append((off.amax((1, 2)) > ROUNDINGS * eps * size.amax((1, 2))).any())

    def check(self) -> None:
        """Raise where something else was read than was written.

        Raises:
            RecordingError: it was.
        """
        if not self._off:
            return
        device = self._off[0].device
        found = torch.stack([it.to(device) for it in self._off])
        if bool(found.any()):
            raise RecordingError(
                "A layer of the encoder does not read what the one before it wrote: something acts in "
                "between, such as a hook of your own that patches activations, which rollout cannot follow. "
                "Take it off, or use TransformerDeepLift, which sees it."
            )
