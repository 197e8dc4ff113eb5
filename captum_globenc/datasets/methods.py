"""Attribution methods by name, each made once for a model and run on batch after batch.

Letters: B batch, N tokens, C classes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from captum_globenc.attr.decompx import DecompX
from captum_globenc.attr.deep_lift import TransformerDeepLift
from captum_globenc.attr.globenc import GlobEnc
from captum_globenc.forward import EncoderForward
from captum_globenc.texts.embeddings import integrated_gradients

__all__ = ["METHODS", "Batch", "Method", "Remembered", "check_methods"]


class Batch(NamedTuple):
    """Texts, or windows of them, that run together.

    Attributes:
        inputs: ids `(B, N)`.
        extra: the forward function's other arguments.
        blanks: `(B, N)`, the same ids with all but special tokens masked.
        classes: `(B,)`, what is explained; None for methods that know no class.
        position: `(B,)` tokens whose mixture is explained, "mean", or None for what the head reads.
    """

    inputs: Tensor
    extra: tuple[Any, ...]
    blanks: Tensor
    classes: Tensor | None
    position: Tensor | Literal["mean"] | None


class Remembered(EncoderForward):
    """A forward function that keeps what it returned last: GlobEnc's own pass gives the prediction too."""

    last: Tensor | None = None

    def forward(self, inputs: Tensor, *arguments: Any) -> Tensor:
        """Run the model, as :class:`~captum_globenc.EncoderForward` does, and keep the output."""
        output = super().forward(inputs, *arguments)
        self.last = output.detach()
        return output


Scorer = Callable[[Batch], Tensor]
"""Scores `(B, N)`."""


class Method(NamedTuple):
    """A method of attribution.

    Attributes:
        make: makes what scores batches, from the model and its forward function.
        of_classes: whether it explains a class, with a sign.
    """

    make: Callable[[PreTrainedModel, EncoderForward], Scorer]
    of_classes: bool = True


def _globenc(model: PreTrainedModel, forward: EncoderForward) -> Scorer:
    method = GlobEnc(forward, model)

    def score(batch: Batch) -> Tensor:
        scores: Tensor = method.attribute(
            batch.inputs, additional_forward_args=batch.extra, position=batch.position
        )
        return scores

    return score


def _exact_differences(model: PreTrainedModel, forward: EncoderForward) -> Scorer:
    method = TransformerDeepLift(forward, model)  # proves an operation once

    def score(batch: Batch) -> Tensor:
        scores: Tensor = method.attribute(batch.inputs, batch.blanks, batch.classes, batch.extra)
        return scores

    return score


def _decompx(model: PreTrainedModel, forward: EncoderForward) -> Scorer:
    method = DecompX(forward, model)
    return lambda batch: method.attribute(batch.inputs, batch.classes, batch.extra)


def _integrated_gradients(model: PreTrainedModel, forward: EncoderForward) -> Scorer:
    def score(batch: Batch) -> Tensor:
        assert batch.classes is not None
        with torch.enable_grad():
            return integrated_gradients(
                forward, model, batch.inputs, batch.blanks, batch.classes, batch.extra
            )

    return score


METHODS: Mapping[str, Method] = {
    "globenc": Method(_globenc, of_classes=False),
    "transformer-deep-lift": Method(_exact_differences),
    "decompx": Method(_decompx),
    "integrated-gradients": Method(_integrated_gradients),
}
"""Methods by the names that `Attributor` takes."""


def check_methods(names: object) -> tuple[str, ...]:
    """Return names of methods as a tuple, each once.

    Args:
        names: one name, or several.

    Raises:
        ValueError: there is none, or one is not known.

    Example:
        >>> check_methods(["globenc", "globenc"])
        ('globenc',)
    """
    given = [names] if isinstance(names, str) else list(names) if isinstance(names, (list, tuple)) else []
    unknown = [str(name) for name in given if name not in METHODS]
    if unknown or not given:
        what = f"no method {', '.join(unknown)}" if unknown else "no method is given"
        raise ValueError(f"{what}; known: {', '.join(METHODS)}")
    return tuple(dict.fromkeys(given))
