"""Attention that runs in one kernel, where nothing can be seen: replaced by SDPA for the recorded pass."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from captum_globenc.encoders.walk import every

FUSED = frozenset({"flash_attention_2", "flash_attention_3", "flash_attention_4", "flex_attention"})
"""transformers' names of implementations that equal softmax attention and cannot be seen into."""

active: ContextVar[object | None] = ContextVar("captum_globenc_recorder", default=None)
"""Who records in this context, a thread as a rule; None for a pass that nobody records."""

_replaced: dict[int, int] = {}
_guard = threading.Lock()


@contextmanager
def without_fused_attention(stack: nn.Module) -> Iterator[None]:
    """Have every part of `stack` whose attention is one of :data:`FUSED` use SDPA, in contexts that record.

    A config is shared by all parts of a model, by models that were made from it, and by threads. So
    nothing in it is changed but its class, to one that answers by the context that asks: a pass in
    another thread goes on with what it began with. No other implementation is touched.
    """
    every = {id(config): config for config in _configs(stack)}
    configs = [config for config in every.values() if config._attn_implementation in FUSED]
    with _guard:
        for config in configs:
            if id(config) not in _replaced:
                kind: Any = type(config)
                config.__class__ = _by_context(kind)
            _replaced[id(config)] = _replaced.get(id(config), 0) + 1
    try:
        yield
    finally:
        with _guard:
            for config in configs:
                _replaced[id(config)] -= 1
                if not _replaced[id(config)]:
                    del _replaced[id(config)]
                    config.__class__ = type(config).__bases__[0]


@contextmanager
def seen_into(model: nn.Module | None, by: object) -> Iterator[None]:
    """Have what runs in this context attend in ways that can be seen into.

    Args:
        model: whose parts; where None, nothing is done.
        by: who looks.
    """
    if model is None:
        yield
        return
    token = active.set(by)
    states = [buffer for buffer in model.buffers() if not buffer.requires_grad]
    try:
        with without_fused_attention(model):
            yield
    finally:
        active.reset(token)
        for buffer in states:  # what a run wrote into the model must not hold on to its graph
            if buffer.requires_grad:
                buffer.detach_()


@cache
def _by_context(kind: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """Return a class of configs that name SDPA where somebody records."""
    own: Any = kind._attn_implementation

    def implementation(config: PretrainedConfig) -> Any:
        named = own.fget(config)
        return "sdpa" if named in FUSED and active.get() is not None else named

    def reduce(config: Any, protocol: Any) -> Any:
        # A copy or a pickle that is made meanwhile is of the config's own class.
        made: Any = kind.__reduce_ex__(config, protocol)
        return object.__new__, (kind,), *made[2:]

    names = {
        "__module__": kind.__module__,
        "__reduce_ex__": reduce,
        "_attn_implementation": property(implementation, own.fset),
    }
    return type(kind.__name__, (kind,), names)


def _configs(stack: nn.Module) -> Iterator[PretrainedConfig]:
    for module in every(stack):
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            yield config
