"""What a model took of an image or a sound, as a picture that a page can hold.

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

LARGEST = 512
"""Pixels of the longer side of an image, at most."""

COURSE = (800, 100)
"""Pixels of the picture of a sound: its width and height."""

INK = 128
"""How bright the course of a sound is: it is seen on white as on black."""


def draw_pixels(
    pixels: NDArray[Any], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> str:
    """Draw an image as it looked before its processor normalised it.

    Args:
        pixels: `(C, H, W)`, of 1 or 3 channels.
        mean: What the processor took from each channel, of values from 0 to 1.
        std: What it divided them by. Left out, values are spread from the least to the largest.

    Returns:
        The data URL of a JPEG.
    """
    channels = pixels.astype(np.float64)
    if mean is not None and std is not None:
        channels = channels * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    else:
        channels = _spread(channels)
    levels = _levels(channels.transpose(1, 2, 0))
    image = _image(levels[..., 0] if len(pixels) == 1 else levels)
    image.thumbnail((LARGEST, LARGEST))
    return _url(image, "jpeg", quality=85)


def draw_samples(samples: NDArray[Any]) -> str:
    """Draw the course of a sound, from left to right: of every stretch the least and the largest sample.

    Args:
        samples: `(T,)`.

    Returns:
        The data URL of a PNG, without a ground.
    """
    width, height = COURSE
    largest = float(np.abs(samples).max()) or 1.0
    scaled = samples.astype(np.float64) / largest * (height / 2 - 1)
    ends = np.linspace(0, len(samples), width + 1).astype(int)
    parts = [scaled[start : max(stop, start + 1)] for start, stop in pairwise(ends)]
    upper, lower = (np.array([pick(part) for part in parts]) for pick in (np.max, np.min))
    rows = (height / 2 - 0.5 - np.arange(height))[:, None]
    inked = (rows <= upper + 0.5) & (rows >= lower - 0.5)
    grey = np.full((height, width), INK)
    return _url(_image(np.stack([grey, inked * 255], axis=-1).astype(np.uint8)), "png")


def draw_features(features: NDArray[Any]) -> str:
    """Draw features of a sound, such as its spectrogram: frames from left to right, the first feature below.

    Args:
        features: `(F, T)`.

    Returns:
        The data URL of a JPEG.
    """
    image = _image(_levels(_spread(features.astype(np.float64)))[::-1])
    return _url(image.resize(COURSE), "jpeg", quality=75)


def _spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    spread: NDArray[np.float64] = (values - low) / ((high - low) or 1.0)
    return spread


def _levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _image(levels: NDArray[np.uint8]) -> Any:
    from PIL import Image  # waits, as matplotlib does

    return Image.fromarray(np.ascontiguousarray(levels))


def _url(image: Any, kind: str, **options: int) -> str:
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
