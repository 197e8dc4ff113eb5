"""All methods on all models: what goes when tokens are removed, planted shortcuts, and sanity checks.

    OMP_NUM_THREADS=1 python benchmarks/leaderboard.py

writes docs/leaderboard.md and its figure, in about half an hour on two cores. Models are trained first;
seeds are fixed. Two models are worked on at a time, each by a process of one thread (`--jobs`). What is
done is kept in a folder, `--out`, and the same command goes on where it was stopped. `--quick` does all of
it on a few texts with models that are hardly trained, and writes its page into that folder; so does
`--methods`, which measures some methods alone, on the `--parts` that are chosen.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from comparison import Measured, compared_methods, measured
from digits import image_rows
from leaderboard_page import Outcome, write
from shortcuts import MODELS, naming, planted, reliance
from trained import Loaded, digits_vit, masked_minilm, pre_ln, split

from captum_globenc.datasets.store import replace
from captum_globenc.evaluation import (
    METHODS,
    Evaluation,
    Example,
    SanityChecks,
    Subject,
    evaluate,
    with_folded_gains,
    with_permuted_heads,
)
from captum_globenc.evaluation.checkpoint import METHOD, SECONDS
from captum_globenc.texts import load_default

ROOT = Path(__file__).parents[1]
ROUNDS = 3
"""How often the forward pass is timed."""

SEEDS = (0, 1, 2)
"""Of the random parts of paths; all tables but the column of seeds are of the first."""

SEEDED = tuple(name for name in METHODS if name.startswith("transformer-deep-lift/restore"))
"""Methods that are measured with every seed."""


@dataclass(frozen=True)
class Options:
    """What a run depends on.

    Args:
        commit: of the code.
        limit: texts a model.
        training: sentences and steps that models are trained with; None for all.
        methods: what is measured; empty for all.
    """

    commit: str
    limit: int
    training: int | None = None
    methods: tuple[str, ...] = ()

    def chosen(self) -> list[str]:
        """Return the methods that are measured, in the order of the registry."""
        return [name for name in compared_methods() if not self.methods or name in self.methods]

    def seeded(self) -> list[str]:
        """Return those among them that are measured with every seed."""
        return [name for name in self.chosen() if name in SEEDED]


def removal(load: Callable[..., Loaded], folder: Path, options: Options) -> dict[str, Any]:
    """Measure what the prediction loses as tokens are masked, and whether methods add up."""
    loaded = load(folder / "model", options.training)
    examples = split()[1][: options.limit]
    removed = ["aopc-most", "aopc-least"]
    names = [*removed, "completeness-error", "shapley-distance"]
    found = evaluate(*loaded, examples, methods=options.chosen(), metrics=names, out=folder / "rows")
    rows = {
        method: {
            "most minus least": it["aopc-most"] - it["aopc-least"],
            "most": it["aopc-most"],
            "least": it["aopc-least"],
            "completeness error": it["completeness-error"],
            "distance to Shapley": it["shapley-distance"],
        }
        for method, it in measured(found).items()
    }

    def again(methods: Sequence[str], seed: int) -> Measured:
        other = evaluate(
            *loaded, examples, methods=methods, metrics=removed, out=folder / f"rows-{seed}", seed=seed
        )
        return {
            method: {"most minus least": it["aopc-most"] - it["aopc-least"]}
            for method, it in measured(other).items()
        }

    return {
        "texts": len(examples),
        "rows": listed(rows),
        "cost": costs(loaded, examples, found),
        "seeds": over_seeds(rows, "most minus least", again, options),
    }


def over_seeds(
    rows: Measured, measure: str, again: Callable[[Sequence[str], int], Measured], options: Options
) -> dict[str, list[float]]:
    """Return the mean of a measure with every seed, for methods that split features at random.

    Args:
        rows: what was measured with the first seed.
        measure: its name.
        again: measures methods with another seed.
        options: what the run depends on.
    """
    chosen = options.seeded()
    found = [rows, *(again(chosen, seed) for seed in SEEDS[1:])] if chosen else []
    return {method: [float(it[method][measure].mean()) for it in found] for method in chosen}


def shortcut(name: str, folder: Path, options: Options) -> dict[str, Any]:
    """Measure whether methods name the planted words of a model that relies on them."""
    loaded, examples = MODELS[name](folder / "model", options.training), planted(name, options.limit)
    rows = naming(loaded, examples, folder / "rows", options.chosen())

    def again(methods: Sequence[str], seed: int) -> Measured:
        return naming(loaded, examples, folder / f"rows-{seed}", methods, seed)

    return {
        "texts": len(examples),
        "reliance": reliance(loaded, examples),
        "rows": listed(rows),
        "seeds": over_seeds(rows, "marked-precision/size", again, options),
    }


def digits(folder: Path, options: Options) -> dict[str, Any]:
    """Measure what the prediction loses as patches of images are blanked."""
    model, images = digits_vit(folder / "model", options.training)
    images = images[: options.limit]

    def of_seed(methods: Sequence[str], seed: int) -> Measured:
        return {
            method: {"most minus least": it["most"] - it["least"], **it}
            for method, it in image_rows(model, images, methods, seed).items()
        }

    rows = of_seed(options.chosen(), SEEDS[0])
    return {
        "texts": len(images),
        "rows": listed(rows),
        "seeds": over_seeds(rows, "most minus least", of_seed, options),
    }


def sanity(folder: Path, options: Options) -> dict[str, Any]:
    """Draw weights anew, give the same function other weights, and add a token without effect."""
    model, tokenizer = pre_ln(folder / "model", options.training)
    examples, methods = split()[1][: options.limit], options.chosen()
    batch = tokenizer([it.text for it in examples[:16]], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    checks = SanityChecks(model, tokenizer, examples, methods)
    parts = dict(checks.randomization())
    found = {
        "heads permuted": checks.invariance(with_permuted_heads(model)),
        "gains folded": checks.invariance(with_folded_gains(model, batch)),
        "token added": checks.added_token(tokenizer.unk_token_id),
    }
    return {
        "texts": len(examples),
        "rows": listed({method: {part: parts[part][method] for part in parts} for method in methods}),
        "checks": listed({method: {name: found[name][method] for name in found} for method in methods}),
    }


PARTS: Mapping[str, Callable[[Path, Options], dict[str, Any]]] = {
    "sanity": sanity,
    "minilm-pair": partial(shortcut, "minilm-pair"),
    "masked": partial(removal, masked_minilm),
    "embedded": partial(removal, lambda folder, training: load_default()),
    "pre-ln": partial(removal, pre_ln),
    **{kind: partial(shortcut, kind) for kind in ("context", "context-2", "pair", "pair-2", "token")},
    "vit": digits,
}
"""What is measured, the longest first."""


def listed(rows: Measured) -> dict[str, dict[str, list[float]]]:
    """Return what was measured as JSON takes it."""
    return {method: {name: it.tolist() for name, it in values.items()} for method, values in rows.items()}


def costs(loaded: Loaded, examples: Sequence[Example], found: Evaluation) -> dict[str, float]:
    """Return what each method costs, in forward passes of the same batches, timed in the same process."""
    subject, size = Subject(*loaded), found.settings["batch_size"]
    each = zip(examples, subject.ids(examples)[0], strict=True)
    ordered = [example for example, _ in sorted(each, key=lambda it: -len(it[1]))]
    batches = [subject.batch(0, ordered[at : at + size]) for at in range(0, len(ordered), size)]
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                subject.forward(batch.inputs, *batch.extra)
        rounds.append(time.perf_counter() - start)
    once = statistics.median(rounds)
    return {
        method: sum(row[SECONDS] for row in found.rows if row[METHOD] == method) / once
        for method in found.methods
    }


def work(name: str, out: Path, options: Options) -> tuple[str, float]:
    """Measure a part, and keep it; returns its name and the seconds it took."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    found = PARTS[name](out / name, options)
    seconds = time.perf_counter() - start
    replace(out / f"{name}.json", json.dumps({**found, "seconds": seconds}))
    return name, seconds


