"""Count the memory that tensors hold, without timing or the allocator's rounding."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """The largest number of bytes in storages that live at once, made by any function of torch.

    Args:
        ignored: tensors that are not counted, such as weights.

    Attributes:
        peak: in bytes.
    """

    def __init__(self, ignored=()):
        super().__init__()
        self._ignored = {it.untyped_storage()._cdata for it in ignored}
        self._live = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, torch.Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._ignored and storage._cdata not in self._live:
                    self._live[storage._cdata] = storage.nbytes(), StorageWeakRef(storage)
        self._live = {key: it for key, it in self._live.items() if not it[1].expired()}
        self.peak = max(self.peak, sum(size for size, _ in self._live.values()))
        return output
