"""Load a classifier of images or sounds and its processor from a folder or the hub."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

import transformers

from captum_globenc.texts.loading import LoadingError, in_one_line

__all__ = ["Kind", "MediaModel", "load_media_model"]

Kind = Literal["image", "sound"]

AUTO: dict[Kind, tuple[str, str]] = {
    "image": ("AutoModelForImageClassification", "AutoImageProcessor"),
    "sound": ("AutoModelForAudioClassification", "AutoFeatureExtractor"),
}
"""The auto classes of transformers for a model and its processor."""


class MediaModel(NamedTuple):
    """A classifier in eval mode, its processor, and the names of weights that its files lack."""

    model: transformers.PreTrainedModel
    processor: Any
    missing: tuple[str, ...] = ()


def load_media_model(name: str, kind: Kind) -> MediaModel:
    """Load a classifier and its processor, without running remote code.

    Args:
        name: a folder or a name on the Hugging Face hub.
        kind: "image" or "sound".

    Raises:
        LoadingError: the model cannot be loaded; the message has the reason in one line.
    """
    model, processor = (getattr(transformers, it) for it in AUTO[kind])
    try:
        found, report = model.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
        made = processor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # files of others may raise anything
        where = "" if os.path.isdir(name) else "no such folder, and from the hub: "
        raise LoadingError(f"cannot load {name}: {where}{in_one_line(error)}") from error
    return MediaModel(found, made, tuple(sorted(report["missing_keys"])))
