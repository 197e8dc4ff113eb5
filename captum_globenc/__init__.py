"""Token attribution for Hugging Face models, as Captum methods: GlobEnc and exact differences."""

from typing import TYPE_CHECKING, Any

from captum_globenc import errors
from captum_globenc.extras import installed_version, on_demand

if TYPE_CHECKING:
    __version__: str
    from captum_globenc.attr.decompx import DecompX
    from captum_globenc.attr.deep_lift import TransformerDeepLift
    from captum_globenc.attr.globenc import GlobEnc
    from captum_globenc.forward import Contrast, EncoderForward
    from captum_globenc.proofs.checks import check_encoder, reconstruction_error
    from captum_globenc.results.explanation import Explanation
    from captum_globenc.results.explanations import Explanations
    from captum_globenc.texts.explaining import explain

__all__ = [
    "Contrast",
    "DecompX",
    "EncoderForward",
    "Explanation",
    "Explanations",
    "GlobEnc",
    "TransformerDeepLift",
    "check_encoder",
    "errors",
    "explain",
    "reconstruction_error",
]

_public, __dir__ = on_demand(
    __name__,
    {
        "Contrast": "forward",
        "DecompX": "attr.decompx",
        "EncoderForward": "forward",
        "Explanation": "results.explanation",
        "Explanations": "results.explanations",
        "GlobEnc": "attr.globenc",
        "TransformerDeepLift": "attr.deep_lift",
        "check_encoder": "proofs.checks",
        "explain": "texts.explaining",
        "reconstruction_error": "proofs.checks",
    },
)


def __getattr__(name: str) -> Any:
    return installed_version() if name == "__version__" else _public(name)
