"""A picture, an image or the course of a sound, cut into parts: plain data, and how it is drawn in HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Literal

__all__ = ["PARTS", "Picture", "behind", "lay_on", "unshaded"]

PARTS = {"image": ("square", "squares"), "sound": ("stretch", "stretches")}
"""What one part is called, and several, by the kind of what is cut."""

SOURCE = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Picture:
    """An image or a sound as it is shown, and the parts that it is cut into: beside each other, row by row.

    Attributes:
        kind: "image" or "sound".
        widths: Those of the columns of parts: pixels, samples or frames.
        heights: Those of their rows: pixels; of a sound a single 1.
        source: What is shown, as the data URL of a PNG or JPEG; of a sound, its course from left to right.

    Raises:
        ValueError: It is of another kind, has no parts, or shows what does not lie in it.

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
            # A page shows it, and asks for nothing that lies elsewhere.
            raise ValueError("the source of a picture is the data URL of a PNG or JPEG")

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.widths) * len(self.heights)

    @property
    def shape(self) -> str:
        """Its proportions, as CSS has them."""
        return f"{sum(self.widths)} / {sum(self.heights)}"


def behind(picture: Picture | None) -> str:
    """Return the attribute by which an element holds the picture, once, for all that show it within."""
    return "" if picture is None else f' style="--picture: url({escape(picture.source)})"'


def unshaded(picture: Picture | None) -> str:
    """Draw an image as it is, as shades lie over a grey one; nothing of a sound.

    Example:
        >>> unshaded(Picture("image", [16, 16], [16], "data:image/png;base64,AA=="))
        '<div class="picture image" role="img" aria-label="Image" style="--shape: 32 / 16"></div>'
    """
    if picture is None or picture.kind != "image":
        return ""
    return f'<div class="picture image" role="img" aria-label="Image" style="--shape: {picture.shape}"></div>'


def lay_on(picture: Picture, parts: Iterable[str]) -> str:
    """Draw parts on the picture: elements, row by row."""
    grid = " / ".join(" ".join(f"{size}fr" for size in sizes) for sizes in (picture.heights, picture.widths))
    return (
        f'<div class="tokens picture {picture.kind}" role="group" aria-label="{picture.kind.capitalize()}" '
        f'style="grid: {grid}; --shape: {picture.shape}">{"".join(parts)}</div>'
    )
