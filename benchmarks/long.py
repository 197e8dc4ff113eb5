"""How time and memory grow with the length of a document, next to the model's own forward pass.

    python benchmarks/long.py [--family modernbert] [--layers 6] [--width 768] [--tokens 1024,2048,4096,8192]
    python benchmarks/long.py --family llama --layers 24 --width 1024 --tokens 2048 \
        --subjects forward,TransformerDeepLift,recomputed

Random weights. `recomputed` is TransformerDeepLift(forward, recompute=True). In a ModernBERT every third
layer attends to all tokens, the others to 64 on each side, by masks of N x N that the model makes; a BERT
attends to all in all layers and makes none, so that it shows what is added. Each length runs in a process
of its own. Memory is how far its resident set grew at most above what it was with the model loaded, and
needs Linux. The exponents are of a straight line through the logarithms of what GlobEnc takes, less what
the forward pass takes.
"""

import argparse
import math
import multiprocessing
import os
import platform
import statistics
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from captum_globenc import EncoderForward, GlobEnc, TransformerDeepLift

FAMILIES = {
    "modernbert": (ModernBertConfig, ModernBertForSequenceClassification),
    "bert": (BertConfig, BertForSequenceClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
}
SUBJECTS = ("forward", "GlobEnc", "one gradient", "TransformerDeepLift", "recomputed")


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def _measured(
    subject: str, family: str, layers: int, width: int, tokens: int, rounds: int
) -> tuple[float, int]:
    """Return the median seconds of a subject, and its peak memory above the model, in bytes."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    kind, head = FAMILIES[family]
    config = kind(
        vocab_size=1000, hidden_size=width, num_hidden_layers=layers, num_attention_heads=width // 64,
        intermediate_size=width * 3 // 2, max_position_embeddings=max(tokens, 8192), pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    model = head(config).eval()
    forward = EncoderForward(model)
    ids = torch.randint(5, 1000, (1, tokens))

    def gradient() -> None:
        given = model.get_input_embeddings()(ids).detach().requires_grad_()
        torch.autograd.grad(forward(given)[:, 1].sum(), given)

    # Created once: the first call checks the model, which the timed calls do not pay for.
    method = {
        "GlobEnc": lambda: GlobEnc(forward),
        "TransformerDeepLift": lambda: TransformerDeepLift(forward),
        "recomputed": lambda: TransformerDeepLift(forward, recompute=True),
    }.get(subject, lambda: None)()
    functions = {
        "forward": lambda: torch.no_grad()(forward)(ids),
        "GlobEnc": lambda: method.attribute(ids),
        "one gradient": gradient,
        **dict.fromkeys(("TransformerDeepLift", "recomputed"), lambda: method.attribute(ids, 4, 1)),
    }
    function = functions[subject]
    functions["forward"]()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    function()
    grown = _resident("VmHWM") - before
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), grown


def _exponent(tokens: list[int], values: list[float]) -> float:
    """Return the slope of the logarithms, by least squares."""
    x, y = [math.log(it) for it in tokens], [math.log(it) for it in values]
    middle = statistics.mean(x)
    spread = sum((it - middle) ** 2 for it in x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / spread


def main() -> None:
    """Print the table, and how memory grows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="modernbert")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--tokens", default="1024,2048,4096,8192")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subjects", default=",".join(SUBJECTS[:2]), help=f"of {', '.join(SUBJECTS)}")
    options = parser.parse_args()
    names = options.subjects.split(",")
    lengths = [int(it) for it in options.tokens.split(",")]
    print(
        f"{options.family}, {options.layers} layers of width {options.width}, float32, "
        f"{torch.get_num_threads()} threads, {platform.machine()}; torch {torch.__version__}, "
        f"transformers {transformers.__version__}\n"
    )
    print("| tokens | subject | seconds | times the forward pass | peak memory above the model |")
    print("|---:|---|---:|---:|---:|")
    grown: dict[str, list[float]] = {name: [] for name in names}
    for tokens in lengths:
        unit = math.nan
        for name in names:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                size = (options.family, options.layers, options.width, tokens, options.rounds)
                seconds, memory = pool.apply(_measured, (name, *size))
            unit = seconds if name == SUBJECTS[0] else unit
            grown[name].append(memory / 1e6)
            print(
                f"| {tokens:,} | {name} | {seconds:.2f} | {seconds / unit:.2f} | {memory / 1e6:,.0f} MB |",
                flush=True,
            )
    print()
    for name in names[1:]:
        extra = [max(one - plain, 1.0) for one, plain in zip(grown[name], grown[names[0]], strict=True)]
        print(f"{name}: memory beyond that of the forward pass grows by N^{_exponent(lengths, extra):.2f}")


if __name__ == "__main__":
    main()
