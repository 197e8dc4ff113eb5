"""What an attribution costs on a GPU: time, memory, kernel launches, device syncs, and parts in float32.

    python benchmarks/gpu.py [--device cuda] [--minutes 5.5] [--output build/gpu.json]
    python benchmarks/gpu.py --device cpu --quick       # all of the script on tiny models, without a GPU
    python benchmarks/gpu.py --table build/gpu.json     # the table of docs/cost.md

Models have random weights. Times are CUDA events, medians over rounds in which each subject runs once, over
the median forward pass of the same case. Peak memory is above what was allocated before the call. Kernels
are those that the profiler saw, syncs those that `torch.cuda.set_sync_debug_mode` warns of. The script leaves
out what does not fit into the time or the memory that is left, and says why. On a CPU, kernels and syncs are
dispatched operations, as in `operations.py`, and peak memory is that of the resident set.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from operations import Dispatched, as_on_an_accelerator, launches
from subjects import Subjects, peak_resident
from torch import nn
from torch.utils.flop_counter import flop_registry
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

import captum_globenc
from captum_globenc import EncoderForward, TransformerDeepLift

Call = Callable[[], object]
Cell = dict[str, Any]
ROUNDS = 11
PASSES = {"TransformerDeepLift": 30, "DecompX": 15}
"""How many forward passes the first two calls may take, which also check the model; 10 if not here."""
HALF = 8
"""By how much that grows in half precision, where these two methods compute in float32."""
COUNTING = 5
"""How many times longer a call takes to be counted in every way."""
COMPILING = 90
"""Seconds that `torch.compile` may take."""


@dataclass(frozen=True)
class Model:
    """A classifier of some shape; `tiny` are the settings of a small one, for a CPU."""

    head: Any
    config: Any
    sizes: dict[str, Any]
    tiny: dict[str, Any]
    encoder: bool = True


TINY = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 8192}
TINY_LLAMA = {**TINY, "num_key_value_heads": 2, "max_position_embeddings": 8192}
MODELS = {
    "BERT-base": Model(
        BertForSequenceClassification,
        BertConfig,
        {"max_position_embeddings": 8192},
        {**TINY, "max_position_embeddings": 8192},
    ),
    "ModernBERT-base": Model(ModernBertForSequenceClassification, ModernBertConfig, {}, {**TINY, **IDS}),
    "Llama 1B": Model(
        LlamaForSequenceClassification,
        LlamaConfig,
        {
            **LLAMA,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
        },
        TINY_LLAMA,
        encoder=False,
    ),
    "Llama 8B": Model(
        LlamaForSequenceClassification,
        LlamaConfig,
        {
            **LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
        TINY_LLAMA,
        encoder=False,
    ),
}


@dataclass(frozen=True)
class Case:
    """A model on one batch.

    Args:
        model: a name in `MODELS`.
        batch: number of texts. Of several, half are padded.
        tokens: of a text.
        dtype: the name of the model's dtype.
        tf32: whether products in float32 may run in TF32.
        launches: whether to measure the forward pass with CUDA graphs and compiled, in place of the methods.
    """

    model: str
    batch: int
    tokens: int
    dtype: str = "float32"
    tf32: bool = False
    launches: bool = False


CASES = (
    Case("BERT-base", 1, 128),
    Case("BERT-base", 64, 128),
    Case("ModernBERT-base", 1, 128),
    Case("ModernBERT-base", 64, 128),
    Case("BERT-base", 64, 128, "bfloat16"),
    Case("BERT-base", 64, 128, "bfloat16", tf32=True),
    Case("BERT-base", 64, 128, "float16"),
    Case("Llama 1B", 1, 2048, "bfloat16"),
    Case("BERT-base", 1, 8192),
    Case("ModernBERT-base", 1, 8192),
    Case("Llama 1B", 1, 8192, "bfloat16"),
    Case("Llama 8B", 1, 2048, "bfloat16"),
    Case("Llama 8B", 1, 8192, "bfloat16"),
    Case("BERT-base", 1, 128, launches=True),
)
"""The most important first, because the time may be over before the last."""


def tiny(case: Case) -> Case:
    """Return a case of the same kind for a CPU."""
    return Case(
        case.model, min(case.batch, 4), max(case.tokens // 128, 8), case.dtype, case.tf32, case.launches
    )


class LeftOutError(Exception):
    """Says why something is not measured."""


class Clock:
    """The time left.

    Args:
        seconds: of the whole script.
        now: returns the time in seconds.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def share(self, of: int) -> "Clock":
        """Return the clock of the next of so many cases: an equal share of the time left."""
        return Clock(self.left / of, self._now)

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self._end - self._now()

    def require(self, seconds: float) -> None:
        """Raise LeftOutError if there is less time left."""
        if seconds > self.left:
            raise LeftOutError(
                f"needs about {seconds:.0f} s, and {max(self.left, 0):.0f} s of its share are left"
            )


