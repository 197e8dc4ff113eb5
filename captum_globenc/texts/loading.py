"""A model and its tokenizer from a folder, the hub, or this package itself."""

import os
from textwrap import shorten
from typing import Any, NamedTuple

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.texts.default import load_default
from captum_globenc.texts.tasks import TASKS, task_named

__all__ = ["Classifier", "LoadingError", "load_classifier", "load_model"]


class LoadingError(Exception):
    """A model that cannot be loaded; the message says in one line which and why."""


class Classifier(NamedTuple):
    """A model in eval mode, its tokenizer, and the weights that its files did not hold."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: tuple[str, ...] = ()


def load_classifier(name: str | None = None) -> Classifier:
    """Load a sequence classifier; code that comes with a checkpoint is never run.

    Args:
        name: A folder or a name on the Hugging Face hub; left out, the embedded classifier.

    Returns:
        The classifier. Where `missing` is not empty, as for an encoder without a trained head, the
        predictions are random.

    Raises:
        LoadingError: It cannot be loaded, or the package of the embedded one is not installed.

    Example:
        >>> load_classifier("no/folder")
        Traceback (most recent call last):
        captum_globenc.texts.loading.LoadingError: cannot load no/folder: no such folder, and from the ...
    """
    return _load(name, by_config=False)


def load_model(name: str | None = None) -> Classifier:
    """Load a model for what its files say that it is for: a task of `TASKS`, or else a sequence classifier.

    Args:
        name: as for :func:`load_classifier`.

    Raises:
        LoadingError: as for :func:`load_classifier`.
    """
    return _load(name, by_config=True)


def _load(name: str | None, *, by_config: bool) -> Classifier:
    if name is None:
        try:
            return Classifier(*load_default())
        except ImportError as error:  # it says what to install
            raise LoadingError(str(error)) from error
    try:
        task = TASKS[-1]
        if by_config:
            config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
            task = task_named(config.architectures or [])
        model, report = getattr(transformers, task.auto).from_pretrained(
            name, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # whatever somebody else's files make of it
        reason = shorten(str(error).strip().split("\n")[0], 200, placeholder=" ...") or type(error).__name__
        where = "" if os.path.isdir(name) else "no such folder, and from the hub: "
        raise LoadingError(f"cannot load {name}: {where}{reason}") from error
    # Where its files are missing, transformers makes up a tokenizer that knows no word.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise LoadingError(f"cannot load {name}: it has no tokenizer")
    return Classifier(model, tokenizer, tuple(sorted(report["missing_keys"])))
