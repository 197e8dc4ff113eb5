"""What shows that numbers are right: identities that hold where a decomposition does, and gradients."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.proofs.checks import EncoderReport, check_encoder
    from captum_globenc.proofs.hidden import hidden_token_attribution
    from captum_globenc.proofs.reconstruction import reconstruction_error

__all__ = ["EncoderReport", "check_encoder", "hidden_token_attribution", "reconstruction_error"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "EncoderReport": "checks",
        "check_encoder": "checks",
        "hidden_token_attribution": "hidden",
        "reconstruction_error": "reconstruction",
    },
)
