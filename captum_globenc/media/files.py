"""Images and sounds from files, as processors of transformers take them.

Shapes: T samples.
"""

from __future__ import annotations

import wave
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read_image", "read_sound"]

LARGEST = {1: 128.0, 2: 32768.0, 4: 2147483648.0}
"""What samples of so many bytes are divided by."""


def read_image(path: str | PathLike[str]) -> Any:
    """Read an image, in colour.

    Args:
        path: a file of any kind that Pillow reads.

    Returns:
        A `PIL.Image.Image`, turned as its camera says.

    Raises:
        ValueError: the file is no image.
        OSError: it cannot be read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # waits, as matplotlib does

    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is no image that Pillow reads") from error


def read_sound(path: str | PathLike[str], rate: int) -> NDArray[np.float32]:
    """Read a sound, its channels averaged.

    Args:
        path: a WAV file of whole numbers (PCM).
        rate: how many samples a second the model takes.

    Returns:
        `(T,)`, from -1 to 1.

    Raises:
        ValueError: the file is no such WAV file, holds nothing, or has another rate.
        OSError: it cannot be read.
    """
    try:
        with wave.open(str(path), "rb") as sound:
            channels, width, found, count = sound.getparams()[:4]
            content = sound.readframes(count)
    except (wave.Error, EOFError) as error:
        raise ValueError(
            f"{path} is no WAV file of whole numbers (PCM): ffmpeg -i FILE -ar {rate} {path}"
        ) from error
    if found != rate:
        raise ValueError(
            f"{path} has {found} samples a second, and the model takes {rate}: ffmpeg -i FILE -ar {rate} OUT"
        )
    if width not in LARGEST or not content:
        raise ValueError(f"{path} holds no samples of 1, 2 or 4 bytes")
    # Samples of one byte are the only ones without a sign.
    samples = np.frombuffer(content, dtype="u1" if width == 1 else f"<i{width}").astype(np.float64)
    samples = (samples - (128 if width == 1 else 0)) / LARGEST[width]
    made: NDArray[np.float32] = samples.reshape(-1, channels).mean(1).astype(np.float32)
    return made
