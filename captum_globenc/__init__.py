"""GlobEnc token attribution for Hugging Face encoders, as a Captum method."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.attr.globenc import GlobEnc
    from captum_globenc.forward import EncoderForward
    from captum_globenc.proofs.checks import check_encoder
    from captum_globenc.proofs.reconstruction import reconstruction_error

__all__ = ["EncoderForward", "GlobEnc", "check_encoder", "reconstruction_error"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "EncoderForward": "forward",
        "GlobEnc": "attr.globenc",
        "check_encoder": "proofs.checks",
        "reconstruction_error": "proofs.reconstruction",
    },
)
