"""How faithful methods are when tokens or patches are removed, next to Integrated Gradients, text by text.

    python benchmarks/faithfulness.py [--limit 500] [--models embedded,pre-ln,vit]

Three models that anybody can make: the embedded sentiment classifier; a pre-LN text encoder that is trained
here on the same sentences with random masking, so that masked texts are known to it; a ViT that is trained
here on scikit-learn's digits with random patches blanked. Removed is what a method calls most important, or
least important, for the predicted class: 10 to 50 % of the tokens or patches. Seeds are fixed.
"""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from captum._utils.models.linear_model import SkLearnRidge
from captum.attr import DeepLift, FeatureAblation, InputXGradient, IntegratedGradients, Lime
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import (
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from captum_globenc import DecompX, EncoderForward, GlobEnc, TransformerDeepLift
from captum_globenc.evaluation import SENTENCES, Example, evaluate, read_examples, sample
from captum_globenc.evaluation.journal import EXAMPLE, METHOD
from captum_globenc.evaluation.methods import LIME_SAMPLES, closeness
from captum_globenc.texts import load_default

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5)
REFERENCE = "integrated-gradients"
TEXT_METHODS = (
    "transformer-deep-lift",
    "transformer-deep-lift/2",
    REFERENCE,
    "feature-ablation",
    "lime",
    "decompx",
    "globenc",
    "deep-lift",
    "input-x-gradient",
    "random",
)
PATCH, SIDE = 2, 8


def text_rows(model: nn.Module, tokenizer: object, examples: list[Example]) -> dict[str, dict[str, Tensor]]:
    """Return for each method its measures, one value a text."""
    names = ["comprehensiveness", "aopc-most", "aopc-least"]
    found = evaluate(model, tokenizer, examples, methods=TEXT_METHODS, metrics=names)
    rows: dict[str, dict[str, Tensor]] = {}
    for method in TEXT_METHODS:
        of_method = sorted((row for row in found.rows if row[METHOD] == method), key=lambda row: row[EXAMPLE])
        values = {name: torch.tensor([float(row[name]) for row in of_method]) for name in names}
        rows[method] = {
            "comprehensiveness": values["comprehensiveness"],
            "most less least": values["aopc-most"] - values["aopc-least"],
        }
    return rows


def pre_ln_encoder() -> tuple[nn.Module, object]:
    """Train a small pre-LN encoder on the sentences, half of whose tokens or fewer are masked at random."""
    torch.manual_seed(0)
    _, tokenizer = load_default()
    config = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=256, max_position_embeddings=130, pad_token_id=tokenizer.pad_token_id, num_labels=2,
    )  # fmt: skip
    config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    model = RobertaPreLayerNormForSequenceClassification(config)
    examples = [it for it in read_examples(SENTENCES) if it.number % 6]  # the others are for the evaluation
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
    special = torch.tensor([it for it in tokenizer.all_special_ids if it != tokenizer.unk_token_id])
    for epoch in range(6):
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(epoch)).tolist()
        for start in range(0, len(order), 32):
            some = [examples[it] for it in order[start : start + 32]]
            batch = tokenizer(
                [it.text for it in some], padding=True, truncation=True, max_length=120, return_tensors="pt"
            )
            share = torch.rand(len(some), 1) / 2
            gone = (torch.rand(batch["input_ids"].shape) < share) & ~torch.isin(batch["input_ids"], special)
            ids = batch["input_ids"].masked_fill(gone, tokenizer.mask_token_id)
            labels = torch.tensor([int(it.label) for it in some])
            loss = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    tokenizer.model_max_length = 120
    return model, tokenizer


