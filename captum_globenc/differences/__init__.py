"""Exact differences: what the difference of a function between two inputs is made of, for any network.

Multipliers for each operation, by one table of rules, that chain like gradients and add up (DeepLIFT,
Shrikumar et al. 2017, sections 3.1 and 3.2). Knows tensors and torch's functions, no model and no Captum.
"""

from typing import TYPE_CHECKING

from captum_globenc.errors import UnsupportedOperationError
from captum_globenc.extras import on_demand

if TYPE_CHECKING:
    from captum_globenc.differences.call import CONSTANT, LINEAR, QUADRATIC, Backward, Call, Pair, Rule, bound
    from captum_globenc.differences.rules import register_rule
    from captum_globenc.differences.run import Comparison, RandomNumbers, compare, compare_path, freeze

__all__ = [
    "CONSTANT",
    "LINEAR",
    "QUADRATIC",
    "Backward",
    "Call",
    "Comparison",
    "NotComparableError",
    "Pair",
    "RandomNumbers",
    "Rule",
    "UnsupportedOperationError",
    "bound",
    "compare",
    "compare_path",
    "freeze",
    "register_rule",
]

NotComparableError = UnsupportedOperationError
"""The earlier name."""

__getattr__, __dir__ = on_demand(
    __name__,
    {
        **dict.fromkeys(
            ("CONSTANT", "LINEAR", "QUADRATIC", "Backward", "Call", "Pair", "Rule", "bound"), "call"
        ),
        **dict.fromkeys(("Comparison", "RandomNumbers", "compare", "compare_path", "freeze"), "run"),
        "register_rule": "rules",
    },
)
