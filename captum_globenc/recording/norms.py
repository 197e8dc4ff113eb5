"""Whether the norms of an encoder return what its family's do: for one token of each text, in every pass.

Only norms that somebody could have made something else of are looked at. B batch, N tokens, D hidden size.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module

from captum_globenc.errors import RecordingError
from captum_globenc.recording.adding_up import ALLOWED
from captum_globenc.recording.linear import linearized_norm

__all__ = ["NormCheck"]


class NormCheck:
    """What norms returned, held against the linear map that they are taken for.

    Args:
        norms: of the encoder.
        centred: whether they are taken to take off the mean.
    """

    def __init__(self, norms: Iterable[nn.Module], centred: bool) -> None:
        self._centred = centred
        self._off: list[Tensor] = []
        self.doubtful: Sequence[nn.Module] = [
            norm for norm in {id(it): it for it in norms}.values() if _in_doubt(norm, centred)
        ]

    def see(self, norm: nn.Module, args: Any, output: Tensor) -> None:
        """Measure one of the doubtful norms, as a forward hook does."""
        seen, made = (it[:, :1] if it.ndim == 3 else it for it in (args[0], output))
        whole = seen.to(torch.promote_types(seen.dtype, torch.float32))
        for reading in linearized_norm(norm, whole, self._centred):
            expected = reading.linear(whole) * reading.scale[..., None]
            bias: Any = getattr(norm, "bias", None)
            off = made - (expected if bias is None else expected + bias)
            # Many norms are in single precision in any model.
            allowed = max(ALLOWED.get(it, 0.0) for it in (torch.float32, seen.dtype, made.dtype))
            self._off.append(off.abs().max() > allowed * made.abs().max())

    def check(self) -> None:
        """Raise where a norm returned something else.

        Raises:
            RecordingError: one did.
        """
        if self._off and bool(torch.stack([it.to(self._off[0].device) for it in self._off]).any()):
            raise RecordingError(
                "A norm of the encoder does not return what the norms of its family do: it was replaced, or "
                "something acts on it, such as a hook of your own. Take it off, or write a spec for such an "
                "encoder, see captum_globenc.check_encoder."
            )


def _in_doubt(norm: nn.Module, centred: bool) -> bool:
    """Whether a norm is not plainly torch's own, or something may act on what it returns."""
    kind = nn.LayerNorm if centred else nn.RMSNorm
    acted_on = norm._forward_hooks or every_module._global_forward_hooks or "forward" in vars(norm)
    return not isinstance(norm, nn.Identity) and (type(norm) is not kind or bool(acted_on))
