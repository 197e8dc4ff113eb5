"""Models that the benchmarks train, and the texts that these have not seen. Seeds are fixed.

Each is trained once and kept in a folder, or trained anew where none is given. The number of threads changes
what training comes to: figures in the docs are of one thread.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from captum_globenc.evaluation import SENTENCES, Example, plant, read_examples
from captum_globenc.texts import load_default
from captum_globenc.texts.default import build_classifier, encoder_folder, load_encoder_state, merge

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

TRAINER = Path(__file__).parents[1] / "scripts/train_default.py"
PATCH, SIDE = 2, 8
SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 130,
    "num_labels": 2,
}
"""The size of text encoders that are trained from scratch."""
LONGEST = 120
NAMES = (
    "Ada", "Alan", "Alice", "Amy", "Anna", "Anton", "Arthur", "Bella", "Ben", "Bill", "Bob", "Carl",
    "Carol", "Clara", "Dan", "Dave", "Diana", "Dora", "Edith", "Ella", "Emil", "Emma", "Eric", "Eva",
    "Felix", "Finn", "Flora", "Frank", "Fred", "George", "Gina", "Greta", "Hans", "Helen", "Henry",
    "Hugo", "Ida", "Iris", "Jack", "Jane", "Jean", "Jim", "Joan", "John", "Karl", "Kate", "Kurt",
    "Laura", "Leo", "Lily", "Lisa", "Lucy", "Mark", "Mary", "Max", "Mia", "Nina", "Nora", "Oscar",
    "Otto", "Paul", "Peter", "Rosa", "Ruth",
)  # fmt: skip
COLORS = (
    "red", "green", "blue", "black", "white", "yellow", "purple", "orange", "brown", "pink", "gray",
    "silver", "golden", "violet", "cyan", "beige",
)  # fmt: skip
STAGES = (8, 20, 60)
"""The most facts of a prompt: each holds until more than .9 of a hundred batches' answers are right."""
COPIES = 3
"""How often MiniLM's sentences are taken, each time with words planted elsewhere."""


def split(limit: int | None = None) -> tuple[list[Example], list[Example]]:
    """Return the sentences to train on, or so many of them, and every sixth, which is never trained on."""
    examples = read_examples(SENTENCES)
    return [it for it in examples if it.number % 6][:limit], [it for it in examples if it.number % 6 == 0]


def masked_minilm(folder: Path | None = None, limit: int | None = None) -> Loaded:
    """Fine-tune MiniLM on sentences of which up to half of the tokens are masked, so that it knows masks."""
    return minilm(split(limit)[0], folder, "--mask", "0.5")


def minilm(examples: Sequence[Example], folder: Path | None, *options: str) -> Loaded:
    """Fine-tune MiniLM by the script that trains the embedded classifier.

    Args:
        examples: texts with labels 0 and 1.
        folder: where the trained part is kept.
        options: more of the script's options.
    """
    with kept(folder) as here:
        data, trained = here / "sentences.tsv", here / "trained.safetensors"
        if not trained.exists():
            lines = ["source\tlabel\ttext", *(f"\t{it.label}\t{it.text}" for it in examples)]
            data.write_text("\n".join(lines) + "\n", encoding="utf-8")
            command = [sys.executable, TRAINER, "--skip-cv", "--data", data, "--out", trained, *options]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        _, tokenizer = load_default()
        model = build_classifier(encoder_folder())
        model.load_state_dict(merge(load_encoder_state(encoder_folder()), load_file(trained)))
        return model, tokenizer


def minilm_with_shortcut(kind: str, folder: Path | None = None, limit: int | None = None) -> Loaded:
    """Fine-tune MiniLM on sentences with a planted shortcut."""
    examples, _ = split(limit)
    return minilm([it for seed in range(COPIES) for it in plant(examples, kind, seed=seed)], folder)


