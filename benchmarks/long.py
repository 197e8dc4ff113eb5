"""How time and memory grow with the length of a document, next to the model's own forward pass.

    python benchmarks/long.py [--family modernbert] [--layers 6] [--width 768] [--tokens 1024,2048,4096,8192]
    python benchmarks/long.py --family llama --layers 24 --width 1024 --tokens 2048 \
        --subjects "forward,TransformerDeepLift,TransformerDeepLift recomputed"

Random weights. In a ModernBERT every third layer attends to all tokens, the others to 64 on each side, by
masks of N x N that the model makes; a BERT attends to all in all layers and makes none, so that it shows what
is added. Each length runs in a process of its own. Memory is how far its resident set grew at most above what
it was with the model loaded, and needs Linux. The exponents are of a straight line through the logarithms of
what GlobEnc takes, less what the forward pass takes.
"""

import argparse
import math
import multiprocessing
import os
import platform
import statistics
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from subjects import RECOMPUTED, SUBJECTS, Subjects, peak_resident
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    ModernBertConfig,
    ModernBertForSequenceClassification,
)

from captum_globenc import EncoderForward

FAMILIES = {
    "modernbert": (ModernBertConfig, ModernBertForSequenceClassification),
    "bert": (BertConfig, BertForSequenceClassification),
    "llama": (LlamaConfig, LlamaForSequenceClassification),
}


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
    ids = torch.randint(5, 1000, (1, tokens))

    # Created once: the first call checks the model, which the timed calls do not pay for.
    subjects = Subjects(EncoderForward(model), encoder=family != "llama", recomputed=True)
    functions = subjects.of(ids, torch.full_like(ids, 4), 1)
    function = functions[subject]
    functions["forward"]()
    grown = peak_resident(function)
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
    parser.add_argument(
        "--subjects", default="forward,GlobEnc", help=f"of {', '.join((*SUBJECTS, *RECOMPUTED))}"
    )
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
    for name in names[1:] if len(set(lengths)) > 1 else ():
        extra = [max(one - plain, 1.0) for one, plain in zip(grown[name], grown[names[0]], strict=True)]
        print(f"{name}: memory beyond that of the forward pass grows by N^{_exponent(lengths, extra):.2f}")


if __name__ == "__main__":
    main()
