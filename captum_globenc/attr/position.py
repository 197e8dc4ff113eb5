"""The explained token: the `position` argument, else the target's, else the token that the head reads.

B batch, N tokens, C classes.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from captum_globenc.attr.arguments import select
from captum_globenc.attr.run import Run
from captum_globenc.encoders import Encoder
from captum_globenc.encoders.tokens import pooled_weights
from captum_globenc.errors import NoPositionError
from captum_globenc.recording.checks import Failure

Position = int | Tensor | slice | Sequence[int] | Sequence[Sequence[int]] | Literal["mean"]
"""One token of every text, or the average of several.

One of: an index; an index for each text, `(B,)`; a slice; a list of indices for each text; floating-point
weights `(B, N)`; or "mean" for all real tokens.
"""

Parts = tuple[int | slice, ...]
"""Positions and slices that a head averages."""


class Start(NamedTuple):
    """The weights `(B, 1, N)` of the explained tokens, summing to 1, and the error if they are wrong.

    :func:`captum_globenc.attr.run.finite_scores` raises it, which saves a device sync.
    """

    weights: Tensor
    failure: Failure


def explained(run: Run, target: Any, position: Position | None) -> Start:
    """Return the weights of the explained tokens.

    Args:
        run: the recorded pass.
        target: the index of the explained output, as in Captum.
        position: the explained tokens; None for the target's position, else the tokens that the head reads.

    Raises:
        TypeError: `target` is given, and the output is not a tensor.
        ValueError: the position is of the wrong type or length, or required and missing.
        AssertionError, IndexError: `target` has the wrong length or is out of range.
    """
    _check_target(run.output, target)
    chosen: Any = position
    if position is None:
        chosen = default_position(run.encoder, run.inputs, run.output, target, tokens=run.real.shape[1])
    elif isinstance(chosen, tuple):  # one index for each example; tuples inside mean slices of a head
        chosen = list(chosen)
    return start_weights(chosen, run.real, run.mixtures[0].dtype)


def _check_target(output: Any, target: Any) -> None:
    if target is None:
        return
    if not isinstance(output, Tensor):
        raise TypeError(
            f"forward_func returned a {type(output).__name__}, and target needs a tensor: "
            "wrap the model in captum_globenc.EncoderForward(model), which returns its logits."
        )
    select(output, target)


def default_position(
    encoder: Encoder, inputs: Tensor, output: Any, target: Any, tokens: int
) -> Position | Parts:
    """Return the position in `target` for outputs per token, else the tokens that the model's head reads.

    Args:
        encoder: the encoder.
        inputs: its inputs.
        output: the output of the forward function.
        target: the index of the explained output, as in Captum.
        tokens: N.

    Raises:
        NoPositionError: the head reads neither one token nor a known average of tokens.
    """
    per_token = (
        target is not None
        and isinstance(output, Tensor)
        and output.shape[1:2] == (tokens,)
        # The positions of a decoder's output are not the encoder's, even if their number is the same.
        and not encoder.has_decoder
    )
    if per_token and (output.ndim == 3 or (output.ndim == 2 and encoder.has_per_token_head)):
        return _first_index(target, tokens)
    head = type(encoder.head).__name__
    if encoder.has_per_token_head:
        raise NoPositionError(
            f"{head} gives one output per token and pools no token: pass target=(position, class), or "
            "position=..."
        )
    pooled = encoder.pooled
    if pooled is None:
        raise NoPositionError(
            f"It is unknown which tokens of {head} are read, or they are neither one token nor an average of "
            'tokens: pass position=..., an index or "mean".'
        )
    if isinstance(pooled, int):
        return pooled if pooled >= 0 else tokens + pooled
    return pooled(inputs) if callable(pooled) else pooled


def start_weights(position: Position | Parts, real: Tensor, dtype: torch.dtype) -> Start:
    """Return the weight of each token in the explained representation.

    Args:
        position: the explained tokens; a tuple averages positions and slices, as some heads do.
        real: `(B, N)`, False at padding.
        dtype: of the weights.

    Returns:
        The weights, and a ValueError for a position that is out of range or on padding.

    Raises:
        ValueError: the position is of the wrong type or length.

    Example:
        >>> start_weights("mean", torch.tensor([[True, True, False]]), torch.float32).weights
        tensor([[[0.5000, 0.5000, 0.0000]]])
    """
    batch, tokens = real.shape
    if isinstance(position, tuple):
        weights = pooled_weights(position, tokens).to(real.device, dtype).expand(batch, 1, tokens)
        return Start(weights, Failure(real.new_zeros(()), ValueError))
    if isinstance(position, str) and position != "mean":
        raise ValueError(f'position is {position!r}; the only accepted string is "mean".')
    if isinstance(position, str | slice):
        chosen = torch.zeros_like(real)
        chosen[:, slice(None) if isinstance(position, str) else position] = True
        return _averaged((chosen & real).to(dtype), real)
    if isinstance(position, Tensor) and position.is_floating_point() and position.shape == real.shape:
        return _averaged(position.to(real.device, dtype), real)
    if isinstance(position, list) and any(isinstance(each, list | tuple | range) for each in position):
        return _averaged(_counts(position, real).to(dtype), real)
    index = torch.as_tensor(position, device=real.device)
    if index.dtype not in (torch.int64, torch.int32) or index.shape not in ((), (batch,)):
        raise ValueError(
            f"position must be an int, an integer tensor of shape ({batch},), a slice, a list of indices for "
            f'each text, floating-point weights of shape ({batch}, {tokens}) or "mean"; got {position!r}.'
        )
    index = index.long().expand(batch)
    chosen = torch.arange(tokens, device=real.device) == index[:, None]
    hit = (chosen & real).any(dim=1)

    def make_error() -> ValueError:
        if bool(((index < 0) | (index >= tokens)).any()):
            return ValueError(
                f"position {index.tolist()} is out of range: tokens are numbered 0 to {tokens - 1}."
            )
        example = int((~hit).nonzero()[0])
        found = real[example].nonzero().flatten().tolist()
        kept = f"{found[0]} to {found[-1]}" if found else "none"
        return ValueError(
            f"position {int(index[example])} of example {example} is padding; its real tokens are {kept}. "
            "Pass position=..."
        )

    return Start(chosen.to(dtype)[:, None], Failure(~hit.all(), make_error))


def _averaged(weights: Tensor, real: Tensor) -> Start:
    """Normalize weights `(B, N)` to sum 1, as `(B, 1, N)`; weights of padding and no weights are errors."""
    total = weights.sum(dim=-1, keepdim=True)
    negative = ~(weights.isfinite() & (weights >= 0)).all()
    padding = ((weights > 0) & ~real).any()

    def make_error() -> ValueError:
        if bool(negative):
            return ValueError("position has weights that are negative or not finite.")
        if bool(padding):
            return ValueError("position gives weight to padding: only real tokens can be explained.")
        empty = int((total == 0).flatten().nonzero()[0])
        return ValueError(
            f"no real token of example {empty} is at position=...; an example of padding only cannot be "
            "explained."
        )

    return Start((weights / total)[:, None], Failure(negative | padding | (total == 0).any(), make_error))


def _counts(positions: Sequence[Any], real: Tensor) -> Tensor:
    """Return the number of times each token occurs in a list of indices for each text, `(B, N)`."""
    batch, tokens = real.shape
    if len(positions) != batch:
        raise ValueError(f"position holds lists for {len(positions)} texts, the batch has {batch}.")
    counts = torch.zeros(batch, tokens, dtype=torch.long, device=real.device)
    for example, indices in enumerate(positions):
        for index in indices:
            if type(index) is not int or not 0 <= index < tokens:
                raise ValueError(
                    f"position {index!r} of example {example} is out of range: tokens are numbered 0 to "
                    f"{tokens - 1}."
                )
            counts[example, index] += 1
    return counts


def _first_index(target: Any, tokens: int) -> Position:
    """Return the position, the first of each target's indices: an int, or a tensor with one per example.

    As in Captum, negative indices count from the end, and one target may hold for all examples.
    """
    if isinstance(target, tuple):
        target = target[0]
    if isinstance(target, list):
        target = [t[0] if isinstance(t, tuple) else t for t in target]
    index = torch.as_tensor(target)
    index = index.where(index >= 0, index + tokens)
    return int(index) if index.numel() == 1 else index