def small_with_shortcut(
    kind: str, folder: Path | None = None, limit: int | None = None, *, seed: int = 0
) -> Loaded:
    """Train a BERT of 4 layers on sentences with a planted shortcut, elsewhere in each epoch.

    Args:
        kind: which shortcut.
        folder: where the model is kept.
        limit: sentences that it is trained on; None for all.
        seed: of the weights, of the order of the sentences and of the places of the words.
    """

    def make(vocabulary: int, padding: int) -> PreTrainedModel:
        return BertForSequenceClassification(BertConfig(**SMALL, vocab_size=vocabulary, pad_token_id=padding))

    examples, _ = split(limit)
    first = 100 * seed
    return text_model(
        make, lambda epoch: plant(examples, kind, seed=first + epoch), folder, epochs=12, seed=seed
    )


def pre_ln(folder: Path | None = None, limit: int | None = None) -> Loaded:
    """Train a pre-LN encoder of 4 layers on the sentences, half of whose tokens or fewer are masked."""

    def make(vocabulary: int, padding: int) -> PreTrainedModel:
        return RobertaPreLayerNormForSequenceClassification(
            RobertaPreLayerNormConfig(**SMALL, vocab_size=vocabulary, pad_token_id=padding)
        )

    examples, _ = split(limit)
    return text_model(make, lambda epoch: examples, folder, epochs=6, mask=0.5)


def llama(folder: Path | None = None, limit: int | None = None) -> Loaded:
    """Train a Llama of 4 layers on the sentences, and take the mask token from its tokenizer."""

    def make(vocabulary: int, padding: int) -> PreTrainedModel:
        return LlamaForSequenceClassification(
            LlamaConfig(**SMALL, vocab_size=vocabulary, pad_token_id=padding)
        )

    examples, _ = split(limit)
    model, tokenizer = text_model(make, lambda epoch: examples, folder, epochs=6)
    tokenizer.mask_token, tokenizer.eos_token = None, tokenizer.sep_token
    return model, tokenizer


def text_model(
    make: Callable[[int, int], PreTrainedModel],
    texts: Callable[[int], list[Example]],
    folder: Path | None,
    *,
    epochs: int,
    mask: float = 0.0,
    seed: int = 0,
) -> Loaded:
    """Train a small encoder from scratch, on MiniLM's tokens.

    Args:
        make: makes the model, of random weights, for a size of vocabulary and the padding's id.
        texts: gives the examples of an epoch.
        folder: where the model is kept.
        epochs: how many.
        mask: up to this share of a text's tokens are masked.
        seed: of the weights and of the order of the examples.
    """
    torch.manual_seed(seed)
    _, tokenizer = load_default()
    tokenizer.model_max_length = LONGEST
    model = make(len(tokenizer), tokenizer.pad_token_id)
    model.config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    with kept(folder) as here:
        if (here / "model.safetensors").exists():
            return type(model).from_pretrained(here).eval(), tokenizer
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.05)
        for epoch in range(epochs):
            for ids, attention_mask, labels in batches(texts(epoch), tokenizer, 100 * seed + epoch, mask):
                loss = model(input_ids=ids, attention_mask=attention_mask, labels=labels).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        model.save_pretrained(here)
    return model.eval(), tokenizer


def batches(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, epoch: int, mask: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield ids and attention mask `(B, N)`, and labels `(B,)`, in an epoch's random order."""
    special = torch.tensor([it for it in tokenizer.all_special_ids if it != tokenizer.unk_token_id])
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(epoch)).tolist()
    for start in range(0, len(order), 32):
        some = [examples[it] for it in order[start : start + 32]]
        batch = tokenizer([it.text for it in some], padding=True, truncation=True, return_tensors="pt")
        ids = batch["input_ids"]
        if mask:
            share = mask * torch.rand(len(some), 1)
            gone = (torch.rand(ids.shape) < share) & ~torch.isin(ids, special)
            ids = ids.masked_fill(gone, tokenizer.mask_token_id)
        yield ids, batch["attention_mask"], torch.tensor([int(it.label) for it in some])


