"""Where GlobEnc's time is, phase by phase, and the least that its kernels alone would take.

A BERT-base with random weights. Phases are measured inside of `attribute`, next to the model's own forward
pass; rounds are interleaved, medians. The least is each kernel by itself on one layer's shapes, run again and
again on the same memory, times the number of layers: what no order of the same operations goes below.

    python benchmarks/phases.py [--shape 1x512] [--rounds 21]
"""

import argparse
import os
import platform
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification

from captum_globenc import EncoderForward, GlobEnc
from captum_globenc.decomposition.attention import ScoreWeights
from captum_globenc.decomposition.norms import VectorNorms
from captum_globenc.decomposition.record import Normalization
from captum_globenc.recording.reconstruction import ReconstructionCheck

PHASES = (
    (Normalization, "linear", "normalizations of the output projection and of the residual"),
    (VectorNorms, "_gram_matrices", "value vectors through the projection, their Gram matrices"),
    (ScoreWeights, "tile", "scores once more, and exponentials"),
    (VectorNorms, "tile", "quadratic forms"),
    (ReconstructionCheck, "measure", "the reconstruction check"),
)


class Clock:
    """How long each phase takes by itself, without those inside of it."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def of(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - start
                self.spent[phase] += whole - self._inner.pop()
                self._inner[-1] += whole

        return timed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time all phases while the context lasts."""
        with ExitStack() as stack:
            for owner, name, phase in PHASES:
                stack.enter_context(mock.patch.object(owner, name, self.of(phase, getattr(owner, name))))
            yield


def seconds(function: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def least(config: BertConfig, batch: int, tokens: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the kernels of one layer, each on memory of its own, in tiles that fit a cache."""
    heads, size = config.num_attention_heads, config.hidden_size
    width, rows = size // heads, min(128, tokens)
    projection = torch.randn(heads, width, size)
    values, u = torch.randn(heads, rows, width), torch.empty(heads, rows, size)
    key, query = torch.randn(heads, tokens, width), torch.randn(heads, width, rows)
    scores = torch.empty(heads, tokens, rows)
    gram, gram_out = torch.randn(tokens, heads, heads), torch.empty(rows, heads, heads)
    by_source, products = torch.rand(tokens, heads, rows), torch.empty(tokens, heads, rows)
    tiles = batch * (tokens / rows)
    for name, function in (
        ("value vectors through the projection", lambda: torch.bmm(values, projection, out=u)),
        ("Gram matrices", lambda: torch.bmm(u.transpose(0, 1), u.permute(1, 2, 0), out=gram_out)),
        ("scores", lambda: torch.bmm(key, query, out=scores)),
        ("exponentials", lambda: scores.clamp_(-1, 1).exp2_()),
        ("quadratic forms", lambda: torch.bmm(gram, by_source, out=products).mul_(by_source).sum(dim=1)),
    ):
        yield name, lambda function=function: [function() for _ in range(round(tiles))]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="1x512", help="batch x tokens")
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    batch, tokens = map(int, options.shape.split("x"))
    torch.manual_seed(0)
    config = BertConfig()
    model = BertForSequenceClassification(config).eval()
    ids = torch.randint(1000, 2000, (batch, tokens))
    method = GlobEnc(EncoderForward(model))
    clock = Clock()
    kernels = list(least(config, batch, tokens))
    with torch.no_grad():
        subjects: dict[str, Callable[[], Any]] = {
            "forward": lambda: model(ids),
            "attribute": lambda: method.attribute(ids),
            **dict(kernels),
        }
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        phases: dict[str, list[float]] = {phase: [] for _, _, phase in PHASES}
        for number in range(options.rounds + 2):
            for name, function in subjects.items():
                spent = seconds(function)
                if number >= 2:
                    taken[name].append(spent)
            clock.spent.clear()
            with clock.watching():
                method.attribute(ids)
            if number >= 2:
                for phase, values in phases.items():
                    values.append(clock.spent[phase])
    whole = statistics.median(taken["forward"])
    print(
        f"bert, {options.shape}, float32, {torch.get_num_threads()} threads, {platform.machine()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"forward pass {1000 * whole:.0f} ms\n"
    )
    print("| phase | share of a forward pass |\n|---|---|")
    total = statistics.median(taken["attribute"]) / whole
    rest = total - 1
    for phase, values in phases.items():
        share = statistics.median(values) / whole
        rest -= share
        print(f"| {phase} | {share:.3f} |")
    print(f"| everything else: statistics of norms, hooks, rollout, Python | {rest:.3f} |")
    print(f"| **attribute, the pass included** | **{total:.2f}** |\n")
    print("| kernel by itself, all layers | share of a forward pass |\n|---|---|")
    low = 0.0
    for name, _ in kernels:
        share = statistics.median(taken[name]) * config.num_hidden_layers / whole
        low += share
        print(f"| {name} | {share:.3f} |")
    print(f"| **the pass and these** | **{1 + low:.2f}** |")


if __name__ == "__main__":
    main()
