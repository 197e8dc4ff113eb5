"""Digests of weights, tokenizers and files, and package versions, which identify a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from inspect import signature
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.extras import installed_version

__all__ = [
    "config_text",
    "content",
    "digest",
    "file_digest",
    "tokenizer_digest",
    "versions",
    "weights_digest",
]

PACKAGES = ("captum_globenc", "captum", "torch", "transformers")
DIGEST_LENGTH = 16


def digest(parts: Iterable[bytes]) -> str:
    """Return the digest of a stream of bytes."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.hexdigest()[:DIGEST_LENGTH]


def weights_digest(model: PreTrainedModel) -> str:
    """Return a digest of a model's weights and config."""

    def parts() -> Iterable[bytes]:
        yield config_text(model.config)
        for name, value in model.state_dict().items():
            yield name.encode()
            yield content(value)

    return digest(parts())


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of the settings of a tokenizer that decide on the tokens of a text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        own = signature(type(tokenizer).__init__).parameters
        given = sorted(tokenizer.init_kwargs.items(), key=itemgetter(0))
        flags = [(name, it) for name, it in given if name in own and isinstance(it, bool)]
        rules: Any = (type(tokenizer).__name__, sorted(tokenizer.get_vocab().items()), flags)
    else:
        rules = json.loads(backend.to_str())
        rules |= dict.fromkeys(("truncation", "padding"))  # of the last call
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    limits = (tokenizer.truncation_side, tokenizer.model_max_length)
    return digest([repr((rules, special, limits)).encode()])


def file_digest(path: Path) -> str:
    """Return a digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_LENGTH]


def versions() -> dict[str, str]:
    """Return the versions of the packages that scores depend on.

    Example:
        >>> list(versions())
        ['captum_globenc', 'captum', 'torch', 'transformers']
    """
    return {package: installed_version(package) for package in PACKAGES}


def config_text(config: PretrainedConfig | GenerationConfig) -> bytes:
    """Return a config as bytes, without its name, version of transformers and dtype."""
    excluded = ("_name_or_path", "transformers_version", "dtype")
    kept = {name: repr(value) for name, value in config.to_dict().items() if name not in excluded}
    return repr(sorted(kept.items())).encode()


def content(value: Any) -> bytes:
    """Return an entry of a state dict as bytes, with its dtype and shape."""
    if not isinstance(value, Tensor):  # an extra entry of a quantized module
        return b""
    data = value.int_repr() if value.is_quantized else value
    data = data.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{value.dtype} {tuple(value.shape)}".encode() + data.numpy().tobytes()
