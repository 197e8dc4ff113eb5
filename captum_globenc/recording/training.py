"""Whether a model drops at random, which makes scores explain one random pass."""

import warnings

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from captum_globenc.encoders.walk import every

DROPOUT_RATES = (
    "dropout",
    "dropout_prob",
    "attention_dropout",
    "activation_dropout",
    "drop_prob",
    "layerdrop",
)
"""The attributes that modules of transformers keep a rate under which they hand to a function."""


def drops_at_random(module: nn.Module) -> bool:
    """Whether a module is in training mode and drops something, itself or through torch's functions."""
    if not module.training:
        return False
    rates = [module.p] if isinstance(module, _DropoutNd) else map(vars(module).get, DROPOUT_RATES)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def refuse_dropout(model: nn.Module) -> None:
    """Refuse a model any module of which drops at random.

    Raises:
        ValueError: one does.
    """
    if any(map(drops_at_random, every(model))):
        raise ValueError("the model is in training mode, and drops at random: call model.eval() first")


def warn_of_dropout(stack: nn.Module) -> bool:
    """Warn where any module of `stack` drops at random, and tell whether one does."""
    drops = any(map(drops_at_random, every(stack)))
    if drops:
        warnings.warn(
            "The model is in training mode and its dropout is active: scores explain one random pass. "
            "Call model.eval() first.",
            UserWarning,
            stacklevel=2,
        )
    return drops
