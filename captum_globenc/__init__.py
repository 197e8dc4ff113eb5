"""GlobEnc token attribution for Hugging Face encoders, as a Captum method."""

from captum_globenc.attribution import GlobEnc
from captum_globenc.forward import EncoderForward
from captum_globenc.reconstruction import reconstruction_error

__all__ = ["EncoderForward", "GlobEnc", "reconstruction_error"]
