"""Rules of other methods of one backward pass: what each changes of the frozen network's, by its paper.

Where a paper passes relevance R back, multipliers are R / x, x the value that it belongs to: then linear
maps have their gradient (the epsilon rule, epsilon 0), and relevance is multiplier times value.
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
IN_PARTS = dict.fromkeys(functions("scaled_dot_product_attention"), Row(composition=attention_in_parts))
"""Fused attention as two products and a softmax, each of which has its own row."""

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

An activation and the deviation of a norm pass on what they get (eq. 9, proposition 3.4), of a product half
goes to each factor (propositions 3.2 and 3.3), and a softmax p of scores s passes on
R_s = s (R_p - p sum R_p) (proposition 3.1), which is its gradient. With the epsilon rule everywhere else: the
gamma rule that the paper takes for images is left out.
"""

CONSERVATIVE = Rules({**FROZEN.table, **GRADIENTS, **PRODUCTS}, slopes=False)
"""Conservative propagation, Ali et al. 2022 (arXiv 2202.07304).

Gradient times input, with attention (AH rule) and the deviations of norms (LN rule) as constants.
"""


def gim(temperature: float = 2.0) -> Rules:
    """Gradient interaction modifications, Edin et al. 2025 (arXiv 2505.17630).

    The deviations of norms are constants, of a product half goes to each factor (of attention so a quarter
    to queries and keys, half to values), and the backward pass of a softmax takes the one at a higher
    temperature, p_T = softmax(s / T), in the place of p: m_s = p_T (m_p - sum p_T m_p), as the authors' code
    has it. Activations have their gradient.

    Args:
        temperature: T; 1 changes nothing of a softmax.
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
