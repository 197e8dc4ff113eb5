"""Check that the residual stream carries each token unscaled, within layers and from layer to layer.

GlobEnc adds what a residual connection carries to the output of the branch beside it, and rollout multiplies
the layers. So a tensor that a norm reads must be the sum of the tensor at the start of the connection and
another one, and each layer must read what the previous one wrote. Hooks that patch, scale or exchange tokens
break this. B batch, N tokens, D hidden size.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from captum_globenc.errors import RecordingError
from captum_globenc.recording.checks import ROUNDING_STEPS, Failure

ADDITIONS = frozenset({"add", "__add__", "__radd__", "add_", "__iadd__"})
"""Names of torch's functions that add two tensors."""


class VersionedTensor:
    """A tensor, and whether it was written to since.

    Args:
        value: the tensor.
    """

    def __init__(self, value: Tensor) -> None:
        with torch._C.DisableTorchFunction():  # reading attributes would call the layer's mode
            # Tensors of inference mode have no version counter.
            self._version = None if value.is_inference() else value._version
        self.value = value.clone() if self._version is None else value

    @property
    def changed(self) -> bool:
        """Whether the tensor was modified in place."""
        return self._version is not None and self.value._version != self._version


Addition = tuple[VersionedTensor, Tensor, Tensor]
"""The result of a sum, and its two terms."""

Residual = tuple[Sequence[VersionedTensor], Sequence[Tensor]]
"""The start and the end of a residual connection, each `(B, N, D)` or chunks along the tokens."""


class StreamCheck:
    """Check that each layer, or the norm after the last one, reads what the previous layer wrote."""

    def __init__(self) -> None:
        self._wrong: list[Tensor] = []

    def measure(self, written: VersionedTensor, read: Tensor, real: Tensor | None) -> None:
        """Compare the output of a layer with the input of the next one.

        Args:
            written: the output, `(B, N, D)`, before any hook ran.
            read: the input of the next layer; for the last layer, its output after all hooks.
            real: `(B, N)`, False at padding, which may hold anything; None if every token is real.
        """
        value = written.value
        if value is read and not written.changed:
            return
        if written.changed or value.shape != read.shape:
            self._wrong.append(torch.ones((), dtype=torch.bool, device=read.device))
            return
        value = value.to(read)  # may be on another device, or of another dtype
        error, size = (
            (it if real is None else it * real.to(it)[..., None]).abs() for it in (value - read, value)
        )
        eps = torch.finfo(read.dtype).eps
        self._wrong.append((error.amax((1, 2)) > ROUNDING_STEPS * eps * size.amax((1, 2))).any())

    def failures(self) -> Iterable[Failure]:
        """Return one failure per comparison."""
        error = RecordingError(
            "A layer of the encoder, or the norm after the last one, does not read what the previous layer "
            "wrote: something acts in between, such as a hook of your own that patches activations, which "
            "rollout cannot follow. Remove it, or use TransformerDeepLift, which supports it."
        )
        return [Failure(flag, lambda: error) for flag in self._wrong]


