"""Methods that run coalitions of tokens: first-last and paired KernelSHAP.

Shapes: A explained outputs, K coalitions, N tokens, n tokens that may be replaced.
"""

from collections.abc import Callable
from math import comb

import torch
from torch import Tensor

from captum_globenc.metrics.removal import outputs_without
from captum_globenc.metrics.shapley import subsets
from captum_globenc.texts.methods.captums import TEXTS_AT_ONCE
from captum_globenc.texts.request import AttributionRequest

Value = Callable[[Tensor], Tensor]
"""A function from coalitions `(K, n)`, True at present features, to the explained output `(K,)`."""


def of_coalitions(request: AttributionRequest, method: Callable[[Value, int], Tensor]) -> Tensor:
    """Run a method on the coalitions of each text, `(A, N)`; the baseline replaces absent tokens."""
    rows = []
    for one in request.singles():
        positions = (~one.kept)[0].nonzero()[:, 0]
        row = torch.zeros(one.inputs.shape[1], dtype=torch.double, device=positions.device)
        if len(positions):
            row[positions] = method(_value(one, positions), len(positions)).to(row)
        rows.append(row)
    scores = torch.stack(rows)
    return scores if next(request.of.model.parameters()).dtype == torch.double else scores.float()


def _value(one: AttributionRequest, positions: Tensor) -> Value:
    """Return the value function of coalitions of a single text's tokens."""

    def value(present: Tensor) -> Tensor:
        absent = torch.zeros(1, len(present), one.inputs.shape[1], dtype=torch.bool, device=positions.device)
        absent[0, :, positions] = ~present.to(positions.device)
        with torch.no_grad():
            outputs = outputs_without(
                one.of.blanked,
                one.inputs,
                absent,
                one.baselines,
                one.beside,
                max_examples_per_batch=TEXTS_AT_ONCE,
            )
        return outputs[0].double()

    return value


def first_last(value: Value, features: int) -> Tensor:
    """Return the mean contribution of each feature when added first and when added last, `(n,)`.

    Takes 2 n + 2 forward passes.

    Args:
        value: the explained output of coalitions.
        features: n, the number of features.

    Example:
        >>> first_last(lambda present: present[:, 0] * present[:, 1] + 3.0 * present[:, 2], 3)
        tensor([0.5000, 0.5000, 3.0000])
    """
    alone = torch.eye(features, dtype=torch.bool)
    ends = torch.stack([torch.zeros(features), torch.ones(features)]).bool()
    values = value(torch.cat([ends, alone, ~alone]))
    first, without = values[2:].chunk(2)
    return (first - values[0] + values[1] - without) / 2


def kernel_shap(value: Value, features: int, passes: int) -> Tensor:
    """Return KernelSHAP with paired sampling, `(n,)`.

    Lundberg & Lee (2017), section 4.1: Shapley values as a weighted linear regression, here with the sum of
    the scores fixed. Coalitions are sampled by the weights of the kernel, each with its complement (Covert &
    Lee 2021, section 3.2). If `passes` covers all coalitions, all are run and the values are exact. Among
    equally good solutions, the scores with the least variance are returned.

    Args:
        value: the explained output of coalitions.
        features: n, the number of features.
        passes: the number of coalitions, even, in addition to the full and the empty one.

    Example:
        >>> kernel_shap(lambda present: present[:, 0] * present[:, 1] + 3.0 * present[:, 2], 3, 16)
        tensor([0.5000, 0.5000, 3.0000], dtype=torch.float64)
    """
    ends = torch.stack([torch.zeros(features), torch.ones(features)]).bool()
    if features == 1:
        return value(ends).double().diff()
    sizes = torch.arange(1, features)
    by_size = 1 / (sizes * (features - sizes)).double()  # total weight of the coalitions of each size
    if 2**features - 2 <= passes:
        present = subsets(features)[1:-1]
        count = present.sum(1)
        by_count = torch.tensor([comb(features, size) for size in range(1, features)])
        weights = (by_size / by_count)[count - 1]
    else:
        drawn = sizes[by_size.multinomial(passes // 2, replacement=True)]
        ranks = torch.rand(passes // 2, features).argsort(1)
        half = ranks < drawn[:, None]
        present = torch.cat([half, ~half])
        weights = torch.ones(len(present), dtype=torch.double)
    values = value(torch.cat([ends, present])).double().cpu()
    none, change = values[0], values[1] - values[0]
    share = present.double().mean(1)
    # Scores are change / n + rest, and the rest sums to 0.
    design = present.double() - share[:, None]
    root = weights.sqrt()
    rest: Tensor = torch.linalg.pinv(design * root[:, None]) @ ((values[2:] - none - share * change) * root)
    return change / features + rest