def digits_vit() -> tuple[nn.Module, Tensor]:
    """Train a ViT of 4 layers on digits with random patches blank; gives images for its evaluation, too."""
    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = (images.float() / 8 - 1).reshape(-1, 1, SIDE, SIDE)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=SIDE,
            patch_size=PATCH,
            num_channels=1,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=10,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(1500):
        some = torch.randint(0, 1400, (64,))
        gone = torch.rand(64, (SIDE // PATCH) ** 2) < torch.rand(64, 1) * 0.6
        loss = model(pixel_values=blanked(images[some], gone), labels=labels[some]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), images[1400:]


def blanked(images: Tensor, gone: Tensor) -> Tensor:
    """Set patches `(B, P)` to what is blank, 0."""
    mask = gone.reshape(-1, 1, SIDE // PATCH, SIDE // PATCH)
    return images * ~mask.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


def by_patch(scores: Tensor) -> Tensor:
    """Sum scores of pixels `(B, 1, H, W)` over patches, `(B, P)`."""
    return nn.functional.avg_pool2d(scores, PATCH, divisor_override=1).flatten(1)


def image_rows(model: nn.Module, images: Tensor) -> dict[str, dict[str, Tensor]]:
    """Return for each method its measures, one value an image."""
    forward = EncoderForward(model, ())
    with torch.no_grad():
        targets = forward(images).argmax(1)
    patches = torch.arange((SIDE // PATCH) ** 2).reshape(1, 1, SIDE // PATCH, -1)
    features = patches.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    exact = TransformerDeepLift(forward)
    methods: Mapping[str, Callable[[], Tensor]] = {
        "transformer-deep-lift": lambda: exact.attribute(images, 0.0, targets),
        "transformer-deep-lift/2": lambda: exact.attribute(images, 0.0, targets, n_steps=2),
        REFERENCE: lambda: IntegratedGradients(forward).attribute(
            images, target=targets, n_steps=50, internal_batch_size=1024
        ),
        "feature-ablation": lambda: FeatureAblation(forward).attribute(
            images, target=targets, feature_mask=features
        ),
        "lime": lambda: lime(forward, images, targets, features),
        "decompx": lambda: DecompX(forward).attribute(images, targets),
        "globenc": lambda: GlobEnc(forward).attribute(images),
        "deep-lift": lambda: DeepLift(forward).attribute(images.clone(), 0.0, targets),
        "input-x-gradient": lambda: InputXGradient(forward).attribute(
            images.clone().requires_grad_(), targets
        ),
        "random": lambda: torch.rand(images.shape, generator=torch.Generator().manual_seed(0)),
    }
    rows = {}
    for name, method in methods.items():
        scores = by_patch(method().detach().float())
        most, least = (drops(forward, images, targets, sign * scores) for sign in (1, -1))
        rows[name] = {"comprehensiveness": most, "most less least": most - least}
    return rows


def lime(forward: nn.Module, images: Tensor, targets: Tensor, features: Tensor) -> Tensor:
    """LIME as `evaluate` has it: 50 samples, ridge regression, one image after the other."""
    method = Lime(forward, interpretable_model=SkLearnRidge(alpha=1.0), similarity_func=closeness)
    torch.manual_seed(0)
    options = {"feature_mask": features, "n_samples": LIME_SAMPLES, "perturbations_per_eval": LIME_SAMPLES}
    return torch.cat(
        [
            method.attribute(image[None], target=target[None], **options)
            for image, target in zip(images, targets, strict=True)
        ]
    )


@torch.no_grad()
def drops(forward: nn.Module, images: Tensor, targets: Tensor, scores: Tensor) -> Tensor:
    """Return what the predicted class's probability loses without the highest scores, over all fractions."""

    def probability(some: Tensor) -> Tensor:
        return forward(some).softmax(1).gather(1, targets[:, None])[:, 0]

    whole, order = probability(images), scores.argsort(1, descending=True)
    lost = []
    for fraction in FRACTIONS:
        gone = torch.zeros_like(scores, dtype=torch.bool)
        gone.scatter_(1, order[:, : max(1, round(fraction * scores.shape[1]))], True)
        lost.append(whole - probability(blanked(images, gone)))
    return torch.stack(lost).mean(0)


def table(rows: Mapping[str, Mapping[str, Tensor]]) -> Iterator[str]:
    """Yield the table of a model, with differences to the reference text by text."""
    names = list(rows[REFERENCE])
    yield "| method | " + " | ".join(f"{name} | less {REFERENCE}" for name in names) + " |"
    yield "| --- |" + " ---: |" * (2 * len(names))
    for method, values in rows.items():
        cells = []
        for name in names:
            cells.append(written(values[name]))
            cells.append("" if method == REFERENCE else written(values[name] - rows[REFERENCE][name], "+"))
        yield f"| {method} | " + " | ".join(cells) + " |"


def written(values: Tensor, sign: str = "") -> str:
    """Write a mean with its standard error."""
    values = values[values.isfinite()]
    return f"{float(values.mean()):{sign}.3f} ± {float(values.std() / len(values) ** 0.5):.3f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--models", default="embedded,pre-ln,vit")
    options = parser.parse_args()
    examples = read_examples(SENTENCES)
    for name in options.models.split(","):
        if name == "vit":
            model, images = digits_vit()
            images = images[: options.limit]
            rows, count = image_rows(model, images), len(images)
        elif name == "pre-ln":
            some = [it for it in examples if it.number % 6 == 0][: options.limit]
            rows, count = text_rows(*pre_ln_encoder(), some), len(some)
        else:
            some = sample(examples, options.limit)
            rows, count = text_rows(*load_default(), some), len(some)
        print(f"\n{name}, {count} examples\n", flush=True)
        for line in table(rows):
            print(line, flush=True)


if __name__ == "__main__":
    main()
