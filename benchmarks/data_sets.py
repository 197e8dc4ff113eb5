"""What attributing a whole data set costs, and that it is the same however it is run. Needs Linux.

Rates are taken in one process, plain predictions and attributions of a block of rows by turns, so that what
disturbs the machine disturbs both alike. Everything else runs the command in processes of its own: memory is
the peak of the resident set.

    python benchmarks/data_sets.py [--texts 20000] [--few 2000] [--methods globenc] [--rows N] [--no-ray]
"""

import argparse
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from captum_globenc import EncoderForward
from captum_globenc.datasets import Attributor, load_attributions
from captum_globenc.evaluation import SENTENCES, read_examples
from captum_globenc.texts import load_default

BLOCK = 1000
BATCH_TOKENS = 1024
COMMAND = (
    sys.executable,
    "-c",
    "import sys; from captum_globenc.app.cli import main; status = main(sys.argv[1:]);"
    "print('peak', *[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]);"
    "sys.exit(status)",
)
"""The command, which prints the peak of its memory as it ends."""


class Ran(NamedTuple):
    """A command that ran: its seconds, and the peak of its memory in MB."""

    seconds: float
    memory: float


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2_000, help="rows of the run that memory is held against")
    parser.add_argument("--methods", default="globenc")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows that are summed up; 0: none")
    parser.add_argument("--no-ray", dest="ray", action="store_false")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        rng = random.Random(0)
        sentences = [example.text for example in read_examples(SENTENCES)]
        texts = rng.choices(sentences, k=options.texts)
        many, few = _written(place / "many.jsonl", texts), _written(place / "few.jsonl", texts[: options.few])
        print(f"{options.texts} texts, {options.methods}, {torch.get_num_threads()} threads")
        rates(texts, options.methods.split(","))
        command = ("attribute", "--methods", options.methods, "--rows-per-shard", str(BLOCK), "--data")
        small = ran(*command, str(few), "--out", str(place / "few"))
        whole = ran(*command, str(many), "--out", str(place / "many"))
        print(
            f"memory: {small.memory:.0f} MB at {options.few} rows, {whole.memory:.0f} MB at {options.texts}"
        )
        print(f"the command with loading: {options.texts / whole.seconds:.1f} rows/s")
        killed(place, (*command, str(many), "--out"))
        if options.ray:
            other = ran(*command, str(many), "--out", str(place / "ray"), "--engine", "ray", "--workers", "2")
            print(f"two workers of Ray: {options.texts / other.seconds:.1f} rows/s with starting them")
            compared("local and Ray", place / "many", place / "ray", place / "cache")
        if options.rows:
            summed_up(place, options.rows)


def rates(texts: list[str], methods: list[str]) -> None:
    """Print rows per second of plain predictions and of attributions, block by block in turns."""
    model, tokenizer = load_default()
    forward, attribute = (
        EncoderForward(model),
        Attributor(model, tokenizer, methods, batch_tokens=BATCH_TOKENS),
    )
    attribute.check()
    predict(texts[:BLOCK], tokenizer, forward)
    seconds = {"predictions": [], "attributions": []}
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        runs = {
            "predictions": lambda block=block: predict(block, tokenizer, forward),
            "attributions": lambda block=block: attribute.explain(block),
        }
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    for name, spent in seconds.items():
        print(f"{name}: {len(texts) / sum(spent):.1f} rows/s")
    shares = [a / b for a, b in zip(seconds["predictions"], seconds["attributions"], strict=True)]
    print(
        f"attributions at {statistics.median(shares):.2f} of that, the median over {len(shares)} blocks; "
        f"{min(shares):.2f} to {max(shares):.2f}"
    )


def predict(texts, tokenizer, forward) -> None:
    """Predict texts as one would: tokenized, sorted by length, in batches of the same size."""
    rows = tokenizer(texts)
    order = sorted(range(len(texts)), key=lambda row: -len(rows["input_ids"][row]))
    while order:
        size = max(1, BATCH_TOKENS // len(rows["input_ids"][order[0]]))
        chosen, order = order[:size], order[size:]
        batch = tokenizer.pad(
            {name: [rows[name][row] for row in chosen] for name in rows}, return_tensors="pt"
        )
        inputs, extra = forward.arguments(batch)
        with torch.no_grad():
            forward(inputs, *extra)


def ran(*arguments: str) -> Ran:
    """Run the command to its end."""
    began = time.perf_counter()
    process = subprocess.run([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
    return Ran(time.perf_counter() - began, int(process.stdout.split("peak ")[-1]) / 1024)


def killed(place: Path, command: tuple[str, ...]) -> None:
    """Kill a run when half of its shards are there, run it again, and compare with one that was not."""
    out, shards = place / "killed", len(_contents(place / "many"))
    process = subprocess.Popen([*COMMAND, *command, str(out)], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(_contents(out)) < shards // 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(_contents(out))
    ran(*command, str(out))
    print(f"killed with {there} of {shards} shards, and run again:")
    compared("whole and killed", place / "many", out, place / "cache")


def compared(what: str, one: Path, other: Path, cache: Path) -> None:
    """Print whether two folders have the same files, and how far scores differ if they do not."""
    if _contents(one) == _contents(other):
        print(f"{what}: the same bytes in {len(_contents(one))} shards")
        return
    rows = [load_attributions(folder, cache_dir=cache / folder.name) for folder in (one, other)]
    same = rows[0].remove_columns("globenc").to_dict() == rows[1].remove_columns("globenc").to_dict()
    apart = max(
        float(np.abs(np.subtract(a, b)).max())
        for a, b in zip(*(it["globenc"][:] for it in rows), strict=True)
        if a
    )
    print(f"{what}: other columns {'alike' if same else 'differ'}, scores at most {apart:.2g} apart")


def summed_up(place: Path, rows: int) -> None:
    """Sum many rows up: shards over and over, with numbers of their own."""
    out = place / "repeated"
    out.mkdir()
    about = json.loads((place / "many" / "attributions.json").read_text())
    shards = sorted((place / "many").glob("*.parquet"))[: about["rows"] // BLOCK]
    for number, path in zip(range(rows // BLOCK), itertools.cycle(shards), strict=False):
        table = pq.read_table(path)
        numbers = pa.array(range(number * BLOCK, (number + 1) * BLOCK))
        pq.write_table(table.set_column(0, "idx", numbers), out / f"{number:06d}.parquet", compression="zstd")
    about["rows"] = rows // BLOCK * BLOCK
    (out / "attributions.json").write_text(json.dumps(about))
    for folder, count in ((place / "many", len(shards) * BLOCK), (out, about["rows"])):
        summary = ran("summarize", str(folder))
        print(f"summarize: {count} rows in {summary.seconds:.1f} s, {summary.memory:.0f} MB")


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def _written(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


if __name__ == "__main__":
    main()
