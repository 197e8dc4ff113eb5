"""`explain_file`: score the parts of an image or a sound for the class of a classifier, and draw them.

Shapes: B = 1 image or sound, C classes or channels; H, W pixels; T samples or frames, F features of a frame.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from itertools import pairwise
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.drawing.picture import PARTS, Picture
from captum_globenc.encoders.vision import patch_grid
from captum_globenc.errors import check_names
from captum_globenc.forward import EncoderForward
from captum_globenc.media.loading import read_image, read_sound
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.words import Word
from captum_globenc.texts.classes import class_names, class_of, probabilities
from captum_globenc.texts.loading import in_one_line
from captum_globenc.texts.methods import METHODS as OF_TEXTS
from captum_globenc.texts.methods import run_each
from captum_globenc.texts.provenance import versions

__all__ = ["METHODS", "explain_file"]

SOUND_PARTS = 50
"""The number of parts of a sound."""

PATCH_SIZE = 16
"""The side of the squares of an image in pixels, if the model has no patches."""

TIME_AXIS = {
    "ASTFeatureExtractor": 0,
    "SeamlessM4TFeatureExtractor": 0,
    "Speech2TextFeatureExtractor": 0,
    "WhisperFeatureExtractor": 1,
    "audio-spectrogram-transformer": 0,
    "speech_to_text": 0,
    "wav2vec2-bert": 0,
    "whisper": 1,
}
"""The time axis of an example's sound features, by class of the feature extractor or by `model_type`."""

ROUNDING = 1e-6
"""The largest share of tokens outside all parts that is ignored as a rounding error."""

MAX_SIDE = 512
"""The largest side of an image, in pixels."""

SOUND_SIZE = (800, 100)
"""Width and height of the picture of a sound, in pixels."""

GRAY = 128
"""The gray level of a waveform, visible on white and on black."""


def explain_file(
    path: str | PathLike[str],
    model: PreTrainedModel,
    processor: Any,
    *,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    tell: Callable[[str], None] | None = None,
) -> Explanation:
    """Explain the prediction of a classifier for an image or a sound.

    Args:
        path: an image file that Pillow reads, or a WAV file, depending on the processor.
        model: an image or audio classifier of transformers, in eval mode.
        processor: the model's image processor or feature extractor.
        methods: names from `METHODS`; by default all that support the model.
        target: the explained class, by name or index; by default the predicted class.
        tell: called with each notice, such as a method that is left out.

    Returns:
        An explanation with parts instead of tokens: squares of pixels, row by row, with the size of the
        model's patches; or intervals of samples or frames. Shares of tokens outside all parts, such as
        [CLS], are one more token at the end. Contributions sum to the output minus the output for inputs of
        0, a gray image or silence.

    Raises:
        ValueError: the file has another format or does not fit the model, a name is unknown, the model does
            not return finite logits (B, C), or a chosen method, or every method, does not support the model.
        TypeError: `path` is not a file name, or `processor` is not callable.
        OSError: the file cannot be read.
    """
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path is a {type(path).__name__}: pass the name of one image or sound file")
    if isinstance(methods, str):
        raise ValueError(f"methods is {methods!r}: pass a list of names")
    if methods is not None:
        check_names("method", methods, METHODS)
    for part in ("image_processor", "feature_extractor"):  # a processor that also has a tokenizer
        processor = getattr(processor, part, processor)
    if not callable(processor):
        raise TypeError(
            f"processor is {processor!r}: pass the image processor or feature extractor of the model"
        )
    rate = getattr(processor, "sampling_rate", None)
    given: Any = read_image(path) if rate is None else read_sound(path, rate)
    if rate is None and getattr(model.config, "num_channels", None) == 1:
        given = given.convert("L")
    process = partial(processor, return_tensors="pt", **({} if rate is None else {"sampling_rate": rate}))
    try:
        batch = process(given)
        # Some feature extractors pad frames and return a mask.
        masked = "attention_mask" in batch and "attention_mask" in signature(model.forward).parameters
        forward = EncoderForward(model, ("attention_mask",) if masked else ())
        inputs, extra = forward.arguments(batch)
        inputs = inputs.to(model.device, next(model.parameters()).dtype)
        extra = tuple(it.to(model.device) for it in extra)
        if not bool(inputs.isfinite().all()):
            raise ValueError("the processor returns NaN or infinity")
        with torch.no_grad():
            logits = forward(inputs, *extra)
    except (RuntimeError, ValueError) as error:  # of the model or its processor
        size = f"{given.width} x {given.height} pixels" if rate is None else f"{len(given)} samples"
        raise ValueError(f"cannot classify {path}, {size}: {in_one_line(error)}") from error
    time = -1 if rate is None or inputs.dim() == 2 else _time_axis(inputs[0], model, processor)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if logits.dim() != 2:
        raise ValueError(f"a classifier gives logits (B, C), this model gives {tuple(logits.shape)}")
    if not bool(logits.isfinite().all()):
        raise ValueError(f"the logits of the model for {path} contain NaN or infinity")
    labels = class_names(model.config, logits.shape[1])
    best = int(logits.argmax())
    chosen = best if target is None else class_of(target, labels, "target")
    shares = probabilities(logits, model.config)
    notices: dict[str, None] = {}
    found = run_each(
        lambda name: METHODS[name](forward, inputs, extra, chosen).detach().cpu(), methods, METHODS, notices
    )
    truncated = rate is not None and _is_truncated(given, batch, process, rate)
    if truncated:
        notices[f"{path} is longer than the model reads: its end is not explained"] = None
    if tell is not None:
        for message in notices:
            tell(message)
    picture, names = _parts(inputs[0].movedim(time, -1), model, processor)
    rows = {name: _by_part(values[0].movedim(time, -1), picture) for name, values in found.items()}
    rest = {name: 1 - sum(row) if OF_TEXTS[name].kind == "shares" else 0.0 for name, row in rows.items()}
    words = [Word(name, (index,), False) for index, name in enumerate(names)]
    if any(abs(it) > ROUNDING for it in rest.values()):
        words.append(Word(f"[of no {PARTS[picture.kind][0]}]", (len(names),), True))
        rows = {name: [*row, rest[name]] for name, row in rows.items()}
    return Explanation(
        text=fspath(path),
        pair=None,
        prediction=labels[best],
        probability=None if shares is None else shares[0, best].item(),
        value=logits[0, best].item(),
        probabilities={} if shares is None else dict(zip(labels, shares[0].tolist(), strict=True)),
        target=labels[chosen],
        against=None,
        explained=logits[0, chosen].item(),
        position=None,
        tokens=[word.text for word in words],
        scores=rows,
        kinds={name: OF_TEXTS[name].kind for name in rows},
        groups=words,
        model={"name": str(model.config.name_or_path or ""), "class": type(model).__name__},
        settings={"mixing": "N-Enc", "baseline": "zero"},
        versions=versions(),
        truncated=truncated,
        picture=picture,
    )


