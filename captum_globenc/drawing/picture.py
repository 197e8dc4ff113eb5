"""A picture of an image or a sound, divided into parts: plain data, and its HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["PARTS", "Picture", "behind", "lay_on", "unshaded"]

PARTS = {"image": ("square", "squares"), "sound": ("stretch", "stretches")}
"""Singular and plural noun for the parts, by kind of picture."""

SOURCE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Picture:
    """A picture of an image or a sound, and the grid of its parts, row by row.

    Attributes:
        kind: "image" or "sound".
        widths: The widths of the columns, in pixels, samples or frames.
        heights: The heights of the rows, in pixels; `[1]` for a sound.
        source: The picture, as the data URL of a PNG or JPEG; for a sound, its waveform.

    Raises:
        ValueError: The kind is unknown, there are no parts, or `source` is not a data URL.

    Example:
        >>> Picture("image", [16, 16], [16], "data:image/png;base64,iVBORw0KGgo=").count
        2
    """

    kind: Literal["image", "sound"]
    widths: list[int]
    heights: list[int]
    source: str

    def __post_init__(self) -> None:
        if self.kind not in PARTS:
            raise ValueError(f"a picture is of the kind {' or '.join(PARTS)}, not {self.kind!r}")
        if not self.widths or not self.heights or min(*self.widths, *self.heights) < 1:
            raise ValueError("the parts of a picture have a width and a height")
        if not SOURCE.fullmatch(self.source):
            # Pages must not load pictures from elsewhere.
            raise ValueError("the source of a picture is the data URL of a PNG or JPEG")

    @property
    def count(self) -> int:
        """The number of parts."""
        return len(self.widths) * len(self.heights)

    @property
    def shape(self) -> str:
        """The aspect ratio, in CSS syntax."""
        return f"{sum(self.widths)} / {sum(self.heights)}"


def behind(picture: Picture | None) -> str:
    """Return the style attribute that makes the picture available within an element, or ""."""
    return "" if picture is None else f' style="--picture: url({escape(picture.source)})"'


def unshaded(picture: Picture | None) -> str:
    """Return HTML of the image in its own colors, because shades are drawn over a gray one; "" for a sound.

    Example:
        >>> unshaded(Picture("image", [16, 16], [16], "data:image/png;base64,AA=="))
        '<div class="picture image" role="img" aria-label="Image" style="--shape: 32 / 16"></div>'
    """
    if picture is None or picture.kind != "image":
        return ""
    return f'<div class="picture image" role="img" aria-label="Image" style="--shape: {picture.shape}"></div>'


def lay_on(picture: Picture, parts: Iterable[str]) -> str:
    """Return HTML of the picture with elements over its parts, row by row."""
    grid = " / ".join(" ".join(f"{size}fr" for size in sizes) for sizes in (picture.heights, picture.widths))
    return (
        f'<div class="tokens picture {picture.kind}" role="group" aria-label="{picture.kind.capitalize()}" '
        f'style="grid: {grid}; --shape: {picture.shape}">{"".join(parts)}</div>'
    )
