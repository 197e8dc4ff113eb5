"""Split a document above the model's limit into overlapping windows, and merge their scores.

Shapes: N tokens of the document, W windows, M tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_windows", "find_segments", "merge_windows"]


def find_segments(batch: Mapping[str, Any], row: int, *, paired: bool) -> list[int | None]:
    """Return the segment of each token of a text, None for special tokens, without padding.

    Args:
        batch: the tokenizer's output, padded on the right, with `special_tokens_mask`.
        row: the index of the text.
        paired: whether the text has a second segment.

    Raises:
        ValueError: the text has two segments, and a slow tokenizer does not distinguish them.
    """
    encodings = getattr(batch, "encodings", None)
    if encodings:
        tokens = zip(encodings[row].sequence_ids, encodings[row].attention_mask, strict=True)
        return [segment for segment, real in tokens if real]
    if paired:
        raise ValueError("this tokenizer does not mark segments: use a fast tokenizer")
    special = [bool(it) for it in batch["special_tokens_mask"][row]]
    real = batch["attention_mask"][row] if "attention_mask" in batch else [True] * len(special)
    return [None if it else 0 for it, there in zip(special, real, strict=True) if there]


def cut_windows(segments: Sequence[int | None], limit: int, overlap: int) -> list[list[int]]:
    """Split a document into overlapping windows.

    Each window has all special tokens, the shorter of two segments, and a part of the longer one. All windows
    have M tokens: the last one starts earlier if needed and may share more than `overlap` tokens.

    Args:
        segments: the segment index of each of N tokens, None for special tokens.
        limit: M, the largest number of tokens that the model takes.
        overlap: the least number of tokens of the longer segment that neighboring windows share.

    Returns:
        W lists of M positions in the document, in ascending order.

    Raises:
        ValueError: special tokens and the shorter segment leave too few tokens for `overlap`.

    Example:
        >>> cut_windows([None, 0, 0, 0, 0, 0, None], 5, 1)
        [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    """
    count = len(segments)
    if count <= limit:
        return [list(range(count))]
    segment = int(segments.count(1) > segments.count(0))
    inside = [position for position, it in enumerate(segments) if it == segment]
    around = sorted(set(range(count)) - set(inside))
    room = limit - len(around)
    if room <= overlap:
        other = f" and the {'first' if segment else 'second'} segment" if 1 in segments else ""
        raise ValueError(
            f"special tokens{other} leave {max(room, 0)} of {limit} tokens to a window, too "
            f"few for neighboring windows that share {overlap}"
        )
    windows = 1 + math.ceil((len(inside) - room) / (room - overlap))
    starts = [min(number * (room - overlap), len(inside) - room) for number in range(windows)]
    return [sorted([*around, *inside[start : start + room]]) for start in starts]


def merge_windows(
    count: int, windows: Sequence[Sequence[int]], scores: Sequence[Sequence[float] | NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Average the scores of each token over the windows that contain it; 0 for tokens in no window.

    Args:
        count: N, the number of tokens of the document.
        windows: W lists of M positions in the document.
        scores: W rows of M scores.

    Returns:
        N scores.

    Example:
        >>> merge_windows(4, [[0, 1, 2], [0, 2, 3]], [[0.5, 1.0, 2.0], [0.5, 4.0, 8.0]]).tolist()
        [0.5, 1.0, 3.0, 8.0]
    """
    total, counts = np.zeros(count), np.zeros(count)
    for positions, row in zip(windows, scores, strict=True):
        total[list(positions)] += np.asarray(row, dtype=np.float64)
        counts[list(positions)] += 1
    merged: NDArray[np.float64] = total / np.maximum(counts, 1)
    return merged
