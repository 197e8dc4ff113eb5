"""Small models for the pictures of tasks, trained within minutes on made-up examples, without a network.

They show what an explanation of such a model looks like, and nothing of what real ones know. Those of texts
go on from the first layers of the embedded classifier's encoder. Seeds are fixed.
"""

import random
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from PIL import Image
from sklearn.datasets import load_digits

from captum_globenc.texts.default import encoder_folder

CITIES = {
    "Rome": "Italy", "Madrid": "Spain", "Vienna": "Austria", "Athens": "Greece", "Lisbon": "Portugal",
    "Dublin": "Ireland", "Warsaw": "Poland", "Cairo": "Egypt", "Tokyo": "Japan", "Lima": "Peru",
    "Oslo": "Norway", "Paris": "France", "Helsinki": "Finland", "Budapest": "Hungary",
}  # fmt: skip
FIRST = [
    "Anna",
    "Boris",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Irene",
    "James",
    "Laura",
    "Nina",
]
LAST = [
    "Baker",
    "Fischer",
    "Garcia",
    "Hansen",
    "Jones",
    "Keller",
    "Lopez",
    "Meyer",
    "Novak",
    "Olsen",
    "Rossi",
]
BEINGS = {"cat": "An animal", "dog": "An animal", "bird": "An animal", "girl": "A child", "boy": "A child"}
ACTS = {"sleeps": "resting", "lies": "resting", "rests": "resting", "runs": "moving", "jumps": "moving"}
COLOURS = ["red", "old", "large", "new"]
PLACES = ["sofa", "table", "bed", "bench", "roof", "lawn"]
TOPICS = {
    "How many people live in {}?": "{} had a population of {} million.",
    "Which river flows through {}?": "{} lies on both banks of a wide river.",
    "What is {} famous for?": "{} is well known for its museums.",
    "Where can one eat in {}?": "{} has {} restaurants near the market.",
}
BATCH, LAYERS = 8, 3
HERTZ, SECONDS = 4000, 1

Draw = random.Random
Batch = dict[str, torch.Tensor]


def infer(draw: Draw) -> tuple[str, str, int]:
    """Make a premise, a hypothesis, and whether that is contradicted (0), entailed (1) or neither (2)."""
    being, act, place = draw.choice([*BEINGS]), draw.choice([*ACTS]), draw.choice(PLACES)
    premise = f"A {being} {act} on the {place}."
    state = draw.choice(["resting", "moving"])
    return premise, *draw.choice(
        [
            (f"{BEINGS[being]} is {state}.", int(state == ACTS[act])),
            (f"{BEINGS[being]} is {state}.", int(state == ACTS[act])),
            (f"The {place} is empty.", 0),
            (f"The {place} is {draw.choice(COLOURS)}.", 2),
        ]
    )


def match(draw: Draw) -> tuple[str, str, float]:
    """Make a question, a passage of the same city, and a score of whether it answers that."""
    city = draw.choice([*CITIES])
    question, other = draw.sample([*TOPICS], 2)
    answers = draw.random() < 0.5
    passage = TOPICS[question if answers else other].format(city, draw.randint(2, 99) / 10)
    return question.format(city), passage, 4.0 if answers else -4.0


def name(draw: Draw) -> tuple[str, dict[str, str]]:
    """Make a sentence, and the names that may be in it with their kinds."""
    person = f"{draw.choice(FIRST)} {draw.choice(LAST)}"
    one, other = draw.sample([*CITIES], 2)
    sentence = draw.choice(
        [
            f"{person} grew up in {one}, near {other}.",
            f"In {one}, {person} met friends from {other}.",
            f"Yesterday {person} left {one} for {other}.",
            f"The train from {one} to {other} was late.",
        ]
    )
    return sentence, {person: "PER", one: "LOC", other: "LOC"}


