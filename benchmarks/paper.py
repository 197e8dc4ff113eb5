"""The paper's comparisons on a real model: which mixing norms agree with gradients, and how faithful all are.

    python benchmarks/paper.py --limit 200 --hidden-limit 24

prints Markdown tables: (a) Spearman's correlation of the rollout with gradient saliency after each
layer, (b) of single layers with Hidden Token Attribution, (c) faithfulness of every method.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor

from captum_globenc import GlobEnc
from captum_globenc.evaluation import (
    METHODS,
    SENTENCES,
    Batch,
    Example,
    Subject,
    evaluate,
    methods,
    read_examples,
    sample,
)
from captum_globenc.hidden import hidden_token_attribution
from captum_globenc.loading import load_classifier
from captum_globenc.metrics import spearman
from captum_globenc.mixing import MIXINGS

KINDS = ("W", "W-FixedRes", "W-Res", "N", "N-FixedRes", "N-Res", "N-ResLN", "N-Enc")
BATCH = 16
HIDDEN_BATCH = 4
"""Texts that share the passes of table b, in which padding costs most."""


def batches(subject: Subject, examples: Sequence[Example], size: int = BATCH) -> Iterator[Batch]:
    """Yield batches of texts of like length."""
    ordered = sorted(examples, key=lambda example: subject.length(example.text))
    for index, start in enumerate(range(0, len(ordered), size)):
        yield subject.batch(index, ordered[start : start + size])


def saliency(subject: Subject, batch: Batch) -> Tensor:
    """L2 norm of the gradient of the predicted class's logit at each embedding, special tokens included."""
    return METHODS["saliency"](subject, batch)


def rollout_against_saliency(subject: Subject, examples: Sequence[Example]) -> dict[str, list[list[float]]]:
    """Return each kind's mean correlation after each layer: with special tokens, and without."""
    found: dict[str, list[list[Tensor]]] = {kind: [[], []] for kind in KINDS}
    for batch in batches(subject, examples):
        gradient = saliency(subject, batch)
        for kind in KINDS:
            layers = GlobEnc(subject.forward, mixing=kind).attribute_layers(
                batch.inputs, additional_forward_args=batch.extra
            )
            for values, mask in zip(found[kind], (batch.extra[0].bool(), batch.mask), strict=True):
                values.append(
                    torch.stack([spearman(layer, gradient, mask) for layer in layers.unbind(1)], dim=1)
                )
    return {
        kind: [torch.cat(values).nanmean(dim=0).tolist() for values in both] for kind, both in found.items()
    }


def layers_against_gradients(
    subject: Subject, examples: Sequence[Example], directions: int | None
) -> dict[str, list[float]]:
    """Return each kind's mean correlation with Hidden Token Attribution in each layer, all receivers."""
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    generator = torch.Generator().manual_seed(0)
    for batch in batches(subject, examples, HIDDEN_BATCH):
        real = batch.extra[0].bool()
        reference = hidden_token_attribution(
            subject.forward,
            subject.model,
            batch.inputs,
            batch.extra,
            directions=directions,
            generator=generator,
        )
        for kind in KINDS:
            mixed = GlobEnc(subject.forward, mixing=kind).mixing_matrices(batch.inputs, batch.extra)
            rows = [
                torch.stack([spearman(a, b, real) for a, b in zip(x.unbind(1), y.unbind(1), strict=True)], 1)
                for x, y in zip(mixed.unbind(1), reference.unbind(1), strict=True)
            ]
            # (B, N, L) -> a mean over the real receivers of each text
            values = torch.stack(rows, dim=2)
            found[kind].append(values.masked_fill(~real[:, :, None], torch.nan).nanmean(dim=1))
    return {kind: torch.cat(values).nanmean(dim=0).tolist() for kind, values in found.items()}


def table(head: str, columns: Sequence[str], rows: dict[str, Sequence[float]]) -> str:
    """Draw a table for a page."""
    lines = [[head, *columns], ["---", *("---:" for _ in columns)]]
    lines += [[name, *(f"{value:.2f}" for value in values)] for name, values in rows.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Parse the options and print the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a folder or a name on the hub; left out, the embedded classifier")
    parser.add_argument("--data", type=Path, default=SENTENCES)
    parser.add_argument("--limit", type=int, default=200, help="texts for tables a and c")
    parser.add_argument("--hidden-limit", type=int, default=24, help="texts for table b, which is slow")
    parser.add_argument("--directions", type=int, help="random directions for table b; left out, exact")
    parser.add_argument("--tables", default="abc", help="which of the tables")
    parser.add_argument("--out", type=Path, help="folder of the evaluation for table c, to be taken up again")
    options = parser.parse_args()
    assert set(KINDS) == set(MIXINGS)

    classifier = load_classifier(options.model)
    subject = Subject(classifier.model, classifier.tokenizer)
    examples = read_examples(options.data)
    some = sample(examples, options.limit)
    tables: dict[str, Callable[[], str]] = {
        "a": lambda: rollout_table(subject, some),
        "b": lambda: hidden_table(subject, sample(examples, options.hidden_limit), options.directions),
        "c": lambda: evaluate(
            classifier.model, classifier.tokenizer, some, methods=METHODS_OF_TABLE, out=options.out
        ).markdown(),
    }
    for name in options.tables:
        print(f"({name})\n\n{tables[name]()}", flush=True)


METHODS_OF_TABLE = ("globenc", *KINDS[:-1], "N-Enc/max-flow", *methods.DEFAULT_METHODS[4:])


def rollout_table(subject: Subject, examples: Sequence[Example]) -> str:
    """Draw table (a)."""
    found = rollout_against_saliency(subject, examples)
    depth = len(found["W"][0])
    columns = [*(str(layer) for layer in range(1, depth + 1)), "last, no special tokens"]
    return table("layers", columns, {kind: [*both[0], both[1][-1]] for kind, both in found.items()})


def hidden_table(subject: Subject, examples: Sequence[Example], directions: int | None) -> str:
    """Draw table (b)."""
    found = layers_against_gradients(subject, examples, directions)
    columns = [*(str(layer) for layer in range(1, len(found["W"]) + 1)), "mean"]
    return table("layer", columns, {kind: [*row, statistics.fmean(row)] for kind, row in found.items()})


if __name__ == "__main__":
    main()
