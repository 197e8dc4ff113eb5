"""Reject or warn about models with active dropout: their scores would explain one random pass."""

import warnings

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from captum_globenc.encoders.search import submodules

DROPOUT_RATES = (
    "dropout",
    "dropout_prob",
    "attention_dropout",
    "activation_dropout",
    "drop_prob",
    "layerdrop",
)
"""Attributes in which modules of transformers keep the rate that they pass to a dropout function."""


def has_active_dropout(module: nn.Module) -> bool:
    """Whether a module is in training mode and drops values, itself or through torch's functions."""
    if not module.training:
        return False
    rates = [module.p] if isinstance(module, _DropoutNd) else map(vars(module).get, DROPOUT_RATES)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def reject_dropout(model: nn.Module) -> None:
    """Reject a model with active dropout.

    Raises:
        ValueError: a module drops at random.
    """
    if any(map(has_active_dropout, submodules(model))):
        raise ValueError("the model is in training mode, and its dropout is active: call model.eval() first")


def warn_of_dropout(stack: nn.Module) -> bool:
    """Warn if a module of `stack` has active dropout, and return whether one does."""
    drops = any(map(has_active_dropout, submodules(stack)))
    if drops:
        warnings.warn(
            "The model is in training mode and its dropout is active: scores explain one random pass. "
            "Call model.eval() first.",
            UserWarning,
            stacklevel=2,
        )
    return drops
