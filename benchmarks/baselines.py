"""Baselines of decoders: which one finds the words that matter, and how far contributions cancel.

    python benchmarks/baselines.py [--limit 200] [--folder DIR]

The model is a Llama that the script trains to classify sentences, without a mask token; its norms have
no bias. Measured: by how much the probability of its class falls when the most important tokens are deleted,
and the condition number sum |c| / |f(x) - f(x0)| of exact differences, 1 where nothing cancels. Each baseline
keeps the special tokens. All of it in float64; seeds are fixed.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from comparison import written
from torch import Tensor
from torch.nn.functional import normalize
from trained import Loaded, llama, split

from captum_globenc import TransformerDeepLift
from captum_globenc.evaluation import Example, Subject
from captum_globenc.metrics import comprehensiveness
from captum_globenc.texts.embeddings import OnEmbeddings

NEIGHBORS = 10
BATCH = 20
RESAMPLES = 1000

Measured = dict[str, dict[str, Tensor]]
"""For each baseline and measure one value a text."""


def stand_ins(over: OnEmbeddings, loaded: Loaded, ids: Tensor) -> dict[str, Tensor]:
    """Return what replaces each word by the name of the baseline: `(D,)`, or `(B, N, D)`."""
    model, tokenizer = loaded
    tokens = {
        "eos": tokenizer.eos_token_id,
        "period": tokenizer.convert_tokens_to_ids("."),
        "pad": tokenizer.pad_token_id,
    }
    table = model.get_input_embeddings().weight.detach()
    alike = normalize(table[ids], dim=-1) @ normalize(table, dim=-1).T
    nearest = alike.topk(NEIGHBORS + 1, dim=-1).indices[..., 1:]  # the first is the word itself
    return {
        "mean": over.mean,
        **{name: over.embed(torch.tensor([token]))[0] for name, token in tokens.items()},
        "neighbors": table[nearest].mean(-2),
        "zero": torch.zeros_like(over.mean),
    }


def explained(
    over: OnEmbeddings, loaded: Loaded, ids: Tensor, kept: Tensor, target: Tensor | None, extra: tuple
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield by baseline contributions `(B, N)` and the condition number `(B,)` of exact differences."""
    own, method = over.embed(ids), TransformerDeepLift(over)
    for name, vector in stand_ins(over, loaded, ids).items():
        baseline = torch.where(kept[..., None], own, vector)
        scores = method.attribute(own, baseline, target, (ids, *extra)).sum(-1)
        yield name, scores, scores.abs().sum(-1) / scores.sum(-1).abs()


def llama_rows(loaded: Loaded, examples: Sequence[Example]) -> tuple[Measured, float]:
    """Return the measures of sentences, and how many are classified right."""
    subject, found = Subject(*loaded), dict[str, dict[str, list[Tensor]]]()
    hits = []
    for number, start in enumerate(range(0, len(examples), BATCH)):
        batch = subject.batch(number, examples[start : start + BATCH])
        hits += [it in labels for it, labels in zip(batch.target.tolist(), batch.labels, strict=True)]
        over = OnEmbeddings(subject.forward, subject.model)
        for name, scores, condition in explained(
            over, loaded, batch.inputs, batch.request.kept, batch.target, batch.extra
        ):
            removal = comprehensiveness(
                subject.forward, batch.inputs, scores, subject.blank, batch.extra,
                target=batch.target, mask=batch.mask, removal="delete", activation=subject.activation,
            )  # fmt: skip
            values = found.setdefault(name, {"comprehensiveness": [], "condition": []})
            values["comprehensiveness"].append(removal)
            values["condition"].append(condition)
    return joined(found), sum(hits) / len(hits)


def joined(found: Mapping[str, Mapping[str, list[Tensor]]]) -> Measured:
    """Join the values of batches."""
    return {name: {of: torch.cat(it) for of, it in values.items()} for name, values in found.items()}


def middle(values: Tensor) -> str:
    """Write a median with its standard error, by bootstrap."""
    some = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(0))
    return f"{values.median():.2f} ± {values[some].median(1).values.std():.2f}"


def table(rows: Measured) -> Iterator[str]:
    """Yield the lines of a table: means with differences to the mean embedding, and the median condition."""
    measure, _ = next(iter(rows.values()))
    yield f"| baseline | {measure} | minus mean | median condition number |"
    yield "| --- | ---: | ---: | ---: |"
    for name, values in rows.items():
        less = "" if name == "mean" else written(values[measure] - rows["mean"][measure], "+")
        yield f"| {name} | {written(values[measure])} | {less} | {middle(values['condition'])} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where trained models are kept, a folder each")
    options = parser.parse_args()
    model, tokenizer = llama(options.folder)
    some = split()[1][: options.limit]
    rows, right = llama_rows((model.double(), tokenizer), some)
    print(f"\n{len(some)} sentences, {right:.3f} of them classified right\n")
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
