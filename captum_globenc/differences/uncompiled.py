"""Compiled functions run as they were written, while anybody needs to see what is in them."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

__all__ = ["uncompiled"]


class _Stance:
    """The compiler's stance, which is the process's: the first thread sets it, the last puts it back."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._users = 0
        self._set = ExitStack()

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run what is compiled as it was written."""
        with self._guard:
            if not self._users:
                self._set.enter_context(torch.compiler.set_stance("force_eager"))
            self._users += 1
        try:
            yield
        finally:
            with self._guard:
                self._users -= 1
                if not self._users:
                    self._set.close()


uncompiled = _Stance().eager
