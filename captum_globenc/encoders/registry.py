"""The registry of encoder families: built in, added by the user, or provided by other packages."""

import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from captum_globenc.encoders.audio import AUDIO_ENCODERS
from captum_globenc.encoders.spec import EncoderSpec
from captum_globenc.encoders.text import TEXT_ENCODERS
from captum_globenc.encoders.vision import VISION_ENCODERS

ENTRY_POINTS = "captum_globenc.encoders"
"""Entry point group for packages that provide an EncoderSpec, or several in a list or tuple."""

_REGISTRY: dict[str, EncoderSpec] = {
    spec.model_type: spec for spec in (*TEXT_ENCODERS, *VISION_ENCODERS, *AUDIO_ENCODERS)
}

_SPARSE = "its attention is sparse: most tokens see only a window, some blocks or a few global tokens"
_APPROXIMATE = "its attention is an approximation that never computes probabilities"
_SHORTENED = "it pools or downsamples its tokens on the way, so its layers do not work on one sequence"

UNSUPPORTED: dict[str, str] = {
    "big_bird": _SPARSE,
    "canine": _SHORTENED,
    "convbert": "half of each block's heads are convolutions, which pass tokens on past the attention",
    "fnet": "it mixes tokens by a Fourier transform, there is no attention",
    "funnel": _SHORTENED,
    "ibert": "its softmax and its norms are integer approximations",
    "longformer": _SPARSE,
    "luke": "its words and entities attend to each other with four different queries",
    "mobilebert": "its blocks are bottlenecks whose attention does not write into the residual stream",
    "mra": _APPROXIMATE,
    "nystromformer": _APPROXIMATE,
    "perceiver": "its attention runs over latent vectors, not over tokens",
    "reformer": "its attention is hashed into buckets, and its layers are reversible",
    "swin": "its attention is confined to shifted windows, and its patches are merged on the way",
    "yoso": _APPROXIMATE,
}
"""Well-known families that cannot be decomposed: `model_type` and reason."""


def register_encoder(spec: EncoderSpec, overwrite: bool = False) -> None:
    """Register a family of encoders.

    Args:
        spec: the family.
        overwrite: whether to replace a spec of the same `model_type`.

    Raises:
        ValueError: the family is registered and `overwrite` is False.

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
    """Return the `model_type` of every supported family, sorted.

    Example:
        >>> "bert" in supported_encoders()
        True
    """
    return tuple(sorted(registered_specs()))


def registered_specs() -> Mapping[str, EncoderSpec]:
    """Return the spec of every family by `model_type`, including specs of other packages."""
    for name, provided in _provided().items():
        _REGISTRY.setdefault(name, provided)
    return _REGISTRY


@cache
def _provided() -> dict[str, EncoderSpec]:
    """Load the entry points, once, when an encoder is first looked up."""
    provided: dict[str, EncoderSpec] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        for spec in _load(entry):
            if spec.model_type in _REGISTRY or spec.model_type in provided:
                _warn(entry, f"{spec.model_type!r} is registered already")
            else:
                provided[spec.model_type] = spec
    return provided


def _load(entry: EntryPoint) -> tuple[EncoderSpec, ...]:
    """Return the specs of an entry point; warn if it is broken, so that others still load."""
    try:
        loaded = entry.load()
    except Exception as error:
        _warn(entry, f"{type(error).__name__}: {error}")
        return ()
    specs = tuple(loaded) if isinstance(loaded, Iterable) else (loaded,)
    if not all(isinstance(spec, EncoderSpec) for spec in specs):
        _warn(entry, "it is neither an EncoderSpec nor a collection of them")
        return ()
    return specs


def _warn(entry: EntryPoint, reason: str) -> None:
    warnings.warn(
        f"Entry point {entry.name!r} = {entry.value!r} of {ENTRY_POINTS} is ignored: {reason}.",
        UserWarning,
        stacklevel=2,
    )
