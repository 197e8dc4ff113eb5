"""What an attention module really does, seen as it calls torch's functions.

Whatever the model attends with, a fused function or a softmax of its own, transformers' or the user's:
what is taken is what was multiplied with the values. B batch, H heads, N tokens, d head size.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from captum_globenc.decomposition.attention import Attention, GivenAttention, QueryKeyAttention
from captum_globenc.recording.denominators import attend_telling

PRODUCTS = frozenset({"matmul", "__matmul__", "bmm"})
"""Names of the functions and methods that multiply matrices."""


class AttentionWatcher(TorchFunctionMode):
    """Sees, in this thread and while it is entered, queries and keys or probabilities, and values.

    Args:
        batch: B.
        tokens: N.
        see: called with the attention and its values `(B, H or fewer, N, d)`, at each that happens.
    """

    def __init__(self, batch: int, tokens: int, see: Callable[[Attention, Tensor], None]) -> None:
        super().__init__()
        self._batch = batch
        self._tokens = tokens
        self._see = see
        # What became of a softmax's result, and what the softmax was taken of, by the identity of a
        # tensor that is held here, so that no other can have it.
        self._followed: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, and take note of it."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            told = attend_telling(*args, **kwargs)
            output, logsumexp = (func(*args, **kwargs), None) if told is None else told
            self._see_fused(logsumexp, *args, **kwargs)
            return output
        output = func(*args, **kwargs)
        if name == "softmax":
            self._follow(output, args[0] if args else kwargs["input"])
        elif self._followed:
            self._see_any(name, (*args, *kwargs.values()), output)
        return output

    def _follow(self, weights: Tensor, scores: Tensor) -> None:
        self._followed[id(weights)] = weights, scores

    def _see_fused(
        self,
        logsumexp: Tensor | None,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        if query.ndim == 3:  # (B*H, N, d)
            query, key, value = (self._by_head(tensor) for tensor in (query, key, value))
            if attn_mask is not None and attn_mask.ndim == 3 and len(attn_mask) > 1:
                attn_mask = self._by_head(attn_mask)
        if query.ndim != 4 or len(query) != self._batch:
            return  # not of tokens
        if attn_mask is not None:
            attn_mask = attn_mask.reshape((1,) * (4 - attn_mask.ndim) + attn_mask.shape)
        if self._tokens == 1 and query.shape[2] > 1:
            # For one token transformers lays the heads that share a key out as if they were tokens.
            query, attn_mask, logsumexp = query.flatten(1, 2)[:, :, None], None, None
        attention = QueryKeyAttention(
            query=query,
            key=key,
            scaling=query.shape[-1] ** -0.5 if scale is None else scale,
            mask=attn_mask,
            causal=is_causal,
            logsumexp=logsumexp,
        )
        self._see(attention, value)

    def _see_any(self, name: str, operands: tuple[Any, ...], output: Any) -> None:
        """Follow the weights through whatever becomes of them, up to their product with the values."""
        for place, operand in enumerate(operands):
            if id(operand) not in self._followed:
                continue
            weights, scores = self._followed[id(operand)]
            if name == "einsum":
                value = _summed_over(operands[0], weights, operands[-1]) if place == 1 else None
                if value is not None:
                    self._see_product(weights, scores, value)
            elif name in PRODUCTS:
                if place == 0:
                    self._see_product(weights, scores, operands[1])
            elif isinstance(output, Tensor) and output.numel() == weights.numel():
                self._follow(output, scores)

    def _see_product(self, weights: Tensor, scores: Tensor, value: Tensor) -> None:
        if weights.ndim == 3 and value.ndim == 3 and len(weights) == len(value):  # (B*H, N, N)
            weights, value, scores = (self._by_head(tensor) for tensor in (weights, value, scores))
        # Another softmax, such as that of a gate, is none of tokens.
        if weights.ndim == value.ndim == 4 and weights.shape[0] == self._batch:
            self._see(GivenAttention(weights, scores), value)

    def _by_head(self, tensor: Tensor) -> Tensor:
        """Take `(B*H, ...)` apart to `(B, H, ...)`; what cannot be is returned as it is."""
        if len(tensor) % self._batch:
            return tensor
        return tensor.reshape(self._batch, -1, *tensor.shape[-2:])


def _summed_over(equation: Any, weights: Tensor, value: Any) -> Tensor | None:
    """Return the values `(B, H, N, d)` of a product that is written as an Einstein sum; None for another."""
    if not isinstance(equation, str) or not isinstance(value, Tensor) or weights.ndim != 4:
        return None
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or len(operands[0]) != 4 or len(operands[1]) != 4:
        return None
    kept = operands[0][:2] + operands[0][3]
    size = set(operands[1]) - set(kept)
    if len(size) != 1:
        return None
    return value.permute([operands[1].index(letter) for letter in (*kept, *size)])
