"""Windows over a document that is longer than a model takes, and its scores laid together from theirs.

Letters: N tokens of the document, W windows, M tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_windows", "lay_together"]


def cut_windows(segments: Sequence[int | None], limit: int, overlap: int) -> list[list[int]]:
    """Choose the tokens of overlapping windows that hold all of a document between them.

    Each window has the special tokens, the second segment if there is one, and a stretch of the first.
    All are as long as the model takes: the last begins early enough for that, so that it may share more
    than `overlap` tokens with the one before it, and no window has little context.

    Args:
        segments: N numbers of the segment that a token belongs to, None for a special token.
        limit: M, how many tokens the model takes.
        overlap: how many tokens of the first segment two neighbouring windows share at least.

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
    inside = [place for place, segment in enumerate(segments) if segment == 0]
    around = sorted(set(range(count)) - set(inside))
    room = limit - len(around)
    if room <= overlap:
        raise ValueError(
            f"special tokens and the second segment leave {max(room, 0)} of {limit} tokens to a window, too "
            f"few for neighbours that share {overlap}"
        )
    windows = 1 + math.ceil((len(inside) - room) / (room - overlap))
    starts = [min(number * (room - overlap), len(inside) - room) for number in range(windows)]
    return [sorted([*around, *inside[start : start + room]]) for start in starts]


def lay_together(
    count: int, windows: Sequence[Sequence[int]], scores: Sequence[Sequence[float] | NDArray[np.floating]]
) -> NDArray[np.float64]:
    """Score the tokens of a document by the average over the windows that hold them.

    Windows are equally long, so they weigh the same. A token that two windows share does not count twice;
    special tokens and a second segment, which all windows have, are averaged over all of them.

    Args:
        count: N.
        windows: W lists of M positions in the document.
        scores: W rows of M scores.

    Returns:
        N scores.

    Example:
        >>> lay_together(4, [[0, 1, 2], [0, 2, 3]], [[0.5, 1.0, 2.0], [0.5, 4.0, 8.0]]).tolist()
        [0.5, 1.0, 3.0, 8.0]
    """
    total, held = np.zeros(count), np.zeros(count)
    for places, row in zip(windows, scores, strict=True):
        total[list(places)] += np.asarray(row, dtype=np.float64)
        held[list(places)] += 1
    laid: NDArray[np.float64] = total / held
    return laid
