"""The explanation of an image or a sound: what every pixel or sample had to do with its class.

Shapes: C classes, T samples; H, W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.forward import EncoderForward
from captum_globenc.media.files import read_image, read_sound
from captum_globenc.texts.classes import class_names, class_of, probabilities
from captum_globenc.texts.methods import REFUSALS

__all__ = ["METHODS", "MediaExplanation", "explain_file"]

STRETCHES = 50
"""Into how many parts a sound is cut, of which the strongest are told."""

PATCH = 16
"""How many pixels the squares of an image have on a side, where the model has no patches."""


@dataclass(frozen=True)
class MediaExplanation:
    """What a model predicts for an image or a sound, and the scores of what it took.

    Attributes:
        path: the file.
        prediction: the predicted class.
        probability: its probability.
        probabilities: those of all classes, by name.
        target: the class that is explained.
        explained: the output for it.
        inputs: what the model took: pixels `(1, 3, H, W)`, samples `(1, T)`, or features `(1, ..., ...)`.
        scores: by method, in the shape of the inputs. Those of "globenc" are shares, and sum to 1 less those
            of tokens that no input feeds; those of "transformer-deep-lift" add up to what the output differs
            from that of inputs that are 0: of an image all of one grey, of silence.
        rate: samples a second, of samples; None of other inputs.
        patch: the side of the squares that an image is cut into.
    """

    path: str
    prediction: str
    probability: float | None
    probabilities: Mapping[str, float]
    target: str
    explained: float
    inputs: Tensor
    scores: Mapping[str, Tensor]
    rate: int | None = None
    patch: int = PATCH

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}: {self.headline} by {', '.join(self.scores)}>"

    @property
    def headline(self) -> str:
        """The prediction in a few words, and what else is explained."""
        said = self.prediction if self.probability is None else f"{self.prediction} ({self.probability:.1%})"
        return said if self.target == self.prediction else f"{said}, explained: {self.target}"

    def parts(self, method: str) -> list[tuple[str, float]]:
        """Return where each part of the inputs is, and what it scores: squares of pixels, or stretches.

        Raises:
            KeyError: there are no scores of that method.
        """
        scores = self.scores[method][0].double()
        return [(name, float(scores[where].sum())) for name, where in self._places()]

    def top(self, k: int = 5, method: str = "transformer-deep-lift") -> list[tuple[str, float]]:
        """Return the parts of the largest scores, for or against, the largest first."""
        return sorted(self.parts(method), key=lambda part: -abs(part[1]))[:k]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: scores by part, in their order."""
        return {
            "path": self.path,
            "prediction": self.prediction,
            "probability": self.probability,
            "probabilities": dict(self.probabilities),
            "target": self.target,
            "explained": self.explained,
            "parts": [name for name, _ in self._places()],
            "scores": {method: [score for _, score in self.parts(method)] for method in self.scores},
        }

    def _places(self) -> Iterator[tuple[str, tuple[slice, ...]]]:
        """Yield what each part of the inputs is called, and where it is."""
        shape, every = self.inputs.shape[1:], slice(None)
        if len(shape) == 3:
            side = self.patch
            for row in range(math.ceil(shape[1] / side)):
                for column in range(math.ceil(shape[2] / side)):
                    square = [slice(side * index, side * index + side) for index in (row, column)]
                    yield f"row {row + 1}, column {column + 1}", (every, *square)
            return
        # Features have frames in their longer dimension.
        axis = max(range(len(shape)), key=lambda it: shape[it])
        size = math.ceil(shape[axis] / STRETCHES)
        for start in range(0, shape[axis], size):
            stop = min(start + size, shape[axis])
            name = f"frames {start} to {stop}"
            if self.rate is not None:
                name = f"{start / self.rate:.3f} s to {stop / self.rate:.3f} s"
            yield name, tuple(slice(start, stop) if it == axis else every for it in range(len(shape)))


def explain_file(
    path: str | PathLike[str],
    model: PreTrainedModel,
    processor: Any,
    *,
    methods: Sequence[str] | None = None,
    target: str | int | None = None,
    tell: Callable[[str], None] | None = None,
) -> MediaExplanation:
    """Explain what a classifier makes of an image or a sound.

    Args:
        path: the file: an image that Pillow reads, or a WAV file, as the processor is for one or the other.
        model: an image or audio classifier of transformers, in eval mode.
        processor: its image processor or feature extractor.
        methods: names from `METHODS`; left out, those of them that hold for the model.
        target: the class that is explained, by name or index; left out, the one that is predicted.
        tell: called with what is left out, and why.

    Raises:
        ValueError: the file holds nothing of the kind, a name is not known, the model gives no (B, C) logits,
            or a method that was chosen does not hold for it, or none does.
        OSError: the file cannot be read.
    """
    unknown = [name for name in methods or () if name not in METHODS]
    if unknown or (methods is not None and not methods):
        raise ValueError(f"no method {', '.join(unknown)}; known: {', '.join(METHODS)}")
    rate = getattr(processor, "sampling_rate", None)
    if rate is None:
        batch = processor(read_image(path), return_tensors="pt")
    else:
        batch = processor(read_sound(path, rate), sampling_rate=rate, return_tensors="pt")
    forward = EncoderForward(model, argument_names=())
    inputs, _ = forward.arguments(batch)
    inputs = inputs.to(model.device, next(model.parameters()).dtype)
    with torch.no_grad():
        logits = forward(inputs).float()
    if logits.dim() != 2 or not bool(logits.isfinite().all()):
        raise ValueError(f"a classifier gives finite logits (B, C), this model gives {tuple(logits.shape)}")
    names = class_names(model.config, logits.shape[1])
    best = int(logits.argmax())
    chosen = best if target is None else class_of(target, names, "target")
    shares = probabilities(logits, model.config)
    scores: dict[str, Tensor] = {}
    refused: dict[str, Exception] = {}
    for name in METHODS if methods is None else methods:
        try:
            scores[name] = METHODS[name](forward, inputs, chosen).detach().cpu()
        except REFUSALS as error:
            if methods is not None:
                raise
            refused[name] = error
    if not scores:
        raise ValueError("; ".join(f"{name}: {error}" for name, error in refused.items()))
    for name, reason in refused.items():
        if tell is not None:
            tell(f"{name} is left out: {reason}")
    patch = getattr(model.config, "patch_size", None)
    return MediaExplanation(
        path=fspath(path),
        prediction=names[best],
        probability=None if shares is None else shares[0, best].item(),
        probabilities={} if shares is None else dict(zip(names, shares[0].tolist(), strict=True)),
        target=names[chosen],
        explained=logits[0, chosen].item(),
        inputs=inputs.cpu(),
        scores=scores,
        rate=rate if inputs.dim() == 2 else None,
        patch=patch if isinstance(patch, int) else PATCH,
    )


def _globenc(forward: EncoderForward, inputs: Tensor, _: int) -> Tensor:
    scores: Tensor = GlobEnc(forward).attribute(inputs)
    return scores


def _deep_lift(forward: EncoderForward, inputs: Tensor, target: int) -> Tensor:
    scores: Tensor = TransformerDeepLift(forward).attribute(inputs, target=target)
    return scores


METHODS: Mapping[str, Callable[[EncoderForward, Tensor, int], Tensor]] = {
    "globenc": _globenc,
    "transformer-deep-lift": _deep_lift,
}
"""The methods by name."""