def begin(out: Path, options: Options) -> None:
    """Make the folder, or see that it holds what was begun with the same code and options."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "options.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(asdict(options))):
        raise SystemExit(f"{out} holds a run of other code or options: remove it, or choose another --out")
    replace(path, json.dumps(asdict(options)))


def commit() -> str:
    """Return the commit that the code is at, and "changed" where it is not."""

    def git(*said: str) -> str:
        command = ["git", "-C", str(ROOT), *said]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "captum_globenc", "benchmarks", "scripts")
    return git("rev-parse", "--short=12", "HEAD") + (", changed" if changed else "")


def main() -> None:
    """Measure what is not yet measured, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "build/leaderboard", help="keeps what is done")
    parser.add_argument("--limit", type=int, default=300, help="texts a model")
    parser.add_argument("--jobs", type=int, default=2, help="processes, of a thread each")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure; the page takes all")
    parser.add_argument(
        "--methods", default="", help="measure these alone; the page is then written to --out"
    )
    parser.add_argument("--quick", action="store_true", help="a few texts, models that are hardly trained")
    given = parser.parse_args()
    methods = tuple(name for name in given.methods.split(",") if name)
    unknown = sorted({*methods} - {*compared_methods()})
    if unknown:
        raise SystemExit(f"no method {', '.join(unknown)}; known: {', '.join(compared_methods())}")
    options = Options(commit(), 6 if given.quick else given.limit, 64 if given.quick else None, methods)
    out = given.out.with_name(given.out.name + "-quick") if given.quick else given.out
    begin(out, options)
    left = [name for name in given.parts.split(",") if not (out / f"{name}.json").exists()]
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for name, seconds in pool.imap_unordered(partial(work, out=out, options=options), left):
            print(f"{name}: {seconds / 60:.1f} minutes", flush=True)
    done = [name for name in PARTS if (out / f"{name}.json").exists()]
    if not methods and done != list(PARTS):
        print(f"no page yet, for want of {', '.join(name for name in PARTS if name not in done)}")
        return
    outcomes = {name: Outcome.of(json.loads((out / f"{name}.json").read_text())) for name in done}
    page = (out if given.quick or methods else ROOT / "docs") / "leaderboard.md"
    write(page, outcomes, options.commit, options.limit)
    print(page)


if __name__ == "__main__":
    main()