class Device:
    """How to measure a call on a CPU, which stands in for a GPU."""

    backend = "eager"
    """Of `torch.compile`."""

    def __init__(self, name: str) -> None:
        self.device = torch.device(name)

    def mode(self) -> AbstractContextManager[None]:
        """Return the context in which everything runs."""
        return as_on_an_accelerator()

    def environment(self) -> dict[str, Any]:
        """Describe the device."""
        return {"device": platform.machine(), "threads": torch.get_num_threads()}

    def free(self) -> float:
        """Return the bytes of memory that are free."""
        return float("inf")

    def release(self) -> None:
        """Return unused memory to the device, which a CPU does itself."""

    def seconds(self, call: Call) -> float:
        """Return how long a call takes."""
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def peak(self, call: Call) -> int:
        """Return the most bytes that a call takes at once."""
        return peak_resident(call)

    def kernels(self, call: Call) -> int:
        """Return how many kernels a call launches."""
        with Dispatched() as seen:
            call()
        return seen.kernels

    def syncs(self, call: Call) -> int:
        """Return how often a call waits for the device."""
        with Dispatched() as seen:
            call()
        return seen.syncs

    def graph(self, call: Call) -> Call:
        """Return a call that replays the kernels of another, which reads no number from the device."""
        return call


class Gpu(Device):
    """How to measure a call on a GPU, with CUDA events, torch's allocator and its profiler."""

    backend = "inductor"

    def mode(self) -> AbstractContextManager[None]:
        """Return the context in which everything runs."""
        return nullcontext()

    def environment(self) -> dict[str, Any]:
        """Describe the device."""
        found = torch.cuda.get_device_properties(self.device)
        return {"device": found.name, "memory_bytes": found.total_memory, "cuda": torch.version.cuda}

    def free(self) -> float:
        """Return the bytes of memory that are free."""
        self.release()
        return torch.cuda.mem_get_info(self.device)[0]

    def release(self) -> None:
        """Return unused memory to the device."""
        gc.collect()
        torch.cuda.empty_cache()

    def seconds(self, call: Call) -> float:
        """Return how long a call takes, from the first launch to the end of the last kernel."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000

    def peak(self, call: Call) -> int:
        """Return the most bytes that a call takes at once."""
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def kernels(self, call: Call) -> int:
        """Return how many kernels a call launches."""
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            call()
            torch.cuda.synchronize()
        return launched(profile.events() or ())

    def syncs(self, call: Call) -> int:
        """Return how often a call waits for the device."""
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                call()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(it.message) for it in caught)

    def graph(self, call: Call) -> Call:
        """Return a call that replays the kernels of another, which reads no number from the device."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay


def launched(events: Iterable[Any]) -> int:
    """Return how many of the profiler's events are kernels of a GPU, neither copies nor annotations."""
    return sum(
        "CUDA" in str(it.device_type)
        and not it.name.startswith(("Memcpy", "Memset"))
        and not getattr(it, "is_user_annotation", False)
        for it in events
    )


@dataclass
class Precisions:
    """How much of a call is computed in float32, where the model has half precision.

    Args:
        kernels: their number by the dtype of the result, such as "float32".
        products: multiplications and additions of matrix products and attention, by dtype.
        names: the number of kernels in float32 by operation.
    """

    kernels: Counter[str] = field(default_factory=Counter)
    products: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)

    def shares(self) -> dict[str, Any]:
        """Return the shares in float32, in [0, 1], and the most frequent operations in float32."""
        return {
            "float32_kernels": self.kernels["float32"] / max(self.kernels.total(), 1),
            "float32_products": self.products["float32"] / max(self.products.total(), 1),
            "float32_operations": [name for name, _ in self.names.most_common(5)],
        }


