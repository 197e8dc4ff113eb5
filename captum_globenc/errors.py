"""Exceptions and warnings of the package, each also a built-in one: ValueError, RuntimeError, UserWarning."""

__all__ = [
    "CaptumGlobencError",
    "PrecisionError",
    "PrecisionWarning",
    "ReconstructionError",
    "UnsupportedOperationError",
]


class CaptumGlobencError(Exception):
    """Base class of the package's exceptions."""


class UnsupportedOperationError(CaptumGlobencError, ValueError):
    """An operation of the model has no exact difference; the message names it.

    It has no rule, none for these arguments, or does something else at the baseline than at the input.
    """


class ReconstructionError(CaptumGlobencError, RuntimeError):
    """A check of the numbers failed.

    Contributions do not sum to the output's difference, or the recorded model's output is not its own.
    """


class PrecisionError(CaptumGlobencError, RuntimeError):
    """Contributions are dominated by rounding: their sum is off by more than the output's difference."""


class PrecisionWarning(UserWarning):
    """Contributions are correct up to rounding, but large ones cancel; another baseline would say more."""
