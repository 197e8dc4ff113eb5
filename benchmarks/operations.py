"""How many torch operations and kernels each method takes on an accelerator, counted on a CPU.

    python benchmarks/operations.py [--shape 8x64] [--layers 12] [--padded]

A narrow BERT with random weights: counts do not depend on the width. The package works as on an
accelerator, with its tile budget and without the shortcuts that it has for CPUs. An operation is what torch
dispatches to a backend; a kernel is an operation that computes or copies something: neither a view nor an
allocation. On a GPU, an operation may launch several kernels.
"""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from subjects import Subjects, shape_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward
from captum_globenc.decomposition import workspace
from captum_globenc.differences import attention as fused
from captum_globenc.differences import scalars
from captum_globenc.recording import attention

SYNCS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.item")
"""Operations whose result the CPU waits for."""
NO_KERNEL = ("aten._unsafe_view", "aten.empty", "aten.empty_like", "aten.empty_strided", "aten.new_empty",
             "aten.new_empty_strided")  # fmt: skip
"""Operations that compute nothing and are no views by their schema."""


class Dispatched(TorchDispatchMode):
    """Counts the operations that torch dispatches, and calls of `tolist`, which torch does not dispatch.

    `names` holds the number of calls of each operation, such as `aten.add.Tensor`, `kernels` the number of
    operations that compute or copy something.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.kernels = 0
        self._lists = 0
        self._patch = mock.patch.object(torch.Tensor, "tolist", self._counting(torch.Tensor.tolist))

    def __enter__(self) -> "Dispatched":
        """Start to count."""
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)
        self._patch.stop()

    def _counting(self, own: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
        def tolist(tensor: torch.Tensor) -> Any:
            self._lists += 1
            return own(tensor)

        return tolist

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        self.names[str(func)] += 1
        self.kernels += launches(func)
        return func(*args, **(kwargs or {}))

    @property
    def operations(self) -> int:
        """The number of operations."""
        return sum(self.names.values())

    @property
    def syncs(self) -> int:
        """The number of operations that synchronize the device."""
        waiting = (count for name, count in self.names.items() if name.rpartition(".")[0] in SYNCS)
        return self._lists + sum(waiting)


def launches(func: Any) -> bool:
    """Return whether an operation launches a kernel: it is neither a view nor an allocation."""
    return not (func.is_view or str(func).rpartition(".")[0] in NO_KERNEL)


@contextmanager
def as_on_an_accelerator() -> Iterator[None]:
    """Let the package work on CPU tensors as on those of an accelerator."""
    with ExitStack() as stack:
        for owner, name, value in (
            (workspace, "CPU", workspace.ACCELERATOR),
            (scalars, "PART", 2**62),
            (fused, "TILE", fused.ACCELERATOR_TILE),
            (fused, "ROWS", 2**62),
            (attention, "attention_with_logsumexp", lambda *args, **kwargs: None),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


@dataclass(frozen=True)
class Counts:
    """What one call takes."""

    operations: int
    kernels: int
    syncs: int


def counts(call: Callable[[], object]) -> Counts:
    """Count the second call: the first also checks the model."""
    call()
    with Dispatched() as seen:
        call()
    return Counts(seen.operations, seen.kernels, seen.syncs)


def counted(shape: tuple[int, int] = (8, 64), layers: int = 12, padded: bool = False) -> dict[str, Counts]:
    """Return the counts of a forward pass, a gradient and each method, by name.

    Args:
        shape: texts and tokens.
        layers: of the BERT.
        padded: whether half of the texts have a third of their tokens as padding.
    """
    torch.manual_seed(0)
    config = BertConfig(vocab_size=100, hidden_size=48, intermediate_size=64, num_hidden_layers=layers)
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(4, 100, shape)
    mask = torch.ones_like(ids)
    if padded:
        mask[: max(shape[0] // 2, 1), shape[1] * 2 // 3 :] = 0
    baselines = torch.where(mask == 1, 3, ids)
    calls = Subjects(EncoderForward(model)).of(ids, baselines, 1, (mask,))
    with as_on_an_accelerator():
        return {name: counts(call) for name, call in calls.items()}


def table(found: dict[str, Counts]) -> Iterator[str]:
    """Yield the lines of a table of counts, with ratios to the forward pass."""
    unit = found["forward"]
    yield "| | operations | kernels | syncs | kernels, times the forward pass |"
    yield "|---|---:|---:|---:|---:|"
    for name, it in found.items():
        ratio = f"{it.kernels / unit.kernels:.1f}"
        yield f"| {name} | {it.operations:,} | {it.kernels:,} | {it.syncs:,} | {ratio} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=shape_of, default=(8, 64), metavar="BATCHxTOKENS")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--padded", action="store_true", help="pad half of the texts")
    options = parser.parse_args()
    for line in table(counted(options.shape, options.layers, options.padded)):
        print(line)


if __name__ == "__main__":
    main()
