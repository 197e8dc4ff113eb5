"""Audio encoders."""

from dataclasses import replace
from typing import Any

from torch import nn

from captum_globenc.encoders.spec import EncoderSpec, Head, Pooled
from captum_globenc.encoders.tokens import Axis, Grid
from captum_globenc.encoders.vision import VIT


def _samples(config: Any) -> Grid:
    """Return the layout of frames on raw sound, `(B, T)`."""
    return Grid(ndim=2, axes=(Axis.of_convolutions(1, config.conv_kernel, config.conv_stride),))


def _mel_frames(config: Any) -> Grid:
    """Return the layout of tokens on Whisper's input, `(B, mel, frames)`, after two convolutions."""
    axis = Axis.of_convolutions(2, kernels=(3, 3), strides=(1, 2), paddings=(1, 1))
    return Grid(ndim=3, axes=(axis,))


def _spectrogram_patches(config: Any) -> Grid:
    """Return the layout of patches on `(B, frames, mel)`: all of the first mel row, then the next."""
    axes = (
        Axis(2, kernel=config.patch_size, stride=config.frequency_stride),
        Axis(1, kernel=config.patch_size, stride=config.time_stride),
    )
    return Grid(ndim=3, axes=axes, special=2)


def _mean(config: Any) -> Pooled:
    """Return "mean"; None if the head averages over all layers, not only over the last."""
    return None if config.use_weighted_layer_sum else "mean"


def _stable(spec: EncoderSpec, stack: nn.Module) -> EncoderSpec:
    """Return the spec of the variant whose norms come first."""
    config: Any = stack.config
    if not config.do_stable_layer_norm:
        return spec
    return replace(spec, order="pre-LN", final_norm="encoder.layer_norm")


WAV2VEC2 = EncoderSpec(
    model_type="wav2vec2",
    layers="encoder.layers.*",
    attention="attention",
    out="attention.out_proj",
    norm1="layer_norm",
    norm2="final_layer_norm",
    modality="audio",
    pooled=_mean,
    heads={"Wav2Vec2ForXVector": Head()},
    tokens=_samples,
    adapt=_stable,
)

HUBERT = replace(WAV2VEC2, model_type="hubert", heads={})

WHISPER = EncoderSpec(
    model_type="whisper",
    layers="layers.*",
    attention="self_attn",
    out="self_attn.out_proj",
    norm1="self_attn_layer_norm",
    norm2="final_layer_norm",
    order="pre-LN",
    final_norm="layer_norm",
    modality="audio",
    stack="WhisperEncoder",
    pooled=_mean,
    # A decoder reads every token of the encoder.
    heads={"WhisperModel": Head(), "WhisperForConditionalGeneration": Head()},
    tokens=_mel_frames,
)

AUDIO_SPECTROGRAM_TRANSFORMER = replace(
    VIT,
    model_type="audio-spectrogram-transformer",
    modality="audio",
    pooled=lambda config: (0, 1),
    tokens=_spectrogram_patches,
)

AUDIO_ENCODERS = (WAV2VEC2, HUBERT, WHISPER, AUDIO_SPECTROGRAM_TRANSFORMER)
