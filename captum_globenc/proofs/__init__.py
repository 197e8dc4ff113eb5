"""Check the numbers: identities that a right decomposition satisfies, and gradients."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.proofs.checks import EncoderReport, check_encoder, reconstruction_error
    from captum_globenc.proofs.hidden import hidden_token_attribution

__all__ = ["EncoderReport", "check_encoder", "hidden_token_attribution", "reconstruction_error"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "EncoderReport": "checks",
        "check_encoder": "checks",
        "hidden_token_attribution": "hidden",
        "reconstruction_error": "checks",
    },
)