class ResidualCheck:
    """Check that both residual connections of a layer carry each token.

    It sees the functions of torch that a layer runs, and records the sums of two tensors of one shape.
    Tensors are compared by identity first, which needs no device sync; by value if the model or a hook copied
    or cast them, or if the feed-forward network runs in chunks of tokens. Which sums continue a connection
    depends on the values, so that comparison is not deferred to the end of the pass.
    """

    def __init__(self) -> None:
        self._sums: list[Addition] = []
        self._failure: Failure | None = None

    def see(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Record a function of torch that ran, if it is a sum."""
        if getattr(func, "__name__", "") in ADDITIONS and isinstance(output, Tensor) and output.ndim > 1:
            terms = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
            plain = len(terms) == 2 and kwargs.get("alpha", 1) == 1
            if plain and all(isinstance(it, Tensor) and it.shape == output.shape for it in terms):
                self._sums.append((VersionedTensor(output), *terms))

    def measure(self, index: int, residuals: tuple[Residual, Residual], real: Tensor | None) -> None:
        """Check the layer that ran last.

        Args:
            index: number of the layer.
            residuals: the connections past the attention and past the feed-forward network.
            real: `(B, N)`, False at padding; None if every token is real.
        """
        branches = (("first", "attention"), ("second", "feed-forward network"))
        for (number, branch), (start, end) in zip(branches, residuals, strict=True):
            if self._failure is None and not carries(start, end, self._sums, real):
                message = (
                    f"The {number} residual connection of encoder layer {index} does not carry each token "
                    f"unscaled past the {branch}: a hook exchanges or scales tokens, or the layer is not "
                    "built as in its family. GlobEnc would attribute to the wrong token. Remove the "
                    "hook, or use TransformerDeepLift, which supports it."
                )
                self._failure = Failure(torch.tensor(True), partial(RecordingError, message))
        self._sums.clear()

    def failures(self) -> Iterable[Failure]:
        """Return the first failure."""
        return [] if self._failure is None else [self._failure]


def carries(
    start: Sequence[VersionedTensor], end: Sequence[Tensor], sums: Sequence[Addition], real: Tensor | None
) -> bool:
    """Return whether a residual connection carries every token from `start` to `end` exactly once.

    Args:
        start: `(B, N, D)`, or chunks of it along the tokens.
        end: `(B, N, D)`, or chunks of it along the tokens.
        sums: the sums that ran in between.
        real: `(B, N)`, False at padding; None if every token is real.
    """
    if any(it.changed for it in start):
        return False
    if len(end) == 1:
        carried = {id(it.value) for it in start}
        if len(start) == 1 and id(end[0]) in carried:
            return True
        for result, one, other in sums:
            if (id(one) in carried) != (id(other) in carried) and not result.changed:
                carried.add(id(result.value))
        if len(start) == 1 and id(end[0]) in carried:
            return True
    values = [it.value for it in start]
    if _leads(torch.cat(values, 1), torch.cat(list(end), 1), real, iter(sums)):
        return True
    # Chunks run one after the other: the sums of a chunk follow the sums of the chunk before it.
    remaining = iter(sums)
    return max(len(values), len(end)) > 1 and all(
        _leads(one, other, mask, remaining) for one, other, mask in _chunks(values, end, real)
    )


def _chunks(
    start: Sequence[Tensor], end: Sequence[Tensor], real: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Cut both ends and the mask into the chunks of the end that has more."""
    sizes = [it.shape[1] for it in (start if len(start) > len(end) else end)]
    masks = [None] * len(sizes) if real is None else torch.split(real, sizes, 1)
    starts, ends = (torch.split(torch.cat(list(it), 1), sizes, 1) for it in (start, end))
    yield from zip(starts, ends, masks, strict=True)


def _leads(start: Tensor, end: Tensor, real: Tensor | None, sums: Iterator[Addition]) -> bool:
    """Return whether sums lead from `start` to `end`; consumes them up to the one that gives `end`."""
    carried = [start]
    if _equal(start, end, real):
        return True
    for result, one, other in sums:
        terms = [any(_equal(term, it, real) for it in carried) for term in (one, other)]
        if terms[0] != terms[1]:
            carried.append(result.value)
            if _equal(result.value, end, real):
                return True
    return False


def _equal(one: Tensor, other: Tensor, real: Tensor | None) -> bool:
    """Return whether two tensors are equal at real tokens, up to the rounding of a cast."""
    if one is other:
        return True
    if one.numel() != other.numel():
        return False
    dtype = min((one.dtype, other.dtype), key=lambda it: torch.finfo(it).bits)
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    first, second = one.reshape(other.shape).to(other.device, wide), other.to(wide)
    if real is not None:
        first, second = (it[real.to(other.device)] for it in (first, second))
    if not first.numel():
        return True
    bound = ROUNDING_STEPS * torch.finfo(dtype).eps * second.abs().max()
    return bool((first - second).abs().max() <= bound)
