"""The output that is explained, as Captum selects it.

B batch.
"""

from typing import cast

import torch
from captum._utils.common import _select_targets
from captum._utils.typing import TargetType
from torch import Tensor

__all__ = ["selected"]


def selected(output: Tensor, target: TargetType) -> Tensor:
    """Return the output that a target chooses, with its graph even where gradients are off.

    Args:
        output: of a forward function.
        target: as for every Captum method.

    Returns:
        `(B,)`.

    Raises:
        AssertionError, IndexError: `target` is needed, has the wrong length or is out of range, as Captum
            raises it.
    """
    with torch.inference_mode(False), torch.enable_grad():
        chosen = cast(Tensor, _select_targets(output, target))
        if not chosen.dim() or chosen[0].numel() != 1:
            raise AssertionError(
                "Target not provided when necessary, cannot explain several outputs at once."
            )
        return chosen.reshape(len(chosen))
