"""Do methods name the words that decide? Models that rely on planted words, text by text.

    python benchmarks/shortcuts.py [--models token,context,pair,pair-2,minilm-pair] [--limit 300]

Each model is trained on sentences in which planted words decide the label (Bastings et al. 2022): a BERT of
four layers from scratch, or MiniLM. That it relies on them is verified first, and that the decoy has no
effect. Seeds are fixed; with one thread (OMP_NUM_THREADS=1) the models come out alike.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from comparison import Measured, compared_methods, measured, table
from trained import Loaded, minilm_with_shortcut, small_with_shortcut, split

from captum_globenc.evaluation import Example, Subject, evaluate, plant, without
from captum_globenc.evaluation.metrics import KNOWN_TRUTH

SECOND = "-2"
"""What the name of a second training of the small BERT ends in."""

MODELS: Mapping[str, Callable[..., Loaded]] = {
    **{kind: partial(small_with_shortcut, kind) for kind in ("token", "context", "pair")},
    **{kind + SECOND: partial(small_with_shortcut, kind, seed=1) for kind in ("context", "pair")},
    **{f"minilm-{kind}": partial(minilm_with_shortcut, kind) for kind in ("token", "context", "pair")},
}
SLACK = 0.05
"""The share of texts in which a model may do otherwise than its shortcut says, or heed the decoy."""

METRICS = [name + suffix for name in KNOWN_TRUTH for suffix in ("", "/size")]


def planted(name: str, limit: int) -> list[Example]:
    """Return sentences that no model was trained on, each with the shortcut of a model."""
    kind, (_, held_out) = name.removeprefix("minilm-").removesuffix(SECOND), split()
    found = [it for seed in (1000, 1001) for it in plant(held_out, kind, share=1.0, seed=seed) if it.marked]
    return [replace(example, number=number) for number, example in enumerate(found[:limit])]


def reliance(loaded: Loaded, examples: list[Example]) -> dict[str, float]:
    """Return what shows that the planted words decide, each a share of the texts.

    Returns:
        "with": how often the label that the words make is predicted; "without": how often it is once they
        are cut out, where it is a matter of chance; "decoy": how often the prediction changes as the decoy
        is cut out.
    """
    labels = torch.tensor([int(it.label) for it in examples])
    whole = predictions(loaded, examples)
    bare = predictions(loaded, [without(it, it.marked) for it in examples])
    plain = predictions(loaded, [without(it, it.decoys) for it in examples])
    return {
        "with": float((whole == labels).float().mean()),
        "without": float((bare == labels).float().mean()),
        "decoy": float((plain != whole).float().mean()),
    }


def predictions(loaded: Loaded, examples: list[Example]) -> torch.Tensor:
    """Return the class that is predicted for each text."""
    subject = Subject(*loaded)
    starts = range(0, len(examples), 32)
    return torch.cat([subject.batch(0, examples[at : at + 32]).outputs.argmax(dim=1) for at in starts])


def naming(
    loaded: Loaded,
    examples: list[Example],
    out: Path | None = None,
    methods: Sequence[str] | None = None,
    seed: int = 0,
) -> Measured:
    """Return what methods name, by score and by size; all that are compared unless told."""
    methods = compared_methods() if methods is None else methods
    return measured(evaluate(*loaded, examples, methods=methods, metrics=METRICS, out=out, seed=seed))


def said(found: Mapping[str, float]) -> str:
    """Describe whether a model relies on the planted words."""
    relies = found["with"] >= 1 - SLACK and found["decoy"] <= SLACK
    return (
        f"The model predicts the label of the planted words for {found['with']:.1%} of the texts, and for "
        f"{found['without']:.1%} after the words are removed; without the decoy {found['decoy']:.1%} of the "
        "predictions change." + ("" if relies else " **The model does not rely on them.**")
    )


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="token,context,pair,minilm-pair", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--out", type=Path, help="a folder for models and rows, to go on where it stopped")
    options = parser.parse_args()
    for name in options.models.split(","):
        folder = options.out and options.out / name
        loaded, examples = MODELS[name](folder and folder / "model"), planted(name, options.limit)
        print(f"\n{name}, {len(examples)} texts. {said(reliance(loaded, examples))}\n", flush=True)
        for line in table(naming(loaded, examples, folder and folder / "rows"), METRICS[:2]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