def ask(draw: Draw) -> tuple[str, str, str]:
    """Make a question, a passage, and the answer in that."""
    city, country = draw.choice([*CITIES.items()])
    number, year = f"{draw.randint(2, 99) / 10} million", str(draw.randint(1950, 2020))
    passage = f"{city} is the capital of {country}. It had {number} inhabitants in {year}."
    asked = {
        f"How many people live in {city}?": number,
        f"When was {city} counted?": year,
        f"What is the capital of {country}?": city,
    }
    question = draw.choice([*asked])
    return question, passage, asked[question]


def mask(draw: Draw) -> tuple[str, str]:
    """Make a sentence with a mask, and what is under it."""
    city, country = draw.choice([*CITIES.items()])
    words = draw.choice(
        [f"{city} is the capital of {country} .", f"{city} is the heart of the nation ."]
    ).split()
    place = draw.choice([0, 3, 3, 5])
    return " ".join([*words[:place], "[MASK]", *words[place + 1 :]]), words[place].lower()


def encode_pairs(tokenizer: Any, rows: list[tuple[str, str, float]]) -> Batch:
    """Return a batch of pairs with a class, or a value, each."""
    ones, others, labels = zip(*rows, strict=True)
    return {
        **tokenizer([*ones], [*others], padding=True, return_tensors="pt"),
        "labels": torch.tensor(labels),
    }


def encode_names(tokenizer: Any, rows: list[tuple[str, dict[str, str]]]) -> Batch:
    """Return a batch of sentences with a label for each token: of no name, or where in a name it stands."""
    batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    labels = torch.where(batch["attention_mask"] > 0, 0, -100)
    for row, (text, names) in enumerate(rows):
        for said, kind in names.items():
            start = text.find(said)
            if start < 0:
                continue
            first, last = batch.char_to_token(row, start), batch.char_to_token(row, start + len(said) - 1)
            labels[row, first : last + 1] = LABELS.index(f"I-{kind}")
            labels[row, first] = LABELS.index(f"B-{kind}")
    return {**batch, "labels": labels}


def encode_answers(tokenizer: Any, rows: list[tuple[str, str, str]]) -> Batch:
    """Return a batch of questions and passages with the first and the last token of the answers."""
    questions, passages, answers = zip(*rows, strict=True)
    batch = tokenizer([*questions], [*passages], padding=True, return_tensors="pt")
    starts = [passage.index(answer) for passage, answer in zip(passages, answers, strict=True)]
    ends = [start + len(answer) - 1 for start, answer in zip(starts, answers, strict=True)]
    places = {"start_positions": starts, "end_positions": ends}
    found = {
        name: torch.tensor(
            [batch.char_to_token(row, char, sequence_index=1) for row, char in enumerate(chars)]
        )
        for name, chars in places.items()
    }
    return {**batch, **found}


def encode_masks(tokenizer: Any, rows: list[tuple[str, str]]) -> Batch:
    """Return a batch of sentences with what stands under their masks."""
    batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    labels = torch.full_like(batch["input_ids"], -100)
    under = torch.tensor([tokenizer.convert_tokens_to_ids(word) for _, word in rows])
    labels[batch["input_ids"] == tokenizer.mask_token_id] = under
    return {**batch, "labels": labels}


LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS: dict[str, tuple[Any, list[str], Callable[[Draw], Any], Callable[..., Batch], int, float]] = {
    "cross-encoder/nli-MiniLM2-L6-H768": (
        hf.BertForSequenceClassification,
        ["contradiction", "entailment", "neutral"], infer, encode_pairs, 150, 2e-4,
    ),
    "cross-encoder/ms-marco-MiniLM-L6-v2": (
        hf.BertForSequenceClassification, ["LABEL_0"], match, encode_pairs, 300, 2e-4,
    ),
    "dslim/bert-base-NER": (hf.BertForTokenClassification, LABELS, name, encode_names, 50, 5e-4),
    "distilbert/distilbert-base-cased-distilled-squad": (
        hf.BertForQuestionAnswering, ["LABEL_0", "LABEL_1"], ask, encode_answers, 80, 5e-4,
    ),
    "google-bert/bert-base-uncased": (
        hf.BertForMaskedLM, ["LABEL_0", "LABEL_1"], mask, encode_masks, 60, 5e-4,
    ),
}  # fmt: skip
"""By the name of the real one: class, labels, what makes and encodes examples, how many steps, their rate."""