def _is_truncated(
    samples: NDArray[np.float32], batch: Mapping[str, Tensor], process: Callable[..., Any], rate: int
) -> bool:
    """Return whether the features of a sound stay the same with noise in its last 25 ms, a frame."""
    end = min(len(samples), rate // 40)
    noise = np.random.default_rng(0).uniform(-1, 1, end).astype(samples.dtype)
    other = process(np.concatenate([samples[: len(samples) - end], noise]))
    return all(torch.equal(batch[name], other[name]) for name in batch)


def _time_axis(features: Tensor, model: PreTrainedModel, processor: Any) -> int:
    """Return the time axis of a sound's features: 0 for `(T, F)`, 1 for `(F, T)`.

    Sizes do not determine it: a short sound has fewer frames than mel bins.
    """
    for name in (*(kind.__name__ for kind in type(processor).__mro__), model.config.model_type):
        if name in TIME_AXIS:
            return TIME_AXIS[name]
    bins = getattr(model.config, "num_mel_bins", getattr(processor, "num_mel_bins", None))
    axes = [axis for axis, size in enumerate(features.shape) if size != bins]
    if features.dim() == 2 and len(axes) == 1:
        return axes[0]
    known = ", ".join(name for name in TIME_AXIS if name.endswith("Extractor"))
    raise ValueError(
        f"the time axis of the features {tuple(features.shape)} of a {type(processor).__name__} and a "
        f"{type(model).__name__} is unknown: use a feature extractor derived from one of {known}"
    )


def _parts(inputs: Tensor, model: PreTrainedModel, processor: Any) -> tuple[Picture, list[str]]:
    """Return the picture of pixels `(3, H, W)`, samples `(T,)` or features `(F, T)`, and its parts' names."""
    values = inputs.cpu().double().numpy()
    if values.ndim == 3:
        configs = (model.config, getattr(model.config, "vision_config", None))
        patched = next((it for it in configs if getattr(it, "patch_size", None)), None)
        axes = () if patched is None else patch_grid(patched, 0).axes
        sides = [axis.stride for axis in axes] or [PATCH_SIZE] * 2
        heights, widths = map(_cut, values.shape[1:], sides)
        names = [
            f"row {row}, column {column}"
            for row in range(1, len(heights) + 1)
            for column in range(1, len(widths) + 1)
        ]
        normalized = bool(getattr(processor, "do_normalize", False))
        moments = [getattr(processor, it, None) if normalized else None for it in ("image_mean", "image_std")]
        return Picture("image", widths, heights, _draw_pixels(values, *moments)), names
    length = values.shape[-1]
    widths = _cut(length, -(-length // SOUND_PARTS))
    ends = [0, *np.cumsum(widths).tolist()]
    if values.ndim == 1:
        rate = processor.sampling_rate
        names = [f"{start / rate:.3f} s to {stop / rate:.3f} s" for start, stop in pairwise(ends)]
        return Picture("sound", widths, [1], _draw_samples(values)), names
    names = [f"frames {start} to {stop}" for start, stop in pairwise(ends)]
    return Picture("sound", widths, [1], _draw_features(values)), names


def _cut(length: int, size: int) -> list[int]:
    """Return the lengths of parts of equal size; the last part may be shorter.

    Example:
        >>> _cut(10, 4)
        [4, 4, 2]
    """
    return [min(size, length - start) for start in range(0, length, size)]


def _by_part(scores: Tensor, picture: Picture) -> list[float]:
    """Return the sum over each part of scores of pixels `(C, H, W)`, samples `(T,)` or features `(F, T)`."""
    values = scores.double()
    if values.dim() > 1:
        values = values.sum(0)
    if values.dim() == 1:
        values = values[None]
    rows = [torch.split(row, picture.widths, dim=1) for row in torch.split(values, picture.heights)]
    return [float(part.sum()) for row in rows for part in row]


METHODS: Mapping[str, Callable[[EncoderForward, Tensor, tuple[Any, ...], int], Tensor]] = {
    "globenc": lambda forward, inputs, extra, _: GlobEnc(forward).attribute(
        inputs, additional_forward_args=extra
    ),
    "transformer-deep-lift": lambda forward, inputs, extra, target: TransformerDeepLift(forward).attribute(
        inputs, target=target, additional_forward_args=extra
    ),
}
"""Methods for files by name. Each takes the forward function, its inputs, its other arguments and the target
class, and returns scores in the shape of the inputs, of the same kind as for texts."""


def _draw_pixels(
    pixels: NDArray[Any], mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> str:
    """Return a JPEG as a data URL: pixels `(C, H, W)` as they were before the processor normalized them.

    If they are then outside of [0, 1], they are rescaled to that range.
    """
    channels = pixels.astype(np.float64)
    if mean is not None and std is not None:
        channels = channels * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    # The tolerance is a rounding error of float32.
    if channels.min() < -0.01 or channels.max() > 1.01:
        channels = _rescaled(channels)
    levels = _levels(channels.transpose(1, 2, 0))
    image = _image(levels[..., 0] if len(pixels) == 1 else levels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    return _url(image, "jpeg", quality=85)


def _draw_samples(samples: NDArray[Any]) -> str:
    """Return a transparent PNG as a data URL: the range of the samples `(T,)` in each column of pixels."""
    width, height = SOUND_SIZE
    largest = float(np.abs(samples).max()) or 1.0
    scaled = samples.astype(np.float64) / largest * (height / 2 - 1)
    ends = np.linspace(0, len(samples), width + 1).astype(int)
    parts = [scaled[start : max(stop, start + 1)] for start, stop in pairwise(ends)]
    upper, lower = (np.array([pick(part) for part in parts]) for pick in (np.max, np.min))
    rows = (height / 2 - 0.5 - np.arange(height))[:, None]
    drawn = (rows <= upper + 0.5) & (rows >= lower - 0.5)
    gray = np.full((height, width), GRAY)
    return _url(_image(np.stack([gray, drawn * 255], axis=-1).astype(np.uint8)), "png")


def _draw_features(features: NDArray[Any]) -> str:
    """Return a JPEG as a data URL: features `(F, T)` over time, the first feature at the bottom."""
    image = _image(_levels(_rescaled(features.astype(np.float64)))[::-1])
    return _url(image.resize(SOUND_SIZE), "jpeg", quality=75)


def _rescaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = values.min(), values.max()
    rescaled: NDArray[np.float64] = (values - low) / ((high - low) or 1.0)
    return rescaled


def _levels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _image(levels: NDArray[np.uint8]) -> Any:
    from PIL import Image  # imported on demand, as matplotlib is

    return Image.fromarray(np.ascontiguousarray(levels))


def _url(image: Any, kind: str, **options: int) -> str:
    written = io.BytesIO()
    image.save(written, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
