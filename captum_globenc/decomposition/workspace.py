"""Where and how the engine computes: in memory that tiles share, at full precision."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor


@contextmanager
def full_precision(like: Tensor) -> Iterator[None]:
    """Compute without gradients, and without the caller's autocast, which would lower the precision.

    Args:
        like: lies on the device that is computed on.
    """
    device = like.device.type
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if torch.amp.is_autocast_available(device):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


class Workspace:
    """Memory that the tiles of all layers share.

    The pages of a fresh tensor of a few megabytes cost about as much time as what is computed in it.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Return a tensor with whatever it holds, valid until `name` is taken again.

        Args:
            name: which piece of memory.
            shape: of the tensor.
            like: has the dtype and the device that are wanted.
        """
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if (
            buffer is None
            or buffer.numel() < size
            or (buffer.dtype, buffer.device) != (like.dtype, like.device)
        ):
            buffer = self._buffers[name] = like.new_empty(size)
        return buffer[:size].view(*shape)
