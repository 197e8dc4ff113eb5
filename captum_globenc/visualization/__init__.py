"""Pictures of attributions: records for Captum's ``visualize_text``, images, HTML pages and figures."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.visualization.figures import plot_comparison, plot_layers, plot_mixing
    from captum_globenc.visualization.page import html_page, strengths
    from captum_globenc.visualization.records import visualization_records, visualize_image
    from captum_globenc.visualization.words import plot_words

__all__ = [
    "html_page",
    "plot_comparison",
    "plot_layers",
    "plot_mixing",
    "plot_words",
    "strengths",
    "visualization_records",
    "visualize_image",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "plot_words": "words",
        "html_page": "page",
        "plot_comparison": "figures",
        "plot_layers": "figures",
        "plot_mixing": "figures",
        "strengths": "page",
        "visualization_records": "records",
        "visualize_image": "records",
    },
)
