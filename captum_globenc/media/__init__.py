"""Explain classifiers of images and sounds, from files."""

from typing import TYPE_CHECKING

from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.media.explaining import explain_file
    from captum_globenc.media.loading import load_media_model, read_image, read_sound

__all__ = ["explain_file", "load_media_model", "read_image", "read_sound"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "explain_file": "explaining",
        "load_media_model": "loading",
        "read_image": "loading",
        "read_sound": "loading",
    },
)
