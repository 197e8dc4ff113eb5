"""Rules of other methods with one backward pass: what each paper changes in the frozen network.

If a paper propagates the relevance R of a value x, multipliers are R / x. Linear maps then have their
gradient (the epsilon rule with epsilon 0), and relevance is multiplier times value.
"""

from typing import Any

from torch import Tensor

from captum_globenc.differences.call import LINEAR, Backward, Pair, bound
from captum_globenc.differences.decompositions import attention_in_parts
from captum_globenc.differences.frozen import CONSTANTS, FROZEN, Rules
from captum_globenc.differences.op_sets import functions
from captum_globenc.differences.rules import EXACT, Row, matmul, multiply, quadratic
from captum_globenc.differences.scalars import SCALARS

SOFTMAX = functions("softmax _softmax")
IN_PARTS = dict.fromkeys(functions("scaled_dot_product_attention"), Row(decomposition=attention_in_parts))
"""Fused attention as two products and a softmax, each with its own rule."""

GRADIENTS = {
    function: Row(LINEAR)
    for names, _ in SCALARS
    for function in functions(names)
    if function not in CONSTANTS
}
"""Activations by their gradient."""

PRODUCTS = {
    function: Row(LINEAR) for function, row in EXACT.items() if row.rule in (quadratic, multiply, matmul)
}
"""Products of two values that depend on the input, by their gradient."""

ATTN_LRP = Rules({**FROZEN.table, **dict.fromkeys(SOFTMAX, Row(LINEAR)), **IN_PARTS})
"""AttnLRP, Achtibat et al. 2024 (arXiv 2402.05602).

Activations and standard deviations of norms pass relevance on unchanged (eq. 9, proposition 3.4), a product
gives half to each factor (propositions 3.2 and 3.3), and a softmax p of scores s passes on
R_s = s (R_p - p sum R_p) (proposition 3.1), which is its gradient. Everything else uses the epsilon rule, not
the gamma rule that the paper uses for images.
"""

CONSERVATIVE = Rules({**FROZEN.table, **GRADIENTS, **PRODUCTS}, slopes=False)
"""Conservative propagation, Ali et al. 2022 (arXiv 2202.07304).

Gradient times input, with attention (AH rule) and the deviations of norms (LN rule) as constants.
"""


def gim(temperature: float = 2.0) -> Rules:
    """Gradient interaction modifications, Edin et al. 2025 (arXiv 2505.17630).

    Standard deviations of norms are constants, a product gives half to each factor (so attention gives a
    quarter to queries and keys, half to values), and the backward pass of a softmax uses a higher
    temperature, p_T = softmax(s / T), instead of p: m_s = p_T (m_p - sum p_T m_p), as in the authors' code.
    Activations have their gradient.

    Args:
        temperature: T; 1 leaves the softmax unchanged.
    """

    def softened(
        output: Pair, input: Pair, dim: int = -1, _stacklevel: Any = 3, dtype: Any = None
    ) -> Backward:
        p = (input.value / temperature).softmax(dim)

        def backward(grad: Tensor) -> Any:
            made = p * grad
            return [(input, made - p * made.sum(dim, keepdim=True))]

        return backward

    return Rules(
        {**FROZEN.table, **GRADIENTS, **dict.fromkeys(SOFTMAX, Row(bound(softened))), **IN_PARTS},
        slopes=False,
    )
