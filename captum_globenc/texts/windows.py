"""Windows over a document that is longer than a model takes, and its scores laid together from theirs.

Letters: N tokens of the document, W windows, M tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_windows", "find_segments", "merge_windows"]


def find_segments(batch: Mapping[str, Any], row: int, *, paired: bool) -> list[int | None]:
    """Return which segment each token of a text is of, None for special tokens, padding left out.

    Args:
        batch: what the tokenizer returned, padded on the right, with `special_tokens_mask`.
        row: the number of the text.
        paired: whether it has a second segment.

    Raises:
        ValueError: the tokenizer, one written in Python, does not tell two segments apart.
    """
    encodings = getattr(batch, "encodings", None)
    if encodings:
        told = zip(encodings[row].sequence_ids, encodings[row].attention_mask, strict=True)
        return [segment for segment, real in told if real]
    if paired:
        raise ValueError("this tokenizer does not tell two segments apart: no windows")
    special = [bool(it) for it in batch["special_tokens_mask"][row]]
    real = batch["attention_mask"][row] if "attention_mask" in batch else [True] * len(special)
    return [None if it else 0 for it, there in zip(special, real, strict=True) if there]


def cut_windows(segments: Sequence[int | None], limit: int, overlap: int) -> list[list[int]]:
    """Choose the tokens of overlapping windows that hold all of a document between them.

    Each window has the special tokens, the shorter segment if there are two, and a stretch of the longer.
    All are as long as the model takes: the last begins early enough for that, so that it may share more
    than `overlap` tokens with the one before it, and no window has little context.

    Args:
        segments: N numbers of the segment that a token belongs to, None for a special token.
        limit: M, how many tokens the model takes.
        overlap: how many tokens of the longer segment two neighbouring windows share at least.

    Returns:
        W lists of M positions in the document, in order.

    Raises:
        ValueError: what every window has leaves too little room.

    Example:
        >>> cut_windows([None, 0, 0, 0, 0, 0, None], 5, 1)
        [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    """
    count = len(segments)
    if count <= limit:
        return [list(range(count))]
    segment = int(segments.count(1) > segments.count(0))
    inside = [place for place, it in enumerate(segments) if it == segment]
    around = sorted(set(range(count)) - set(inside))
    room = limit - len(around)
    if room <= overlap:
        other = "second" if segment == 0 else "first"
        raise ValueError(
            f"special tokens and the {other} segment leave {max(room, 0)} of {limit} tokens to a window, too "
            f"few for neighbours that share {overlap}"
        )
    windows = 1 + math.ceil((len(inside) - room) / (room - overlap))
    starts = [min(number * (room - overlap), len(inside) - room) for number in range(windows)]
    return [sorted([*around, *inside[start : start + room]]) for start in starts]


def merge_windows(
    count: int, windows: Sequence[Sequence[int]], scores: Sequence[Sequence[float] | NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Score the tokens of a document by the average over the windows that hold them.

    Windows are equally long, so they weigh the same. A token that two windows share does not count twice;
    special tokens and a segment which all windows have are averaged over all of them. What no window holds
    scores 0.

    Args:
        count: N.
        windows: W lists of M positions in the document.
        scores: W rows of M scores.

    Returns:
        N scores.

    Example:
        >>> merge_windows(4, [[0, 1, 2], [0, 2, 3]], [[0.5, 1.0, 2.0], [0.5, 4.0, 8.0]]).tolist()
        [0.5, 1.0, 3.0, 8.0]
    """
    total, held = np.zeros(count), np.zeros(count)
    for places, row in zip(windows, scores, strict=True):
        total[list(places)] += np.asarray(row, dtype=np.float64)
        held[list(places)] += 1
    laid: NDArray[np.float64] = total / np.maximum(held, 1)
    return laid
