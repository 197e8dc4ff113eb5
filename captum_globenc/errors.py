"""The exceptions and warnings of the package.

Every exception derives from :class:`CaptumGlobencError`, and most also from ValueError or RuntimeError. Wrong
arguments raise ValueError, TypeError and what Captum raises; a missing extra raises ImportError.
"""

from collections.abc import Collection
from difflib import get_close_matches

__all__ = [
    "CaptumGlobencError",
    "EngineError",
    "FileFormatError",
    "LoadingError",
    "NoLayersError",
    "NoPositionError",
    "PrecisionError",
    "PrecisionWarning",
    "ReconstructionError",
    "RecordingError",
    "UnsupportedModelError",
    "UnsupportedOperationError",
]


class CaptumGlobencError(Exception):
    """Base class of the package's exceptions."""


class UnsupportedModelError(CaptumGlobencError, ValueError):
    """The model has no encoder that can be decomposed, or several; the message says why.

    Raised by the constructors and methods of `GlobEnc` and `DecompX`, and by `find_encoder`.
    """


class UnsupportedOperationError(CaptumGlobencError, ValueError):
    """An operation of the model has no exact difference; the message names it.

    It has no rule, none for these arguments, or does something else at the baseline than at the input.
    Raised by `TransformerDeepLift`, `DecompX` and `captum_globenc.differences`.
    """


class NoLayersError(CaptumGlobencError, ValueError):
    """The model has no layers that pass on one sequence of tokens.

    Raised by `TransformerDeepLift.attribute_layers`.
    """


class NoPositionError(CaptumGlobencError, ValueError):
    """The model's head reads neither one token nor a known average; the message says what `position` to pass.

    Raised by the methods of `GlobEnc`.
    """


class RecordingError(CaptumGlobencError, RuntimeError):
    """A forward pass cannot be decomposed, whatever the text; the message says why.

    The encoder never ran or ran more than once, its attention was not recorded, or the decomposition of a
    layer does not sum to the layer's output. Raised by `GlobEnc`, `check_encoder` and `reconstruction_error`.
    """


class ReconstructionError(CaptumGlobencError, RuntimeError):
    """A check of the numbers failed.

    Contributions do not sum to the output's difference, or the recorded model's output differs from the
    model's own. Raised by `TransformerDeepLift` and `DecompX`.
    """


class PrecisionError(CaptumGlobencError, RuntimeError):
    """Contributions are dominated by rounding: their sum is off by more than the output's difference.

    Raised by `TransformerDeepLift`; the message says which baseline to use instead.
    """


class LoadingError(CaptumGlobencError):
    """A model cannot be loaded; the message says in one line which and why.

    Raised by `load_classifier`, `load_model`, `load_media_model` and the functions that take a model's name.
    """


class FileFormatError(CaptumGlobencError, ValueError):
    """A file does not hold explanations; the message names the line. Raised by `Explanations.load`."""


class EngineError(CaptumGlobencError):
    """The engine that attributes a data set, such as Ray, failed; the message says in one line what to do.

    Raised by `captum_globenc.datasets.attribute_files`.
    """


class PrecisionWarning(UserWarning):
    """Contributions are correct up to rounding, but large ones cancel; another baseline would say more."""


def check_names(
    what: str, names: Collection[object], known: Collection[str], error: type[Exception] = ValueError
) -> None:
    """Check that names are known; the message has the nearest known ones.

    Args:
        what: What the names are of, such as "method".
        names: One name or more.
        known: All known names.
        error: The type of the exception.

    Raises:
        ValueError: There is no name, or one is unknown.

    Example:
        >>> check_names("method", ["Glob_Enc"], ["globenc", "decompx"])
        Traceback (most recent call last):
        ValueError: no method Glob_Enc; known: globenc, decompx; did you mean globenc?
    """
    wrong = [str(name) for name in names if not (isinstance(name, str) and name in known)]
    if names and not wrong:
        return
    spelled = {name.lower(): name for name in known}
    found = [get_close_matches(name.lower().replace("_", "-"), spelled, n=1) for name in wrong]
    nearest = ", ".join(dict.fromkeys(spelled[name] for names in found for name in names))
    message = f"no {what} {', '.join(wrong) or 'is given'}; known: {', '.join(known)}"
    raise error(f"{message}; did you mean {nearest}?" if nearest else message)
