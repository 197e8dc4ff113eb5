"""Exact differences: contributions to the difference of a function between two inputs, for any network.

One table of rules gives multipliers for each operation. They chain like gradients, and multipliers times
differences sum to the difference of the output (DeepLIFT, Shrikumar et al. 2017, sections 3.1 and 3.2).
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
