"""Visualization of attributions: records for Captum's ``visualize_text``, images, pages and figures."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.drawing.document import html_page
    from captum_globenc.drawing.numbers import strengths
    from captum_globenc.visualization.figures import (
        draw_media,
        plot_comparison,
        plot_explanation,
        plot_layers,
        plot_mixing,
        plot_pairs,
        plot_words,
    )
    from captum_globenc.visualization.records import visualization_records, visualize_image

__all__ = [
    "draw_media",
    "html_page",
    "plot_comparison",
    "plot_explanation",
    "plot_layers",
    "plot_mixing",
    "plot_pairs",
    "plot_words",
    "strengths",
    "visualization_records",
    "visualize_image",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "draw_media": "figures",
        "html_page": ".drawing.document",
        "plot_words": "figures",
        "plot_comparison": "figures",
        "plot_explanation": "figures",
        "plot_layers": "figures",
        "plot_mixing": "figures",
        "plot_pairs": "figures",
        "strengths": ".drawing.numbers",
        "visualization_records": "records",
        "visualize_image": "records",
    },
)