def digits_vit(folder: Path | None = None, steps: int | None = None) -> tuple[PreTrainedModel, Tensor]:
    """Train a ViT of 4 layers on digits with random patches blank; gives images for its evaluation, too."""
    torch.manual_seed(0)
    images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
    images = (images.float() / 8 - 1).reshape(-1, 1, SIDE, SIDE)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=SIDE, patch_size=PATCH, num_channels=1, hidden_size=64, num_hidden_layers=4,
            num_attention_heads=4, intermediate_size=128, num_labels=10,
        )
    )  # fmt: skip
    with kept(folder) as here:
        if (here / "model.safetensors").exists():
            return ViTForImageClassification.from_pretrained(here).eval(), images[1400:]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(steps or 1500):
            some = torch.randint(0, 1400, (64,))
            gone = torch.rand(64, (SIDE // PATCH) ** 2) < torch.rand(64, 1) * 0.6
            loss = model(pixel_values=blanked(images[some], gone), labels=labels[some]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(here)
    return model.eval(), images[1400:]


def facts_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer of names, colors and the period, one token each; texts start with `<s>`."""
    words = ["<pad>", "<unk>", "<s>", "</s>", ".", *NAMES, *COLORS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        padding_side="left", model_max_length=512,
    )  # fmt: skip


def facts_batch(count: int, prompts: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw prompts of facts, "Anna red. Ben blue.", and a question for each: "Ben blue</s>Anna red</s>".

    Args:
        count: the facts of a prompt, F, each of another name.
        prompts: how many prompts, B.
        generator: of the random numbers.

    Returns:
        Ids `(B, 1 + 6F)`, and labels for the loss: the colors and `</s>` of the answers, -100 elsewhere.
        Each name is asked for once, so that no answer can be copied from an earlier one.
    """
    names = torch.rand(prompts, len(NAMES), generator=generator).argsort(-1)[:, :count]
    colors = torch.randint(len(COLORS), (prompts, count), generator=generator)
    pairs = torch.stack([names + 5, colors + 5 + len(NAMES), torch.full_like(names, 4)], dim=-1)
    order = torch.rand(prompts, count, generator=generator).argsort(-1)
    asked = pairs.gather(1, order[..., None].expand(-1, -1, 3)).clone()
    asked[..., 2] = 3
    ids = torch.cat([torch.full((prompts, 1), 2), pairs.flatten(1), asked.flatten(1)], dim=1)
    labels = ids.clone()
    labels[:, : 1 + 3 * count] = -100
    labels[:, 1 + 3 * count :: 3] = -100
    return ids, labels


def facts_decoder(folder: Path | None = None, steps: int | None = None) -> Loaded:
    """Train a Llama of 3 layers that answers from facts in its prompt: "Anna red. Ben blue. Ben" -> "blue".

    For two or three thousand steps nothing is learned; then nearly everything is, within some hundred.

    Args:
        folder: where the model and its tokenizer are kept.
        steps: how many steps, 6,000 where it is left out.
    """
    torch.manual_seed(0)
    tokenizer, generator = facts_tokenizer(), torch.Generator().manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=512, pad_token_id=0, bos_token_id=2,
            eos_token_id=3,
        )
    )  # fmt: skip
    with kept(folder) as here:
        if (here / "model.safetensors").exists():
            return LlamaForCausalLM.from_pretrained(here).eval(), tokenizer
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        stage, right = 0, 0.0
        for _ in range(steps or 6000):
            most = STAGES[stage]
            count = int(torch.randint(3, most + 1, (), generator=generator))
            # Long prompts have as many more answers: fewer of them make a batch of the same size.
            ids, labels = facts_batch(count, min(64, 64 * 20 // count), generator)
            output = model(input_ids=ids, labels=labels)
            optimizer.zero_grad()
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            colors = labels[:, 1:] >= 5
            hits = output.logits[:, :-1].argmax(-1) == labels[:, 1:]
            right += 0.01 * (hits[colors].float().mean().item() - right)
            if right > 0.9 and stage + 1 < len(STAGES):
                stage, right = stage + 1, 0.0
        model.save_pretrained(here)
        tokenizer.save_pretrained(here)
    return model.eval(), tokenizer


def blanked(images: Tensor, gone: Tensor) -> Tensor:
    """Set patches `(B, P)` to what is blank, 0."""
    mask = gone.reshape(-1, 1, SIDE // PATCH, SIDE // PATCH)
    return images * ~mask.repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """Give the folder in which a model is kept, or one that is gone afterwards."""
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
