"""Statistics of single texts over the tokens that count.

Letters: B batch, N tokens, D embedding size.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def by_text(
    statistic: Callable[[Tensor, Tensor], float],
    mask: Tensor | None,
    **rows: Tensor,
) -> Tensor:
    """Return a statistic of two rows of each text, the tokens left out that do not count.

    Args:
        statistic: of the two rows of a text, on the CPU.
        mask: `(B, N)`, True at the tokens that count; None where all do.
        **rows: two tensors `(B, N)` by the names that a message gives them.

    Returns:
        `(B,)` float64.

    Raises:
        ValueError: the shapes do not match.

    Example:
        >>> a, b = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 1.0, 9.0]])
        >>> by_text(lambda x, y: float(x @ y), torch.tensor([[1, 1, 0]]), one=a, other=b)
        tensor([3.], dtype=torch.float64)
    """
    first, second = (row.cpu() for row in rows.values())
    counts = torch.ones_like(first, dtype=torch.bool) if mask is None else mask.bool().cpu()
    if not first.shape == second.shape == counts.shape:
        shapes = {**rows, "mask": counts}
        raise ValueError(", ".join(f"{name} {tuple(row.shape)}" for name, row in shapes.items()) + ".")
    values = [statistic(a[keep], b[keep]) for a, b, keep in zip(first, second, counts, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def per_token(attributions: Tensor) -> Tensor:
    """Return scores of tokens, `(B, N)` float64: those of embeddings `(B, N, D)` are summed."""
    scores = attributions.detach().double()
    return scores.flatten(2).sum(dim=2) if scores.ndim > 2 else scores
