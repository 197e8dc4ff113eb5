"""Train the small part of the default classifier that ships with the package.

Each update is low-rank and is merged by the loader's own code at every step, so what is trained is
what is loaded. Cross-validation comes first, then one run on all sentences is saved. One thread and
fixed seeds: the same machine writes the same file.

    python scripts/train_default.py --folds 5

With `--mask 0.5` a classifier of its own is trained, for which texts with masked tokens are no news:
metrics that mask tokens then stay inside what it knows (Madsen et al. 2024). `--data` takes other sentences.

    python scripts/train_default.py --skip-cv --mask 0.5 --out masked.safetensors
"""

import argparse
import csv
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BatchEncoding

from captum_globenc.forward import special_tokens
from captum_globenc.texts.default import (
    TRAINED_PART,
    build_classifier,
    encoder_folder,
    load_encoder_state,
    merge,
)

SENTENCES = TRAINED_PART.with_name("sentiment_sentences.tsv")
SEED = 0
# The upper three of six layers reach what all six do, in half the time.
ADAPTED = tuple(f"bert.encoder.layer.{layer}." for layer in (3, 4, 5))
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
RANK = 8
EPOCHS = 2
BATCH = 16
LEARNING_RATE = 1e-3
WARMUP = 0.1


@dataclass(frozen=True)
class Sentences:
    """Labelled sentences, in file order."""

    sources: list[str]
    labels: Tensor
    texts: list[str]

    @classmethod
    def read(cls, path: Path) -> "Sentences":
        """Read the tab-separated file; quotes in it are part of the text."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        labels = torch.tensor([int(row["label"]) for row in rows])
        return cls([row["source"] for row in rows], labels, [row["text"] for row in rows])

    def folds(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Split by source and label; texts equal but for case and punctuation stay together."""
        strata = [
            f"{source} {label}" for source, label in zip(self.sources, self.labels.tolist(), strict=True)
        ]
        groups = [re.sub(r"\W+", " ", text.lower()).strip() for text in self.texts]
        splitter = StratifiedGroupKFold(count, shuffle=True, random_state=SEED)
        for train, held_out in splitter.split(self.texts, strata, groups):
            yield torch.from_numpy(train), torch.from_numpy(held_out)