class PrecisionMode(Dispatched):
    """Counts kernels and products by dtype in `found`; only results of floating-point numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Precisions()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operation and run it."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        if isinstance(first, torch.Tensor) and first.is_floating_point() and launches(func):
            dtype = str(first.dtype).removeprefix("torch.")
            self.found.kernels[dtype] += 1
            if dtype == "float32":
                self.found.names[str(func).split(".")[1]] += 1
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                self.found.products[dtype] += formula(*args, **(kwargs or {}), out_val=result)
        return result


def build(case: Case, device: Device, quick: bool) -> nn.Module:
    """Return the model of a case, on the device, with random weights.

    Raises:
        LeftOutError: it does not fit into the memory.
    """
    kind = MODELS[case.model]
    config = kind.config(**(kind.tiny if quick else kind.sizes))
    dtype = getattr(torch, case.dtype)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in kind.head(config).parameters()) * dtype.itemsize
    if size * 1.1 > device.free():
        raise LeftOutError(f"the weights take {size / 1e9:.1f} GB, and {device.free() / 1e9:.1f} GB are free")
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device.device:
            return kind.head(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)


def calls_of(case: Case, model: nn.Module, device: Device) -> dict[str, Callable[[], Call]]:
    """Return functions that prepare the calls of a case, by name, the forward pass first."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 100, (case.batch, case.tokens), generator=generator)
    real = torch.ones_like(ids)
    if case.batch > 1:
        real[: case.batch // 2, case.tokens * 2 // 3 :] = 0
    baselines = torch.where(real == 1, 4, ids)
    ids, real, baselines = (it.to(device.device) for it in (ids, real, baselines))
    extra = (real,) if case.batch > 1 else ()
    forward = EncoderForward(model)
    shared = Subjects(forward, MODELS[case.model].encoder).of(ids, baselines, 1, extra)
    if not MODELS[case.model].encoder:
        lean = TransformerDeepLift(forward, recompute=True)
        shared["TransformerDeepLift, recompute"] = partial(lean.attribute, ids, baselines, 1, extra)
    if not case.launches:
        return {name: (lambda call=call: call) for name, call in shared.items()}

    @cache
    def compiled() -> Call:
        return torch.no_grad()(partial(torch.compile(forward, backend=device.backend, dynamic=False), ids))

    return {
        "forward": lambda: shared["forward"],
        "forward, compiled": compiled,
        "forward, CUDA graph": lambda: device.graph(shared["forward"]),
        "forward, compiled, CUDA graph": lambda: device.graph(compiled()),
    }


def measured(case: Case, device: Device, clock: Clock, quick: bool = False) -> list[Cell]:
    """Measure the calls of a case.

    Args:
        case: what to measure.
        device: how.
        clock: how long it may take.
        quick: whether the model is tiny.

    Returns:
        A cell for each call: `seconds`, a list; `ratio`, `lowest` and `highest`, in forward passes;
        `peak_bytes`; if there is time, `kernels` and `syncs`, and for half precision the shares of
        :class:`Precisions`; or `left_out`, the reason. `failed` is True if it is neither time nor memory.
    """
    tf32 = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = case.tf32
    try:
        with device.mode():
            return _measured(case, device, clock, quick)
    except Exception as error:
        return [{**asdict(case), "subject": "all", **_reason(error)}]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        device.release()


def _measured(case: Case, device: Device, clock: Clock, quick: bool) -> list[Cell]:
    clock.require(1)
    prepared = calls_of(case, build(case, device, quick), device)
    cells: dict[str, Cell] = {name: {**asdict(case), "subject": name} for name in prepared}
    ready: dict[str, Call] = {}
    taken: dict[str, list[float]] = {}
    for name, prepare in prepared.items():
        try:
            if name != "forward":
                _require(clock, name, case, taken, quick)
            call = ready[name] = prepare()
            device.seconds(call)
            taken[name] = []
            measure = partial(_timed, device, call, taken[name])
            cells[name]["peak_bytes"] = device.peak(measure)
            if taken[name][0] * COUNTING < clock.left:
                cells[name] |= _counted(call, case, device)
        except Exception as error:
            cells[name] |= _reason(error)
            taken.pop(name, None)
        device.release()
    for number in range(2 if quick else ROUNDS):
        if sum(statistics.median(it) for it in taken.values()) > clock.left:
            break
        for name, seconds in taken.items():
            again = device.seconds(ready[name])
            seconds[:] = [again] if number == 0 else [*seconds, again]
    for name, seconds in taken.items():
        ratios = [it / statistics.median(taken["forward"]) for it in seconds]
        cells[name] |= {
            "seconds": seconds,
            "ratio": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return list(cells.values())


def _require(clock: Clock, name: str, case: Case, taken: dict[str, list[float]], quick: bool) -> None:
    """Raise LeftOutError if the forward pass is missing, or the first call does not fit into the time."""
    if "forward" not in taken:
        raise LeftOutError("the forward pass was left out")
    method = name.removesuffix(", recompute")
    passes = PASSES.get(method, 10)
    if case.dtype != "float32" and method in PASSES:
        passes *= HALF
    compiling = COMPILING if "compiled" in name and not quick else 0
    clock.require(taken["forward"][0] * passes + compiling)


def _timed(device: Device, call: Call, seconds: list[float]) -> None:
    seconds.append(device.seconds(call))


def _counted(call: Call, case: Case, device: Device) -> Cell:
    """Return the kernels and syncs of a call, and what it computes in float32."""
    counted = {"kernels": device.kernels(call), "syncs": device.syncs(call)}
    if case.dtype == "float32":
        return counted
    with PrecisionMode() as seen:
        call()
    return counted | seen.found.shares()


def _reason(error: Exception) -> Cell:
    """Return why something was left out; the error, which holds tensors, is dropped."""
    if isinstance(error, LeftOutError):
        return {"left_out": str(error)}
    if isinstance(error, torch.OutOfMemoryError):
        return {"left_out": "out of memory"}
    return {"left_out": f"{type(error).__name__}: {error}".splitlines()[0], "failed": True}


def results(device: Device, clock: Clock, quick: bool, output: Path) -> dict[str, Any]:
    """Measure all cases; print and write each as it is done.

    Args:
        device: how to measure.
        clock: how long all of it may take.
        quick: whether models are tiny.
        output: the JSON file, written after each case.

    Returns:
        What the file holds: `environment`, and `cells` as :func:`measured` returns them.
    """
    found: dict[str, Any] = {
        "environment": {
            **device.environment(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "captum_globenc": captum_globenc.__version__,
            "quick": quick,
        },
        "cells": [],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(CASES):
        for cell in measured(tiny(case) if quick else case, device, clock.share(len(CASES) - number), quick):
            print(_where(cell), cell["subject"], _time(cell), flush=True)
            found["cells"].append(cell)
        output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _where(cell: Cell) -> str:
    tf32 = ", TF32 products" if cell["tf32"] else ""
    return f"{cell['model']}, {cell['batch']} x {cell['tokens']:,}, {cell['dtype']}{tf32}"


def _time(cell: Cell) -> str:
    if "left_out" in cell:
        return f"left out: {cell['left_out']}"
    if cell["subject"] == "forward":
        one = ", one run" if len(cell["seconds"]) == 1 else ""
        return f"1.00{one} ({statistics.median(cell['seconds']) * 1000:.1f} ms)"
    spread = f" ({cell['lowest']:.2f} to {cell['highest']:.2f})" if len(cell["seconds"]) > 1 else ", one run"
    return f"{cell['ratio']:.2f}{spread}"


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the section of docs/cost.md: where it was measured, the costs, the precisions.

    Args:
        found: what :func:`results` returned.
    """
    of = found["environment"]
    memory = f", {of['memory_bytes'] / 1e9:.0f} GB" if "memory_bytes" in of else ""
    cuda = f", CUDA {of['cuda']}" if "cuda" in of else ""
    yield f"{of['device']}{memory}; torch {of['torch']}{cuda}, transformers {of['transformers']}."
    yield ""
    yield "| | | times the forward pass | peak memory | kernels | syncs |"
    yield "|---|---|---:|---:|---:|---:|"
    for cell in found["cells"]:
        if "left_out" in cell:
            yield f"| {_where(cell)} | {cell['subject']} | {_time(cell)} | | | |"
            continue
        peak = f"{cell['peak_bytes'] / 1e6:,.0f} MB"
        counts = (f"{cell[name]:,}" if name in cell else "" for name in ("kernels", "syncs"))
        row = (_where(cell), cell["subject"], _time(cell), peak, *counts)
        yield f"| {' | '.join(row)} |"
    halves = [cell for cell in found["cells"] if "float32_kernels" in cell and "left_out" not in cell]
    if not halves:
        return
    yield ""
    yield "| | | kernels in float32 | products in float32 | most frequent in float32 |"
    yield "|---|---|---:|---:|---|"
    for cell in halves:
        shares = f"{cell['float32_kernels']:.0%} | {cell['float32_products']:.0%}"
        names = ", ".join(f"`{name}`" for name in cell["float32_operations"])
        yield f"| {_where(cell)} | {cell['subject']} | {shares} | {names} |"


def main() -> int:
    """Measure and write the JSON file, or print the table of one; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny models and few rounds, for a CPU")
    parser.add_argument("--minutes", type=float, default=5.5, help="after which the script ends")
    parser.add_argument("--output", type=Path, default=Path("build/gpu.json"))
    parser.add_argument("--table", type=Path, help="print the table of a file, and measure nothing")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(json.loads(options.table.read_text(encoding="utf-8")))))
        return 0
    clock = Clock(options.minutes * 60)
    on_cpu = torch.device(options.device).type == "cpu"
    if not on_cpu and not torch.cuda.is_available():
        parser.error("there is no GPU: --device cpu --quick runs the script without one")
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    if not on_cpu:
        torch.cuda.set_device(torch.device(options.device).index or 0)
    device = Device(options.device) if on_cpu else Gpu(options.device)
    found = results(device, clock, options.quick, options.output)
    print(f"\n{max(clock.left, 0):.0f} s left; wrote {options.output}\n")
    print("\n".join(table(found)))
    return int(any(cell.get("failed") for cell in found["cells"]))


if __name__ == "__main__":
    raise SystemExit(main())
