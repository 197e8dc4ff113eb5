"""A classifier of images or sounds, and its processor, from a folder or the hub."""

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
"""The classes of transformers that load a model and its processor."""


class MediaModel(NamedTuple):
    """A classifier in eval mode, its processor, and the weights that its files did not hold."""

    model: transformers.PreTrainedModel
    processor: Any
    missing: tuple[str, ...] = ()


def load_media_model(name: str, kind: Kind) -> MediaModel:
    """Load a classifier; code that comes with a checkpoint is never run.

    Args:
        name: a folder or a name on the Hugging Face hub.
        kind: "image" or "sound".

    Raises:
        LoadingError: it cannot be loaded; the message says in one line which and why.
    """
    model, processor = (getattr(transformers, it) for it in AUTO[kind])
    try:
        found, report = model.from_pretrained(name, trust_remote_code=False, output_loading_info=True)
        made = processor.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever somebody else's files make of it
        where = "" if os.path.isdir(name) else "no such folder, and from the hub: "
        raise LoadingError(f"cannot load {name}: {where}{in_one_line(error)}") from error
    return MediaModel(found, made, tuple(sorted(report["missing_keys"])))