class Trainer:
    """Fit trained parts to subsets of the sentences, on one base model that never changes.

    Args:
        sentences: all of them.
        mask: up to this share of the tokens of each text are masked while training.
    """

    def __init__(self, sentences: Sentences, mask: float = 0.0) -> None:
        folder = encoder_folder()
        self.base = load_encoder_state(folder)
        self.model = build_classifier(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.labels = sentences.labels
        self.mask = mask
        self.ids: list[list[int]] = self.tokenizer(sentences.texts)["input_ids"]

    def start(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return a trained part that changes nothing yet: every `up` is zero."""
        hidden = self.model.config.hidden_size
        trained = {name: self.base[name].clone() for name in POOLER}
        trained["classifier.weight"] = torch.randn(2, hidden, generator=generator) * 0.02
        trained["classifier.bias"] = torch.zeros(2)
        for name, weight in self.base.items():
            if name.startswith(ADAPTED) and weight.ndim == 2:
                layer, (out, into) = name.removesuffix(".weight"), weight.shape
                trained[f"{layer}.up"] = torch.zeros(out, RANK)
                down = torch.randn(RANK, into, generator=generator)
                trained[f"{layer}.down"] = down / math.sqrt(into)
        return {name: value.requires_grad_() for name, value in trained.items()}

    def batch(self, indices: Tensor) -> BatchEncoding:
        """Pad the sentences at the indices to one length."""
        ids = [self.ids[index] for index in indices.tolist()]
        return self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")

    def shuffled(self, indices: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        """Yield batches of indices, in random order, of sentences of similar length."""
        lengths = torch.tensor([len(self.ids[index]) for index in indices.tolist()])
        jitter = 6 * torch.rand(len(indices), generator=generator)
        batches = indices[(lengths + jitter).argsort()].split(BATCH)
        for position in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[position]

    def fit(self, indices: Tensor) -> dict[str, Tensor]:
        """Train on the sentences at the indices; half precision, as it is stored."""
        torch.manual_seed(SEED)  # Dropout draws from the global stream.
        generator = torch.Generator().manual_seed(SEED)
        trained = self.start(generator)
        optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE)
        steps = EPOCHS * math.ceil(len(indices) / BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, steps, pct_start=WARMUP, anneal_strategy="linear"
        )
        self.model.train()
        for _ in range(EPOCHS):
            for chosen in self.shuffled(indices, generator):
                batch = self.masked(self.batch(chosen), generator)
                loss = cross_entropy(self.logits(trained, batch), self.labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        self.model.eval()
        return {name: value.detach().half() for name, value in trained.items()}

    def masked(self, batch: BatchEncoding, generator: torch.Generator) -> BatchEncoding:
        """Mask a share of each text's tokens, drawn between 0 and `self.mask`; special tokens stay."""
        if self.mask:  # else nothing is drawn, and the shipped file comes out as ever
            ids = batch["input_ids"]
            share = self.mask * torch.rand(len(ids), 1, generator=generator)
            gone = torch.rand(ids.shape, generator=generator) < share
            gone &= ~special_tokens(batch, self.tokenizer)
            batch["input_ids"] = ids.masked_fill(gone, self.tokenizer.mask_token_id)
        return batch

    def logits(self, trained: dict[str, Tensor], batch: BatchEncoding) -> Tensor:
        """Run the stock forward with the trained part merged, (B, 2)."""
        state = merge(self.base, trained)
        logits: Tensor = functional_call(self.model, state, (), dict(batch)).logits
        return logits

    @torch.no_grad()
    def correct(self, trained: dict[str, Tensor], indices: Tensor) -> Tensor:
        """Tell which sentences at the indices are classified right, (B,)."""
        logits = torch.cat([self.logits(trained, self.batch(chosen)) for chosen in indices.split(64)])
        return logits.argmax(-1) == self.labels[indices]


def cross_validate(trainer: Trainer, sentences: Sentences, count: int) -> None:
    """Print the held-out accuracy of each fold, of all, and by source."""
    right = torch.zeros(len(sentences.texts), dtype=torch.bool)
    for number, (train, held_out) in enumerate(sentences.folds(count), start=1):
        right[held_out] = trainer.correct(trainer.fit(train), held_out)
        accuracy = right[held_out].double().mean()
        print(f"fold {number}: {accuracy:.2%} of {len(held_out)} sentences", flush=True)
    print(f"all folds: {right.double().mean():.2%}")
    for source in dict.fromkeys(sentences.sources):
        of_source = torch.tensor([other == source for other in sentences.sources])
        print(f"{source}: {right[of_source].double().mean():.2%}")


def main() -> None:
    """Parse the options, cross-validate, train on everything and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folds", type=int, default=5, help="number of cross-validation folds")
    parser.add_argument("--out", type=Path, default=TRAINED_PART, help="file to write")
    parser.add_argument("--skip-cv", action="store_true", help="only train on all and save")
    parser.add_argument("--data", type=Path, default=SENTENCES, help="sentences, a file like the shipped one")
    parser.add_argument("--mask", type=float, default=0.0, help="largest share of tokens masked in training")
    options = parser.parse_args()
    if not 0 <= options.mask <= 1:
        parser.error(f"--mask is {options.mask}; it has to be from 0 to 1")
    if (options.mask or options.data != SENTENCES) and options.out == TRAINED_PART:
        parser.error("--out is needed: what ships with the package is trained as it is described")

    torch.set_num_threads(1)  # Sums depend on how many threads share them.
    sentences = Sentences.read(options.data)
    trainer = Trainer(sentences, options.mask)
    if not options.skip_cv:
        cross_validate(trainer, sentences, options.folds)
    everything = torch.arange(len(sentences.texts))
    trained = trainer.fit(everything)
    save_file(trained, options.out)
    accuracy = trainer.correct(trained, everything).double().mean()
    print(f"{options.out}: {options.out.stat().st_size} bytes, {accuracy:.2%} on its own sentences")


if __name__ == "__main__":
    main()
