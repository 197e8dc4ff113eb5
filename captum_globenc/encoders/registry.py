"""The registry of encoder families: ours, the user's, and what other packages offer."""

import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from captum_globenc.encoders.audio import AUDIO_ENCODERS
from captum_globenc.encoders.spec import EncoderSpec
from captum_globenc.encoders.text import TEXT_ENCODERS
from captum_globenc.encoders.vision import VISION_ENCODERS

ENTRY_POINTS = "captum_globenc.encoders"
"""Entry point group under which a package offers an EncoderSpec, or several in a list or tuple."""

_REGISTRY: dict[str, EncoderSpec] = {
    spec.model_type: spec for spec in (*TEXT_ENCODERS, *VISION_ENCODERS, *AUDIO_ENCODERS)
}


def register_encoder(spec: EncoderSpec, overwrite: bool = False) -> None:
    """Make a family of encoders known.

    Args:
        spec: the family.
        overwrite: whether to replace a spec of the same `model_type`.

    Raises:
        ValueError: the family is known already and `overwrite` is False.

    Example:
        >>> from captum_globenc.encoders import BERT, register_encoder
        >>> register_encoder(BERT)
        Traceback (most recent call last):
        ValueError: Encoder 'bert' is registered already; pass overwrite=True to replace it.
        >>> register_encoder(BERT, overwrite=True)
    """
    if spec.model_type in _REGISTRY and not overwrite:
        raise ValueError(
            f"Encoder {spec.model_type!r} is registered already; pass overwrite=True to replace it."
        )
    _REGISTRY[spec.model_type] = spec


def supported_encoders() -> tuple[str, ...]:
    """Return the `model_type` of every family that is supported, sorted.

    Example:
        >>> "bert" in supported_encoders()
        True
    """
    return tuple(sorted(registered_specs()))


def registered_specs() -> Mapping[str, EncoderSpec]:
    """Return every family by its `model_type`, with what other packages offer."""
    for name, offered in _offered().items():
        _REGISTRY.setdefault(name, offered)
    return _REGISTRY


@cache
def _offered() -> dict[str, EncoderSpec]:
    """Load the entry points, once, when an encoder is first looked up."""
    offered: dict[str, EncoderSpec] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        for spec in _load(entry):
            if spec.model_type in _REGISTRY or spec.model_type in offered:
                _warn_of(entry, f"{spec.model_type!r} is registered already")
            else:
                offered[spec.model_type] = spec
    return offered


def _load(entry: EntryPoint) -> tuple[EncoderSpec, ...]:
    """Return the specs of an entry point; one that is broken must not take the others with it."""
    try:
        loaded = entry.load()
    except Exception as error:
        _warn_of(entry, f"{type(error).__name__}: {error}")
        return ()
    specs = tuple(loaded) if isinstance(loaded, Iterable) else (loaded,)
    if not all(isinstance(spec, EncoderSpec) for spec in specs):
        _warn_of(entry, "it is neither an EncoderSpec nor a collection of them")
        return ()
    return specs


def _warn_of(entry: EntryPoint, reason: str) -> None:
    warnings.warn(
        f"Entry point {entry.name!r} = {entry.value!r} of {ENTRY_POINTS} is left out: {reason}.",
        UserWarning,
        stacklevel=2,
    )
