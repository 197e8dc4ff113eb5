"""How each family of encoders names its parts: data, not code."""

from captum_globenc.encoders.registry import (
    Encoder,
    find_encoder,
    register_encoder,
    supported_encoders,
)
from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.text import BERT

__all__ = [
    "BERT",
    "Encoder",
    "EncoderSpec",
    "Head",
    "Pooled",
    "find_encoder",
    "register_encoder",
    "supported_encoders",
]
