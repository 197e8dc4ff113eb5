"""transformers' attention interface: the function that shows a recorder what went into each attention.

B batch, N tokens, H heads, d head size.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from captum_globenc.decomposition.attention import Attention, QueryKeyAttention

ATTENTION_NAME = "captum_globenc"
"""The name of the recording attention function in transformers' attention interface."""


class Listener(Protocol):
    """What is shown each attention."""

    def see_attention(self, module: nn.Module, attention: Attention, value: Tensor) -> None:
        """Take note of the queries, keys, mask and values `(B, H or fewer, N, d)` of `module`."""
        ...


active: ContextVar[Listener | None] = ContextVar("captum_globenc_recorder", default=None)
"""Who listens in this context, a thread as a rule; None for a pass that nobody records."""

_watched: dict[int, int] = {}
_guard = threading.Lock()


@contextmanager
def recording_attention(stack: nn.Module) -> Iterator[None]:
    """Have every part of `stack` call the recording attention function, in contexts that listen.

    A config is shared by all parts of a model, by models that were made from it, and by threads. So
    nothing in it is changed but its class, to one that answers by the context that asks: a pass in
    another thread goes on with what it began with.
    """
    AttentionInterface.register(ATTENTION_NAME, _attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    configs = list({id(config): config for config in _configs(stack)}.values())
    with _guard:
        for config in configs:
            if id(config) not in _watched:
                kind: Any = type(config)
                config.__class__ = _by_context(kind)
            _watched[id(config)] = _watched.get(id(config), 0) + 1
    try:
        yield
    finally:
        with _guard:
            for config in configs:
                _watched[id(config)] -= 1
                if not _watched[id(config)]:
                    del _watched[id(config)]
                    config.__class__ = type(config).__bases__[0]


@cache
def _by_context(kind: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """Return a class of configs that name the recording attention function where somebody listens."""
    own: Any = kind._attn_implementation

    def implementation(config: PreTrainedConfig) -> Any:
        return own.fget(config) if active.get() is None else ATTENTION_NAME

    names = {"__module__": kind.__module__, "_attn_implementation": property(implementation, own.fset)}
    return type(kind.__name__, (kind,), names)


def _configs(stack: nn.Module) -> Iterator[PreTrainedConfig]:
    for module in stack.modules():
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            yield config


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Run SDPA for the model's own output, and show the listener what went in."""
    # An attention module that says nothing is an encoder's, and sees both ways (Splinter);
    # transformers' SDPA would take it for a decoder's.
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    listener = active.get()
    if listener is not None:
        listener.see_attention(
            module,
            QueryKeyAttention(
                query=query,
                key=key,
                scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
                mask=attention_mask,
                bias=position_bias,
                causal=causal and attention_mask is None,
            ),
            value,
        )
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=scaling,
        is_causal=causal,
        position_bias=position_bias,
        **kwargs,
    )
    return output
