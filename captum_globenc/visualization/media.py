"""A figure of an explained image or sound."""

from __future__ import annotations

import base64
import io
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from captum_globenc.drawing.numbers import SHARE
from captum_globenc.results.record import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_media"]


def draw_media(explanation: Record) -> Figure:
    """Draw an image or a sound, and the scores of its parts by each method.

    Args:
        explanation: The explanation of an image or a sound, from `captum_globenc.media.explain_file` or
            loaded from a file.

    Returns:
        The figure, created without pyplot; `savefig` saves it.

    Raises:
        ValueError: The explanation is of a text.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    picture = explanation.picture
    if picture is None:
        raise ValueError("this is the explanation of a text: there is no image or sound to draw")
    content = base64.b64decode(picture.source.partition(",")[2])
    pixels = Image.open(io.BytesIO(content))
    count, image = len(explanation.scores) + 1, picture.kind == "image"
    figure = Figure(figsize=(3.2 * count, 3.6) if image else (8, 1.8 * count), layout="constrained")
    first, *others = figure.subplots(1, count) if image else figure.subplots(count, 1)
    right, lower = ([0, *accumulate(sizes)] for sizes in (picture.widths, picture.heights))
    for ax in (first, *others):
        shown = np.asarray((pixels if ax is first else pixels.convert("LA")).convert("RGBA"))
        ax.imshow(shown, extent=(0, right[-1], lower[-1], 0), aspect="equal" if image else "auto")
        ax.axis("off")
    first.set_title(explanation.heading.replace("$", r"\$"), loc="left", fontsize=9)
    for ax, (name, row) in zip(others, explanation.scores.items(), strict=True):
        grid = np.reshape(row[: picture.count], (len(picture.heights), len(picture.widths)))
        largest = float(np.abs(grid).max()) or 1.0
        shares = explanation.units[name] == SHARE
        ax.pcolormesh(
            right, lower, grid, alpha=0.65, cmap="Purples" if shares else "PuOr_r",
            vmin=0 if shares else -largest, vmax=largest,
        )  # fmt: skip
        ax.set_title(name, loc="left", fontsize=9)
    return figure
