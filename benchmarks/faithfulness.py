"""How faithful methods are when tokens or patches are removed, next to Integrated Gradients, text by text.

    python benchmarks/faithfulness.py [--limit 500] [--models embedded,pre-ln,vit]

Three models that anybody can make: the embedded sentiment classifier; a pre-LN text encoder that is trained
here on the same sentences with random masking, so that masked texts are known to it; a ViT that is trained
here on scikit-learn's digits with random patches blanked. Removed is what a method calls most important, or
least important, for the predicted class: 10 to 50 % of the tokens or patches. Seeds are fixed.
"""

import argparse

from comparison import Measured, measured, table
from digits import image_rows
from trained import Loaded, digits_vit, pre_ln, split

from captum_globenc.evaluation import SENTENCES, Example, evaluate, read_examples, sample
from captum_globenc.texts import load_default

METHODS = (
    "transformer-deep-lift",
    "transformer-deep-lift/2",
    "transformer-deep-lift/restore-2",
    "transformer-deep-lift/restore-4",
    "integrated-gradients",
    "feature-ablation",
    "first-last",
    "kernel-shap/32",
    "lime",
    "decompx",
    "globenc",
    "deep-lift",
    "input-x-gradient",
    "random",
)


def text_rows(loaded: Loaded, examples: list[Example]) -> Measured:
    """Return for each method its measures, one value a text."""
    names = ["comprehensiveness", "aopc-most", "aopc-least"]
    found = measured(evaluate(*loaded, examples, methods=METHODS, metrics=names))
    return {
        method: {
            "comprehensiveness": values["comprehensiveness"],
            "most minus least": values["aopc-most"] - values["aopc-least"],
        }
        for method, values in found.items()
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--models", default="embedded,pre-ln,vit")
    options = parser.parse_args()
    for name in options.models.split(","):
        if name == "vit":
            model, images = digits_vit()
            found = image_rows(model, images[: options.limit], METHODS)
            rows = {
                method: {"comprehensiveness": it["most"], "most minus least": it["most"] - it["least"]}
                for method, it in found.items()
            }
            rows = {method: rows[method] for method in METHODS}
            count = len(images[: options.limit])
        elif name == "pre-ln":
            some = split()[1][: options.limit]
            rows, count = text_rows(pre_ln(), some), len(some)
        else:
            some = sample(read_examples(SENTENCES), options.limit)
            rows, count = text_rows(load_default(), some), len(some)
        print(f"\n{name}, {count} examples\n", flush=True)
        for line in table(rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()
