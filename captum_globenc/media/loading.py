"""Load classifiers of images and sounds with their processors, and read the files that they take.

Shapes: T samples.
"""

from __future__ import annotations

import os
import wave
from os import PathLike
from typing import Any, Literal, NamedTuple

import numpy as np
import transformers
from numpy.typing import NDArray

from captum_globenc.texts.loading import LoadingError, in_one_line

__all__ = ["Kind", "MediaModel", "load_media_model", "read_image", "read_sound"]

Kind = Literal["image", "sound"]

AUTO: dict[Kind, tuple[str, str]] = {
    "image": ("AutoModelForImageClassification", "AutoImageProcessor"),
    "sound": ("AutoModelForAudioClassification", "AutoFeatureExtractor"),
}
"""The auto classes of transformers for a model and its processor."""

FULL_SCALE = {1: 128.0, 2: 32768.0, 4: 2147483648.0}
"""The full scale of samples, by bytes per sample."""


STREAMED = 0x7FFF0000
"""The least size of the samples, in bytes, that programs write if they do not know the size."""


class MediaModel(NamedTuple):
    """A classifier in eval mode, its processor, and the names of weights that its files lack."""

    model: transformers.PreTrainedModel
    processor: Any
    missing: tuple[str, ...] = ()


def load_media_model(name: str, kind: Kind) -> MediaModel:
    """Load a classifier and its processor, without running remote code.

    Args:
        name: a folder or a name on the Hugging Face hub.
        kind: "image" or "sound".

    Raises:
        LoadingError: the model cannot be loaded; the message has the reason in one line.
    """
    model, processor = (getattr(transformers, it) for it in AUTO[kind])
    try:
        found, report = model.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
        made = processor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # files of others may raise anything
        where = "" if os.path.isdir(name) else "no such folder, and from the hub: "
        raise LoadingError(f"cannot load {name}: {where}{in_one_line(error)}") from error
    return MediaModel(found, made, tuple(sorted(report["missing_keys"])))


def read_image(path: str | PathLike[str]) -> Any:
    """Read an image as RGB.

    Args:
        path: a file in any format that Pillow reads.

    Returns:
        A `PIL.Image.Image`, rotated by its EXIF orientation; the first image of an animation.

    Raises:
        ValueError: the file is not an image, has pixels of 32 bits, or more pixels than Pillow allows.
        OSError: the file cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # imported on demand, as matplotlib is

    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG"):
                # Pillow clips 16 bits to 8.
                turned = Image.fromarray((np.asarray(turned) >> 8).astype("u1"))
            elif image.mode in ("I", "F"):
                raise ValueError(
                    f"{path} has pixels of 32 bits, whose range is unknown: save it with 8 or 16"
                )
            return turned.convert("RGB")
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that Pillow reads") from error


def read_sound(path: str | PathLike[str], rate: int) -> NDArray[np.float32]:
    """Read a sound, averaged over its channels.

    Args:
        path: a WAV file with integer samples (PCM).
        rate: the sampling rate of the model, in samples per second.

    Returns:
        Samples `(T,)` in [-1, 1].

    Raises:
        ValueError: the file is not such a WAV file, is empty or incomplete, or has another sampling rate.
        OSError: the file cannot be read.
    """
    convert = f"ffmpeg -i {path} -ar {rate} OUT.wav"
    try:
        with wave.open(str(path), "rb") as sound:
            channels, width, found, count = sound.getparams()[:4]
            content = sound.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} is not a WAV file of integers (PCM): {convert}") from error
    if found != rate:
        raise ValueError(f"{path} has {found} samples a second, and the model takes {rate}: {convert}")
    if width not in FULL_SCALE:
        raise ValueError(f"{path} has samples of {width} bytes, not of 1, 2 or 4: {convert}")
    size = width * channels
    if len(content) < count * size < STREAMED:
        raise ValueError(f"{path} is incomplete: it has {len(content) // size} of {count} samples")
    content = content[: len(content) // size * size]
    if not content:
        raise ValueError(f"{path} has no samples")
    # Samples of one byte are unsigned.
    samples = np.frombuffer(content, dtype="u1" if width == 1 else f"<i{width}").astype(np.float64)
    samples = (samples - (128 if width == 1 else 0)) / FULL_SCALE[width]
    made: NDArray[np.float32] = samples.reshape(-1, channels).mean(1).astype(np.float32)
    return made
