"""Find the layers to recompute, intercept them, and estimate whether it is needed."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import Cache

from captum_globenc.attr.depths import stacks
from captum_globenc.differences.call import leaves
from captum_globenc.differences.recompute import Recomputation, RunLayer
from captum_globenc.errors import UnsupportedOperationError
from captum_globenc.recording.attention import observable_attention
from captum_globenc.recording.hooks import hidden_from_copies, replaced_forward
from captum_globenc.recording.recorder import lock_of

Recompute = bool | Literal["auto"]


def checked(recompute: Recompute, model: nn.Module | None, method: str) -> Recompute:
    """Return the argument of a method.

    Raises:
        ValueError: it is unknown, or there is no model whose layers could be recomputed.
    """
    if recompute not in (True, False, "auto"):
        raise ValueError(f'recompute is {recompute!r}: choose True, False or "auto"')
    if recompute is True and model is None:
        raise ValueError(
            "forward_func is not a module, so its layers cannot be found: pass the module that holds them, "
            f"{method}(forward_func, model, recompute=True)."
        )
    return recompute


def recomputation(
    model: nn.Module | None, recompute: Recompute, recorder: object, keep_first: bool = False
) -> Recomputation | None:
    """Return what a comparison needs to recompute layers; None if it does not recompute.

    Args:
        model: the module that runs.
        recompute: the argument of the method.
        recorder: the method, for :func:`observable_attention`.
        keep_first: whether to keep the first layer of the encoder, in which hidden states are recorded;
            "auto" always keeps it.

    Raises:
        NoLayersError: the model has no layers.
    """
    if model is None or not recompute:
        return None
    layers = stacks(model)
    return Recomputation(
        partial(
            _intercepted, model, layers, layers[0] if keep_first and recompute is True else None, recorder
        ),
        len(layers),
        fits if recompute == "auto" else None,
    )


@contextmanager
def _intercepted(
    model: nn.Module, layers: list[nn.Module], kept: nn.Module | None, recorder: object, run: RunLayer
) -> Iterator[None]:
    """Call `run` in place of the forward functions of layers, in this thread."""
    thread = threading.get_ident()
    distinct = list(dict.fromkeys(layers))
    unused: set[tuple[str, Cache]] = set()  # caches that were not passed on to a layer

    def wrapper(name: str, layer: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return forward(*args, **kwargs)
        args, kwargs = _without_cache(name, args, kwargs, unused)

        def observed(*args: Any, **kwargs: Any) -> Any:
            with observable_attention(layer, recorder):  # also when the layer runs again
                return forward(*args, **kwargs)

        return forward(*args, **kwargs) if layer is kept else run(name, observed, args, kwargs)

    with ExitStack() as contexts:
        contexts.enter_context(lock_of(model))
        contexts.enter_context(hidden_from_copies(distinct, set()))
        for number, layer in enumerate(distinct):
            name = f"{type(layer).__name__} {number}"
            contexts.enter_context(replaced_forward(layer, partial(wrapper, name, layer)))
        yield


def _without_cache(name: str, args: Any, kwargs: Any, unused: set[tuple[str, Cache]]) -> tuple[Any, Any]:
    """Return a layer's arguments without an empty cache of keys and values, which one pass does not need.

    Args:
        name: of the layer.
        args: its arguments.
        kwargs: its keyword arguments.
        unused: the layers and caches of the run so far, to which this adds.

    Raises:
        UnsupportedOperationError: the cache holds earlier tokens.
    """
    caches = [it for it in (*args, *kwargs.values()) if isinstance(it, Cache)]
    if not caches:
        return args, kwargs
    if not all(is_empty(it) and (name, it) not in unused for it in caches):
        raise UnsupportedOperationError(
            f"{name} reads a cache that holds keys and values of earlier tokens, so it cannot be recomputed: "
            "pass recompute=False, or run the model without past_key_values."
        )
    unused.update((name, it) for it in caches)
    args = tuple(None if isinstance(it, Cache) else it for it in args)
    kwargs = {
        key: None if isinstance(it, Cache) else False if key == "use_cache" else it
        for key, it in kwargs.items()
    }
    return args, kwargs


def is_empty(cache: Cache) -> bool:
    """Whether a cache holds no keys, values or states."""
    parts = [getattr(cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
    if isinstance(parts[0], Cache):
        return all(part is None or is_empty(part) for part in parts)
    held = [it for layer in getattr(cache, "layers", [cache]) for it in leaves(list(vars(layer).values()))]
    if not any(isinstance(it, torch.Tensor) and it.numel() for it in held):
        return True
    try:
        return not cache.get_seq_length()
    except ValueError:  # a cache of states, without a length
        return False


def fits(size: int, device: torch.device) -> bool:
    """Return whether a number of bytes fits in the free memory of a device; True if that is unknown."""
    free = free_memory(device)
    return free is None or size <= free


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes: of a GPU, or of a machine or container with Linux."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if device.type != "cpu":
        return None
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except OSError:
        return None
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{it}").read_text() for it in ("max", "current"))
        found.append(int(limit) - int(used))
    except (OSError, ValueError):  # no limit
        pass
    return min(found, default=None)
