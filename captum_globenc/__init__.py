"""GlobEnc token attribution for Hugging Face encoders, as a Captum method."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captum_globenc.attribution import GlobEnc
    from captum_globenc.checks import check_encoder
    from captum_globenc.forward import EncoderForward
    from captum_globenc.reconstruction import reconstruction_error

__all__ = ["EncoderForward", "GlobEnc", "check_encoder", "reconstruction_error"]

_HOMES = {
    "EncoderForward": "forward",
    "GlobEnc": "attribution",
    "check_encoder": "checks",
    "reconstruction_error": "reconstruction",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: torch and transformers take seconds, `--help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
