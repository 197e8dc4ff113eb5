"""Draw the inputs of a model, an image or a sound, as data URLs.

Shapes: C channels, H, W pixels; T samples or frames, F features of a frame.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_features", "draw_pixels", "draw_samples"]

MAX_SIDE = 512
"""The largest side of an image, in pixels."""

SOUND_SIZE = (800, 100)
"""Width and height of the picture of a sound, in pixels."""

GRAY = 128
"""The gray level of a waveform, visible on white and on black."""


def draw_pixels(
    pixels: NDArray[Any], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> str:
    """Draw an image as it was before the processor normalized it.

    Args:
        pixels: `(C, H, W)`, with 1 or 3 channels.
        mean: The mean of each channel in the processor, for values in [0, 1].
        std: The standard deviation of each channel. By default values are rescaled to their range.

    Returns:
        The data URL of a JPEG.
    """
    channels = pixels.astype(np.float64)
    if mean is not None and std is not None:
        channels = channels * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    else:
        channels = _rescaled(channels)
    levels = _levels(channels.transpose(1, 2, 0))
    image = _image(levels[..., 0] if len(pixels) == 1 else levels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return _url(image, "jpeg", quality=85)


def draw_samples(samples: NDArray[Any]) -> str:
    """Draw the waveform of a sound: the range of the samples in each column of pixels.

    Args:
        samples: `(T,)`.

    Returns:
        The data URL of a PNG with a transparent background.
    """
    width, height = SOUND_SIZE
    largest = float(np.abs(samples).max()) or 1.0
    scaled = samples.astype(np.float64) / largest * (height / 2 - 1)
    ends = np.linspace(0, len(samples), width + 1).astype(int)
    parts = [scaled[start : max(stop, start + 1)] for start, stop in pairwise(ends)]
    upper, lower = (np.array([pick(part) for part in parts]) for pick in (np.max, np.min))
    rows = (height / 2 - 0.5 - np.arange(height))[:, None]
    drawn = (rows <= upper + 0.5) & (rows >= lower - 0.5)
    gray = np.full((height, width), GRAY)
    return _url(_image(np.stack([gray, drawn * 255], axis=-1).astype(np.uint8)), "png")


def draw_features(features: NDArray[Any]) -> str:
    """Draw features of a sound, such as a spectrogram, with time from left to right.

    Args:
        features: `(F, T)`; the first feature is at the bottom.

    Returns:
        The data URL of a JPEG.
    """
    image = _image(_levels(_rescaled(features.astype(np.float64)))[::-1])
    return _url(image.resize(SOUND_SIZE), "jpeg", quality=75)


def _rescaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    rescaled: NDArray[np.float64] = (values - low) / ((high - low) or 1.0)
    return rescaled


def _levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _image(levels: NDArray[np.uint8]) -> Any:
    from PIL import Image  # imported on demand, as matplotlib is

    return Image.fromarray(np.ascontiguousarray(levels))


def _url(image: Any, kind: str, **options: int) -> str:
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
