"""Encoder families as data: the names of their parts, and the search for an encoder in a model."""

from captum_globenc.encoders.registry import register_encoder, registered_specs, supported_encoders
from captum_globenc.encoders.search import Encoder, Layer, find_encoder
from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.text import BERT
from captum_globenc.errors import UnsupportedModelError

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

UnsupportedEncoderError = UnsupportedModelError
"""The earlier name."""
