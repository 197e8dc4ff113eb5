"""What tells one run from another: digests of weights and files, and the versions of what computes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["config_text", "content", "digest", "file_digest", "versions", "weights_digest"]

PACKAGES = ("captum_globenc", "captum", "torch", "transformers")
SHOWN = 16


def digest(parts: Iterable[bytes]) -> str:
    """Return a digest of parts that follow one another, of which one at a time is held."""
    made = hashlib.sha256()
    for part in parts:
        made.update(part)
    return made.hexdigest()[:SHOWN]


def weights_digest(model: PreTrainedModel) -> str:
    """Return a digest of a model's weights and of what its config says of it."""

    def parts() -> Iterable[bytes]:
        yield config_text(model.config)
        for name, value in model.state_dict().items():
            yield name.encode()
            yield content(value)

    return digest(parts())


def file_digest(path: Path) -> str:
    """Return a digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:SHOWN]


def versions() -> dict[str, str]:
    """Return the versions of the packages that scores depend on.

    Example:
        >>> list(versions())
        ['captum_globenc', 'captum', 'torch', 'transformers']
    """
    return {package: _version(package) for package in PACKAGES}


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "(not installed)"


def config_text(config: PretrainedConfig) -> bytes:
    """Return what a config says of the model, not of where it came from."""
    origin = ("_name_or_path", "transformers_version", "dtype")
    said = {name: repr(value) for name, value in config.to_dict().items() if name not in origin}
    return repr(sorted(said.items())).encode()


def content(value: Any) -> bytes:
    """Return what an entry of a state dict holds, and as what."""
    if not isinstance(value, Tensor):  # a quantised module's, which says no more by itself
        return b""
    held = value.int_repr() if value.is_quantized else value
    held = held.detach().cpu().contiguous().flatten().view(torch.uint8)
    return f"{value.dtype} {tuple(value.shape)}".encode() + held.numpy().tobytes()
