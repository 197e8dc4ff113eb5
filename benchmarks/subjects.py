"""The calls that the benchmarks compare: a forward pass, a gradient, and each method, on one batch."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift

SUBJECTS = ("forward", "one gradient", "GlobEnc", "TransformerDeepLift", "DecompX")
RECOMPUTED = ("TransformerDeepLift recomputed", "DecompX recomputed")
"""The calls in which layers are recomputed in the backward pass, to keep less memory."""


class Subjects:
    """A model's forward pass and the methods on it.

    Create it once for many calls: the first call of each method checks the model, later calls do not.

    Args:
        forward: the forward function of a classifier.
        encoder: whether GlobEnc and DecompX support the model.
        recomputed: whether the calls include `RECOMPUTED`.
    """

    def __init__(self, forward: EncoderForward, encoder: bool = True, recomputed: bool = False) -> None:
        self.forward = forward
        self.exact = TransformerDeepLift(forward)
        self.encoder_methods = (GlobEnc(forward), DecompX(forward)) if encoder else ()
        self.recomputed = TransformerDeepLift(forward, recompute=True) if recomputed else None
        self.decompx = DecompX(forward, recompute=True) if recomputed and encoder else None

    def of(
        self, inputs: Tensor, baselines: Tensor, target: int, extra: tuple[Tensor, ...] = ()
    ) -> dict[str, Callable[[], object]]:
        """Return the calls on one batch by name, in the order of `SUBJECTS` and `RECOMPUTED`.

        Args:
            inputs: token ids `(B, N)`, or pixels.
            baselines: for TransformerDeepLift, in the shape of the inputs.
            target: the explained class.
            extra: further arguments of the forward function.
        """
        calls: dict[str, Callable[[], object]] = {
            "forward": lambda: self._forward(inputs, extra),
            "one gradient": lambda: self._gradient(inputs, target, extra),
            "TransformerDeepLift": lambda: self.exact.attribute(inputs, baselines, target, extra),
        }
        for method in self.encoder_methods:
            calls[type(method).__name__] = lambda method=method: method.attribute(inputs, target, extra)
        if (exact := self.recomputed) is not None:
            calls[RECOMPUTED[0]] = lambda: exact.attribute(inputs, baselines, target, extra)
        if (decompx := self.decompx) is not None:
            calls[RECOMPUTED[1]] = lambda: decompx.attribute(inputs, target, extra)
        return {name: calls[name] for name in (*SUBJECTS, *RECOMPUTED) if name in calls}

    @torch.no_grad()
    def _forward(self, inputs: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        return self.forward(inputs, *extra)

    def _gradient(self, inputs: Tensor, target: int, extra: tuple[Tensor, ...]) -> None:
        if not inputs.is_floating_point():
            inputs = self.forward.model.get_input_embeddings()(inputs)
        inputs = inputs.detach().requires_grad_()
        torch.autograd.grad(self.forward(inputs, *extra)[:, target].sum(), inputs)


def shape_of(text: str) -> tuple[int, int]:
    """Return the number of texts and tokens of a shape such as 8x64."""
    batch, tokens = text.split("x")
    return int(batch), int(tokens)


def resident(key: str) -> int:
    """Return the size of this process's resident set in bytes: "VmRSS" now, "VmHWM" at most. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def peak_resident(call: Callable[[], object]) -> int:
    """Return by how many bytes the resident set grows at most while a call runs."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    call()
    return resident("VmHWM") - before
