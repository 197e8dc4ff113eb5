"""Turn off a model's own gradient checkpointing while it is explained."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from captum_globenc.encoders.search import submodules

FLAG = "gradient_checkpointing"
"""The attribute of transformers' modules that turns it on."""

_users: dict[int, int] = {}
_lock = threading.Lock()


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Run a model without gradient checkpointing, which would run its layers again without recording.

    It changes no value. The flags are restored when the last of several passes, in any thread, is over.

    Args:
        model: the module that runs.
    """
    with _lock:
        found = [it for it in submodules(model) if getattr(it, FLAG, None) is True or id(it) in _users]
        for module in found:
            setattr(module, FLAG, False)
            _users[id(module)] = _users.get(id(module), 0) + 1
    try:
        yield
    finally:
        with _lock:
            for module in found:
                _users[id(module)] -= 1
                if not _users[id(module)]:
                    del _users[id(module)]
                    setattr(module, FLAG, True)
