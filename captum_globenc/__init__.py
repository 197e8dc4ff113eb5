"""Token attribution for Hugging Face models, as Captum methods: GlobEnc and exact differences."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.attr.decompx import DecompX
    from captum_globenc.attr.deep_lift import TransformerDeepLift
    from captum_globenc.attr.globenc import GlobEnc
    from captum_globenc.forward import Contrast, EncoderForward
    from captum_globenc.proofs.checks import check_encoder
    from captum_globenc.proofs.reconstruction import reconstruction_error

__all__ = [
    "Contrast",
    "DecompX",
    "EncoderForward",
    "GlobEnc",
    "TransformerDeepLift",
    "check_encoder",
    "reconstruction_error",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Contrast": "forward",
        "DecompX": "attr.decompx",
        "EncoderForward": "forward",
        "GlobEnc": "attr.globenc",
        "TransformerDeepLift": "attr.deep_lift",
        "check_encoder": "proofs.checks",
        "reconstruction_error": "proofs.reconstruction",
    },
)