def fit(model: Any, batches: Callable[[], Batch], steps: int, rate: float) -> Any:
    """Train a model on so many batches that hold labels."""
    optimizer = torch.optim.AdamW((it for it in model.parameters() if it.requires_grad), lr=rate)
    model.train()
    for _ in range(steps):
        loss = model(**batches()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def batch(tokenizer: Any, make: Callable[[Draw], Any], encode: Callable[..., Batch], draw: Draw) -> Batch:
    """Make a batch of examples."""
    return encode(tokenizer, [make(draw) for _ in range(BATCH)])


def train_texts(folder: Path) -> None:
    """Train the models of texts, and save each in a folder of the name of a real one."""
    tokenizer = hf.AutoTokenizer.from_pretrained(encoder_folder())
    for where, (kind, labels, make, encode, steps, rate) in TEXTS.items():
        torch.manual_seed(0)
        names = {"id2label": dict(enumerate(labels)), "label2id": {it: at for at, it in enumerate(labels)}}
        model = kind.from_pretrained(encoder_folder(), num_hidden_layers=LAYERS, **names)
        model.get_input_embeddings().requires_grad_(False)
        fit(model, partial(batch, tokenizer, make, encode, Draw(0)), steps, rate)
        model.save_pretrained(folder / where)
        tokenizer.save_pretrained(folder / where)


def train_digits(folder: Path) -> tuple[Any, Any, Path]:
    """Train a ViT on digits; return it, its processor and the file of a digit that it has not seen."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    images = [Image.fromarray(it).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for it in pixels]
    images[-1].save(folder / "digit.png")
    processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    known = processor(images[:1500], return_tensors="pt")["pixel_values"]
    config = hf.ViTConfig(
        image_size=32, patch_size=4, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=128, num_labels=10, id2label={it: str(it) for it in range(10)},
    )  # fmt: skip
    model = hf.ViTForImageClassification(config)

    def images_of() -> Batch:
        some = torch.randint(0, len(known), (8 * BATCH,))
        return {"pixel_values": known[some], "labels": torch.tensor(labels)[some]}

    return fit(model, images_of, 300, 1e-3), processor, folder / "digit.png"


def beep(draw: np.random.Generator, sounds: bool) -> np.ndarray:
    """Make a second of noise, with a beep somewhere or without."""
    sound = draw.normal(0, 0.1, HERTZ * SECONDS)
    if sounds:
        start, length = draw.integers(0, 3 * len(sound) // 4), len(sound) // 5
        sound[start : start + length] += 0.4 * np.sin(2 * np.pi * 600 / HERTZ * np.arange(length))
    return sound.astype(np.float32)


def train_beeps(folder: Path) -> tuple[Any, Any, Path]:
    """Train a wav2vec2 to hear a beep in noise; return it, its processor and a file with a beep."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    config = hf.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=2,
        conv_dim=(32, 32, 32), conv_kernel=(10, 4, 4), conv_stride=(5, 4, 4), num_feat_extract_layers=3,
        feat_extract_norm="layer", num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
        classifier_proj_size=32, id2label={0: "silence", 1: "beep"}, label2id={"silence": 0, "beep": 1},
    )  # fmt: skip
    model = hf.Wav2Vec2ForSequenceClassification(config)
    processor = hf.Wav2Vec2FeatureExtractor(sampling_rate=HERTZ)

    def sounds_of() -> Batch:
        labels = torch.arange(2 * BATCH) % 2
        sounds = [beep(draw, bool(it)) for it in labels]
        return {**processor(sounds, sampling_rate=HERTZ, return_tensors="pt"), "labels": labels}

    fit(model, sounds_of, 150, 1e-3)
    path = folder / "beep.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, HERTZ, 0, "NONE", ""))
        file.writeframes((beep(draw, True).clip(-1, 1) * 32767).astype("<i2").tobytes())
    return model, processor, path
