"""Text encoders."""

from dataclasses import replace

from captum_globenc.encoders.spec import EncoderSpec

BERT = EncoderSpec(
    model_type="bert",
    layers="encoder.layer.*",
    attention="attention.self",
    out="attention.output.dense",
    norm1="attention.output.LayerNorm",
    norm2="output.LayerNorm",
)

TEXT_ENCODERS = (
    BERT,
    replace(BERT, model_type="electra"),
)
