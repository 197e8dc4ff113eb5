"""The table of rules: which function of torch has which.

A function is one row: how it is written out as others, or its rule. What is in no row is refused.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from captum_globenc.differences.attention import fused_attention
from captum_globenc.differences.call import LINEAR, QUADRATIC, Rule, bound
from captum_globenc.differences.compositions import COMPOSITIONS, FROM_THE_RIGHT
from captum_globenc.differences.kinds import IDENTITIES, LINEAR_FUNCTIONS, QUADRATIC_FUNCTIONS
from captum_globenc.differences.names import table
from captum_globenc.differences.norms import batch_norm, layer_norm, vector_norm
from captum_globenc.differences.products import divide, matmul, multiply, quadratic
from captum_globenc.differences.scalars import SCALARS
from captum_globenc.differences.selection import extreme_of_dimension, extreme_of_two, max_pool, top
from captum_globenc.differences.softmax import log_softmax, logsumexp, softmax

__all__ = ["EXACT", "ROWS", "Row", "register_rule"]


class Row(NamedTuple):
    """What is done with a function.

    Attributes:
        rule: its rule; LINEAR, QUADRATIC, or a function.
        composition: what it is written out as first, where that does not decline.
    """

    rule: Rule | str | None = None
    composition: Callable[..., Any] | None = None


ROWS: tuple[tuple[str, Any], ...] = (
    ("mul multiply", multiply),
    ("matmul bmm mm", matmul),
    ("div divide true_divide truediv", divide),
    ("softmax _softmax", bound(softmax)),
    ("log_softmax _log_softmax", bound(log_softmax)),
    ("logsumexp", bound(logsumexp)),
    ("layer_norm", bound(layer_norm)),
    ("batch_norm", bound(batch_norm)),
    ("norm linalg_norm linalg_vector_norm vector_norm", vector_norm),
    ("maximum", extreme_of_two(True)),
    ("minimum", extreme_of_two(False)),
    ("max amax", extreme_of_dimension(True)),
    ("min amin", extreme_of_dimension(False)),
    ("max_pool1d max_pool2d max_pool3d", max_pool),
    ("max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices", max_pool),
    ("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d", max_pool),
    ("topk", top),
    ("scaled_dot_product_attention", bound(fused_attention)),
)
"""Names of functions of several numbers, and their rules."""

_RULES: dict[Callable[..., Any], Rule | str] = {
    **dict.fromkeys(LINEAR_FUNCTIONS | IDENTITIES, LINEAR),
    **dict.fromkeys(QUADRATIC_FUNCTIONS, quadratic),
    **table(SCALARS),
    **table(ROWS),
}
_COMPOSITIONS = {**table(COMPOSITIONS), **FROM_THE_RIGHT}

EXACT: dict[Callable[..., Any], Row] = {
    function: Row(_RULES.get(function), _COMPOSITIONS.get(function))
    for function in {**_RULES, **_COMPOSITIONS}
}
"""Every function that has an exact rule."""


def register_rule(function: Callable[..., Any], rule: Rule | str) -> None:
    """Add a rule for a function of torch, or replace it, for all that runs from now on.

    Args:
        function: as torch has it, such as ``torch.special.i0``; methods and operators are functions of
            their own.
        rule: `LINEAR`, `QUADRATIC`, or a function that takes a :class:`~captum_globenc.differences.Call` and
            returns its backward pass: from the multipliers of its outputs to a list of pairs and their
            multipliers, so that the sum of multipliers times differences is the difference of the
            outputs. `bound` makes one of a function with torch's own parameters.

    Raises:
        TypeError: `function` cannot be called, or `rule` is none.

    Example:
        >>> import torch
        >>> from captum_globenc.differences import register_rule
        >>> from captum_globenc.differences.scalars import smooth
        >>> register_rule(torch.special.i0, smooth)
    """
    if not callable(function) or not (rule in (LINEAR, QUADRATIC) or callable(rule)):
        raise TypeError("register_rule takes a function of torch, and LINEAR, QUADRATIC or a rule")
    EXACT[function] = Row(quadratic if rule == QUADRATIC else rule)
