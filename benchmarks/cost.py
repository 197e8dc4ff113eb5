"""What an attribution costs, in forward passes and in memory, measured side by side in one run.

Every round runs each subject once, so that what disturbs the machine disturbs all alike. Times are
medians over rounds, divided by the median forward pass with SDPA. Peak memory is how far the
resident set of a process of its own grew above what it was with the model loaded, and needs Linux.

    python benchmarks/cost.py [--model-type bert] [--shape 1x128 ...] [--rounds 9] [--slow-rounds 3]
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import captum
import torch
import transformers
from captum.attr import IntegratedGradients, LayerIntegratedGradients
from materializing import materialized_globenc
from subjects import Subjects, peak_resident, shape_of
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from captum_globenc import EncoderForward

TEXT_SHAPES = ((1, 32), (1, 128), (1, 512), (8, 128))
SLOW = ("integrated gradients, 50 steps", "definition, materialised")
TOKENS_PER_STEP = 4096
"""How many tokens Integrated Gradients may hold gradients of at once: more does not fit in memory."""


class Measured:
    """The model and what is measured of it.

    Args:
        model_type: family, at the size of its default configuration, randomly initialised.
    """

    def __init__(self, model_type: str) -> None:
        torch.manual_seed(0)
        self.model_type = model_type
        self.config = AutoConfig.for_model(model_type)
        self.is_image = hasattr(self.config, "image_size")
        kind = AutoModelForImageClassification if self.is_image else AutoModelForSequenceClassification
        self.model = kind.from_config(self.config).eval()
        self.forward = EncoderForward(self.model)
        self.shared = Subjects(self.forward, recomputed=True)

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The (batch, tokens) to measure."""
        if not self.is_image:
            return TEXT_SHAPES
        tokens = (self.config.image_size // self.config.patch_size) ** 2 + 1
        return ((1, tokens), (8, tokens))

    def of(self, batch: int, tokens: int) -> dict[str, Callable[[], object]]:
        """Return the subjects by name, the forward pass with SDPA first."""
        if self.is_image:
            inputs = torch.randn(batch, 3, self.config.image_size, self.config.image_size)
            baselines = torch.zeros_like(inputs)
            extra: tuple[torch.Tensor, ...] = ()
        else:
            inputs = torch.randint(1000, 20000, (batch, tokens))
            baselines = torch.full_like(inputs, 103)
            extra = (torch.ones_like(inputs),)
        shared = self.shared.of(inputs, baselines, 1, extra)
        subjects = {
            "forward, SDPA": shared.pop("forward"),
            "forward, eager": lambda: self._eager(inputs, extra),
            **shared,
            SLOW[0]: lambda: self._integrated_gradients(inputs, extra, tokens),
        }
        if self.model_type == "bert":
            subjects[SLOW[1]] = lambda: self._materialized(inputs, *extra)
        return subjects

    @torch.no_grad()
    def _eager(self, inputs: torch.Tensor, extra: tuple[torch.Tensor, ...]) -> None:
        self.model.set_attn_implementation("eager")
        self.forward(inputs, *extra)
        self.model.set_attn_implementation("sdpa")

    def _integrated_gradients(
        self, inputs: torch.Tensor, extra: tuple[torch.Tensor, ...], tokens: int
    ) -> None:
        steps = max(TOKENS_PER_STEP // tokens, len(inputs))
        options = {"n_steps": 50, "internal_batch_size": steps, "target": 1}
        if self.is_image:
            IntegratedGradients(self.forward).attribute(inputs, **options)
            return
        method = LayerIntegratedGradients(self.forward, self.model.get_input_embeddings())
        baselines = torch.zeros_like(inputs)
        method.attribute(inputs, baselines=baselines, additional_forward_args=extra, **options)

    def _materialized(self, inputs: torch.Tensor, mask: torch.Tensor) -> None:
        self.model.set_attn_implementation("eager")
        materialized_globenc(self.model, inputs, mask)
        self.model.set_attn_implementation("sdpa")


def times(
    subjects: Measured, shape: tuple[int, int], rounds: int, slow_rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of each run, one run of each subject after the other."""
    functions = subjects.of(*shape)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for name, function in functions.items():
        if name not in SLOW:
            function()
    for number in range(rounds):
        for name, function in functions.items():
            if name in SLOW and number >= slow_rounds:
                continue
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _growth(model_type: str, shape: tuple[int, int], name: str) -> int:
    """Return by how many bytes the resident set grows at most, in a process that runs this alone."""
    warnings.simplefilter("ignore")
    subjects = Measured(model_type)
    return peak_resident(subjects.of(*shape)[name])


def memory(model_type: str, shape: tuple[int, int], names: list[str]) -> dict[str, int]:
    """Return the peak memory of each subject above the model, in bytes."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return {name: pool.apply(_growth, (model_type, shape, name)) for name in names}


def rows(subjects: Measured, options: argparse.Namespace) -> Iterator[str]:
    """Yield the table, a line at a time."""
    yield "| batch x tokens | subject | times the SDPA forward pass | spread | peak memory above the model |"
    yield "|---|---|---|---|---|"
    for shape in options.shape or subjects.shapes:
        seconds = times(subjects, shape, options.rounds, options.slow_rounds)
        unit = statistics.median(seconds["forward, SDPA"])
        peaks = memory(options.model_type, shape, [name for name in seconds if seconds[name]])
        for name, runs in seconds.items():
            if not runs:
                continue
            ratios = [run / unit for run in runs]
            absolute = f" ({unit * 1000:.0f} ms)" if name == "forward, SDPA" else ""
            yield (
                f"| {shape[0]} x {shape[1]} | {name} | {statistics.median(ratios):.2f}{absolute} "
                f"| {min(ratios):.2f} to {max(ratios):.2f} | {peaks[name] / 1e6:,.0f} MB |"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-type", default="bert")
    parser.add_argument("--shape", type=shape_of, action="append", metavar="BATCHxTOKENS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--slow-rounds", type=int, default=3, help="rounds of what takes minutes; 0 skips it")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{options.model_type}, float32, {torch.get_num_threads()} threads, {platform.machine()}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}, captum {captum.__version__}\n"
    )
    for row in rows(Measured(options.model_type), options):
        print(row, flush=True)


if __name__ == "__main__":
    main()
