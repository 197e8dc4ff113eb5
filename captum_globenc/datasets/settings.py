"""The arguments of an attributor, checked before the model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.texts.options import check_options

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The arguments of `captum_globenc.datasets.Attributor`.

    Raises:
        ValueError: an argument has an invalid value.
    """

    model: PreTrainedModel | str | None
    tokenizer: PreTrainedTokenizerBase | None
    methods: tuple[str, ...] | None
    target: str | int | None
    position: int | Literal["mean"] | None
    windows: int | None
    cut: bool
    batch_tokens: int
    text_column: str
    pair_column: str | None
    device: str | None
    answer_column: str | None = "answer"
    max_new_tokens: int | None = None

    def __post_init__(self) -> None:
        check_options(self.methods, windows=self.windows)
        if isinstance(self.model, PreTrainedModel) != (self.tokenizer is not None):
            raise ValueError("give the tokenizer with a model that is an object, and only then")
        if not (self.position is None or self.position == "mean" or _is_whole(self.position)):
            raise ValueError(f"position is {self.position!r}: give a whole number, 'mean', or leave it out")
        if self.windows is not None and isinstance(self.position, int):
            raise ValueError("windows have no position in common: leave one of the two out")
        tokens = 1 if self.max_new_tokens is None else self.max_new_tokens
        for name, number in (("batch_tokens", self.batch_tokens), ("max_new_tokens", tokens)):
            if not _is_whole(number) or number < 1:
                raise ValueError(f"{name} is {number!r}: give a whole number, 1 or more")

    def placed(self, model: PreTrainedModel) -> PreTrainedModel:
        """Move a model that was loaded by name to its device.

        Raises:
            ValueError: the device cannot be used.
            torch.OutOfMemoryError: the device has too little memory.
        """
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]  # a device by its name
            return moved
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"cannot use device {device!r}: {reason}") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
