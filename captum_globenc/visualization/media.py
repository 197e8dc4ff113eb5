"""A figure of an explained image or sound."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from captum_globenc.media.explaining import MediaExplanation
from captum_globenc.visualization.records import visualize_image

__all__ = ["draw_media"]


def draw_media(explanation: MediaExplanation) -> Figure:
    """Draw an image next to what each method says of it, or a sound above that.

    Args:
        explanation: what `explain_file` made.

    Returns:
        A figure, which `savefig` writes.
    """
    inputs, scores = explanation.inputs[0], explanation.scores
    image = inputs.dim() == 3
    count = len(scores) + 1
    figure = Figure(figsize=(3.2 * count, 3.6) if image else (8, 1.8 * count), layout="constrained")
    first, *others = figure.subplots(1, count) if image else figure.subplots(count, 1)
    if image:
        low, high = inputs.min(), inputs.max()
        first.imshow(((inputs - low) / (high - low).clamp(min=1e-12)).permute(1, 2, 0).numpy())
        first.axis("off")
    else:
        _draw_sound(first, inputs.numpy(), None)
    first.set_title(explanation.headline, loc="left", fontsize=9)
    for ax, (name, made) in zip(others, scores.items(), strict=True):
        if image:
            visualize_image(made, explanation.inputs, ax=ax)
        else:
            _draw_sound(ax, inputs.numpy(), made[0].numpy())
        ax.set_title(name, loc="left", fontsize=9)
    return figure


def _draw_sound(ax: Axes, inputs: NDArray[Any], scores: NDArray[Any] | None) -> None:
    """Draw samples as a line, features as a heat map; where there are scores, these, over faint samples."""
    ax.margins(x=0)
    if inputs.ndim == 1:
        ax.plot(inputs, linewidth=0.5, color="0.7" if scores is not None else "#0b5fa5")
        if scores is not None:
            summed = ax.twinx()
            summed.fill_between(np.arange(len(scores)), scores, color="#b84a00", linewidth=0)
            summed.set_ylabel("score", fontsize=8)
        return
    shown = inputs if scores is None else scores
    shown = shown if shown.shape[0] < shown.shape[1] else shown.T  # frames from left to right
    largest = float(np.abs(shown).max()) or 1.0
    limits: dict[str, Any] = {} if scores is None else {"vmin": -largest, "vmax": largest, "cmap": "PuOr_r"}
    ax.imshow(shown, aspect="auto", origin="lower", interpolation="nearest", **limits)
