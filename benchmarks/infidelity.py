"""Captum's infidelity (Yeh et al. 2019) of methods, with standard errors, next to Integrated Gradients.

    python benchmarks/infidelity.py [--limit 300] [--methods transformer-deep-lift,globenc,...]

The embedded classifier, the logit of the predicted class. A fifth of a text's tokens, drawn at random, are
masked, 50 times; infidelity is the mean squared difference between what the scores of these tokens add up to
and what the logit loses. Once as scores are, once at the scale that suits a text's scores best, as GlobEnc's
and others' have no unit. Every method sees the same masked texts; seeds are fixed.
"""

import argparse
import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from comparison import REFERENCE, written
from torch import Tensor

from captum_globenc.evaluation import SENTENCES, Subject, read_examples, sample
from captum_globenc.evaluation.metrics import token_infidelity
from captum_globenc.evaluation.subject import attribute
from captum_globenc.texts import load_default

METHODS = (
    "transformer-deep-lift",
    "transformer-deep-lift/2",
    REFERENCE,
    "feature-ablation",
    "decompx",
    "attn-lrp",
    "conservative-propagation",
    "gim",
    "libragrad",
    "input-x-gradient",
    "globenc",
    "random",
)
IN_LOGITS = METHODS[:4]
"""Those whose scores are differences of the logit, so that their scale means something."""
BATCH, SAMPLES = 16, 50
PLAIN, SCALED = "infidelity", "at the best scale"


def measured(subject: Subject, methods: list[str], limit: int) -> dict[str, dict[str, Tensor]]:
    """Return for each method its infidelities, one value a text."""
    values: dict[str, dict[str, list[Tensor]]] = {method: {PLAIN: [], SCALED: []} for method in methods}
    examples = sample(read_examples(SENTENCES), limit)
    for number, start in enumerate(range(0, len(examples), BATCH)):
        batch = subject.batch(number, examples[start : start + BATCH])
        for method in methods:
            scores = attribute(method, batch)
            for name, normalize in ((PLAIN, False), (SCALED, True)):
                found = token_infidelity(
                    subject, batch, scores, samples=SAMPLES, normalize=normalize, seed=number
                )
                values[method][name].append(found[batch.mask.any(1)].detach().double())
    return {
        method: {name: torch.cat(parts) for name, parts in of_method.items()}
        for method, of_method in values.items()
    }


def table(rows: dict[str, dict[str, Tensor]]) -> Iterator[str]:
    """Yield the table, with differences to the reference text by text."""
    yield f"| method | {PLAIN} | minus {REFERENCE} | {SCALED} | minus {REFERENCE} |"
    yield "| --- |" + " ---: |" * 4
    for method, of_method in rows.items():
        cells = []
        for name in (PLAIN, SCALED):
            told = name == SCALED or method in IN_LOGITS
            cells.append(written(of_method[name]) if told else "")
            told = told and method != REFERENCE
            cells.append(written(of_method[name] - rows[REFERENCE][name], "+") if told else "")
        yield f"| {method} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args()
    methods = options.methods.split(",")
    rows = measured(Subject(*load_default()), list(dict.fromkeys([REFERENCE, *methods])), options.limit)
    print(f"\nembedded, {len(rows[REFERENCE][PLAIN])} examples\n")
    for line in table({method: rows[method] for method in dict.fromkeys([*methods, REFERENCE])}):
        print(line)


if __name__ == "__main__":
    main()
