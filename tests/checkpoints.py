"""Tiny sequence classifiers with random weights and a real WordPiece tokenizer, saved to disk."""

import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

import captum_globenc

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(captum_globenc.__file__).parents[1])}
"""Of a process that runs the package as it is here, installed or not."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "a",
    "the",
    "plot",
    "film",
    "is",
    "bad",
    "good",
    "great",
    "but",
    "script",
    "red",
    "b",
    "not",
    "un",
    "##happy",
)
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, *WORDS, *"<>[]/.,!?&"])}
LIMIT = 24


def save_classifier(folder: Path, **config: object) -> Path:
    """Save a BERT classifier of two layers and its tokenizer; `config` overrides its settings."""
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": LIMIT,
        "initializer_range": 0.6,
        "id2label": {0: "NEGATIVE", 1: "POSITIVE"},
        "label2id": {"NEGATIVE": 0, "POSITIVE": 1},
    }
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**{**settings, **config})).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """Save a BERT tokenizer over `VOCABULARY`, without a limit of its own."""
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
