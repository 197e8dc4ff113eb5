"""The paper's comparisons on a real model: which mixing norms agree with gradients, and how faithful all are.

    python benchmarks/paper.py --limit 500 --hidden-limit 48 --figures docs/paper

prints Markdown tables, and draws figures: (a) Spearman's correlation of the rollout with gradient saliency
after each layer, (b) of single layers with Hidden Token Attribution, (c) faithfulness of every method.
"""

import argparse
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from captum.attr import InputXGradient
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from captum_globenc import GlobEnc
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.evaluation import (
    DEFAULT_METHODS,
    METHODS,
    SENTENCES,
    Batch,
    Example,
    Subject,
    evaluate,
    read_examples,
    sample,
)
from captum_globenc.evaluation.report import draw
from captum_globenc.metrics import spearman
from captum_globenc.proofs.hidden import hidden_token_attribution
from captum_globenc.texts import load_classifier
from captum_globenc.texts.methods.captums import on_embeddings
from captum_globenc.visualization.figures import plot_comparison

PAPER = {
    "W": -0.11,
    "W-FixedRes": -0.24,
    "W-Res": 0.19,
    "N": 0.44,
    "N-FixedRes": 0.48,
    "N-Res": 0.73,
    "N-ResLN": -0.21,
    "N-Enc": 0.77,
}
"""What Modarressi et al. (2022) report after the last layer: BERT-base, fine-tuned on SST-2."""

KINDS = tuple(PAPER)

BATCH = 16
HIDDEN_BATCH = 4
"""Texts that share the passes of table b, in which padding costs most."""


def batches(subject: Subject, examples: Sequence[Example], size: int = BATCH) -> Iterator[Batch]:
    """Yield batches of texts of like length."""
    each = zip(examples, subject.ids(examples)[0], strict=True)
    ordered = [example for example, _ in sorted(each, key=lambda it: len(it[1]))]
    for index, start in enumerate(range(0, len(ordered), size)):
        yield subject.batch(index, ordered[start : start + size])


def rollout_against_saliency(subject: Subject, examples: Sequence[Example]) -> dict[str, list[list[float]]]:
    """Return each kind's mean correlation with the gradient of the predicted class after each layer.

    Of the rollout with the L2 norm of the gradient at each embedding; with the same, special tokens left
    out; with the norm of the gradient times the embedding; and of the first token's row of single layers.
    """
    found: dict[str, list[list[Tensor]]] = {kind: [[], [], [], []] for kind in KINDS}
    for batch in batches(subject, examples):
        real = batch.extra[0].bool()
        gradient = METHODS["saliency"].scores(batch.request)
        product = on_embeddings(
            batch.request, InputXGradient, has_baseline=False, reduce=torch.linalg.vector_norm
        )
        for kind in KINDS:
            globenc = GlobEnc(subject.forward, mixing=kind)
            layers = globenc.attribute_layers(batch.inputs, additional_forward_args=batch.extra)
            single = globenc.mixing_matrices(batch.inputs, batch.extra)[:, :, 0]
            pairs = (
                (layers, gradient, real),
                (layers, gradient, batch.mask),
                (layers, product, real),
                (single, gradient, real),
            )
            for values, (scores, reference, mask) in zip(found[kind], pairs, strict=True):
                values.append(
                    torch.stack([spearman(layer, reference, mask) for layer in scores.unbind(1)], dim=1)
                )
    return {
        kind: [torch.cat(values).nanmean(dim=0).tolist() for values in rows] for kind, rows in found.items()
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


def draw_layers(axes: Axes, rows: Mapping[str, Sequence[float]], reference: str) -> None:
    """Draw a line for each kind over the layers."""
    for number, (kind, values) in enumerate(rows.items()):
        norms = kind.startswith("N")
        axes.plot(
            range(1, len(values) + 1),
            values,
            label=kind,
            color="black" if kind == "N-Enc" else f"C{number}",
            linestyle="-" if norms else "--",
            linewidth=2.5 if kind == "N-Enc" else 1.2,
            marker="os^D"[number % 4],
            markersize=4,
        )
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xlabel("layer")
    axes.set_xticks(range(1, len(next(iter(rows.values()))) + 1))
    axes.set_ylabel(f"Spearman's correlation with {reference}")
    axes.legend(fontsize=8, ncols=2, frameon=False)


def rollout_table(subject: Subject, examples: Sequence[Example], figures: Path | None) -> str:
    """Draw table (a)."""
    found = rollout_against_saliency(subject, examples)
    if figures is not None:
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_layers(left, {kind: rows[0] for kind, rows in found.items()}, "saliency")
        last = {
            "here, last layer": [found[kind][0][-1] for kind in KINDS],
            "paper, layer 12": [PAPER[kind] for kind in KINDS],
        }
        plot_comparison(last, KINDS, ax=right, relative=False)
        right.set_ylabel("Spearman's correlation with saliency")
        figure.savefig(figures / "rollout.png", dpi=110)
    columns = [
        *(str(layer) for layer in range(1, len(found["W"][0]) + 1)),
        "last, no special tokens",
        "last, gradient x input",
        "last layer alone",
        "paper, layer 12",
    ]
    return table(
        "layers",
        columns,
        {kind: [*rows[0], *(row[-1] for row in rows[1:]), PAPER[kind]] for kind, rows in found.items()},
    )


def hidden_table(
    subject: Subject, examples: Sequence[Example], directions: int | None, figures: Path | None
) -> str:
    """Draw table (b)."""
    found = layers_against_gradients(subject, examples, directions)
    if figures is not None:
        figure = Figure(figsize=(5.5, 4), layout="constrained")
        axes = figure.subplots()
        draw_layers(axes, found, "HTA")
        figure.savefig(figures / "hidden.png", dpi=110)
    columns = [*(str(layer) for layer in range(1, len(found["W"]) + 1)), "mean"]
    return table("layer", columns, {kind: [*row, statistics.fmean(row)] for kind, row in found.items()})


def faithfulness_table(
    subject: Subject, examples: Sequence[Example], out: Path | None, figures: Path | None
) -> str:
    """Draw table (c)."""
    evaluation = evaluate(subject.model, subject.tokenizer, examples, methods=METHODS_OF_TABLE, out=out)
    if figures is not None:
        draw(evaluation.summary(), figures / "faithfulness.png")
    return evaluation.markdown()


METHODS_OF_TABLE = ("globenc", *KINDS[:-1], "N-Enc/max-flow", *DEFAULT_METHODS[4:])


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
    parser.add_argument("--figures", type=Path, help="folder for rollout.png, hidden.png, faithfulness.png")
    options = parser.parse_args()
    assert set(KINDS) == set(MIXINGS)

    classifier = load_classifier(options.model)
    subject = Subject(classifier.model, classifier.tokenizer)
    examples = read_examples(options.data)
    some, few = sample(examples, options.limit), sample(examples, options.hidden_limit)
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
    tables: dict[str, Callable[[], str]] = {
        "a": lambda: rollout_table(subject, some, options.figures),
        "b": lambda: hidden_table(subject, few, options.directions, options.figures),
        "c": lambda: faithfulness_table(subject, some, options.out, options.figures),
    }
    for name in options.tables:
        print(f"({name})\n\n{tables[name]()}", flush=True)


if __name__ == "__main__":
    main()
