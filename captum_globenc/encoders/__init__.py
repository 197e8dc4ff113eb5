"""How each family of encoders names its parts: data, not code."""

from captum_globenc.encoders.refused import UnsupportedEncoderError
from captum_globenc.encoders.registry import register_encoder, registered_specs, supported_encoders
from captum_globenc.encoders.search import Encoder, Layer, find_encoder
from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.text import BERT

__all__ = [
    "BERT",
    "Encoder",
    "EncoderSpec",
    "Head",
    "Layer",
    "Pooled",
    "UnsupportedEncoderError",
    "find_encoder",
    "register_encoder",
    "registered_specs",
    "supported_encoders",
]
