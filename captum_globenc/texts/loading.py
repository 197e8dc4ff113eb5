"""Load a model and its tokenizer from a folder, the Hugging Face hub, or this package."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from captum_globenc.errors import LoadingError
from captum_globenc.texts.default import load_default
from captum_globenc.texts.tasks import TASKS, Task, other_task, task_named

__all__ = [
    "Classifier",
    "LoadingError",
    "in_one_line",
    "load_classifier",
    "load_classifier_or_generator",
    "load_model",
]


HUB = {
    "HFValidationError": "there is no such folder",
    "LocalEntryNotFoundError": "no such folder, and the Hugging Face hub cannot be reached",
    "OfflineModeIsEnabled": "no such folder, and the Hugging Face hub cannot be reached",
    "RepositoryNotFoundError": "no such folder, and no model of that name on the Hugging Face hub",
    "GatedRepoError": "access is restricted: request it on the Hugging Face hub, then run hf auth login",
}
"""Messages for the exceptions of huggingface_hub, by class name; derived classes come last."""


class Classifier(NamedTuple):
    """A model in eval mode, its tokenizer, and the names of weights that its files lack.

    The model is a model of transformers or a SentenceTransformer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    missing: tuple[str, ...] = ()


def load_classifier(name: str | None = None) -> Classifier:
    """Load a sequence classifier, without running remote code.

    Args:
        name: A folder or a name on the Hugging Face hub; by default the embedded classifier.

    Returns:
        The classifier. If `missing` is not empty, as for an encoder without a trained head, its predictions
        are random.

    Raises:
        LoadingError: The model cannot be loaded, or the package of the embedded classifier is not installed.

    Example:
        >>> load_classifier("no/such/folder")
        Traceback (most recent call last):
        captum_globenc.errors.LoadingError: cannot load no/such/folder: there is no such folder
    """
    return _load(name, ())


def load_classifier_or_generator(name: str | None = None) -> Classifier:
    """Load a model that generates text, by the architecture in its config, or else a sequence classifier.

    See `load_classifier` for the argument and the errors.
    """
    return _load(name, [it for it in TASKS if it.generates])


def load_model(name: str | None = None) -> Classifier:
    """Load a model for the task in its config, one of `TASKS`, or a SentenceTransformer.

    An encoder without a head is loaded as a sequence classifier, with `missing` weights. For unsupported
    tasks, it raises `LoadingError`. See `load_classifier` for the argument.
    """
    return _load(name, TASKS)


def _load(name: str | None, tasks: Sequence[Task]) -> Classifier:
    """Load a model for its task if that is one of `tasks`, or else as a sequence classifier."""
    if name is None:
        try:
            return Classifier(*load_default())
        except ImportError as error:  # the message says what to install
            raise LoadingError(str(error)) from error
    try:
        task = TASKS[-1]
        if task in tasks and (embedder := _sentence_transformer(name)):
            return embedder
        if tasks:
            config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
            if task in tasks and (message := other_task(config.architectures or [])):
                raise LoadingError(f"cannot load {name}: {message}")
            own = task_named(config.architectures or [])
            task = own if own in tasks else task
        model, report = getattr(transformers, task.auto).from_pretrained(
            name, trust_remote_code=False, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # files of others may raise anything
        raise LoadingError(f"cannot load {name}: {_reason(name, error)}") from error
    # Without its files, transformers creates a tokenizer with special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise LoadingError(f"cannot load {name}: it has no tokenizer")
    return Classifier(model, tokenizer, tuple(sorted(report["missing_keys"])))


def _sentence_transformer(name: str) -> Classifier | None:
    """Load a SentenceTransformer; return None for other checkpoints, including CrossEncoders."""
    if _file(name, "modules.json") is None:
        return None
    settings = _file(name, "config_sentence_transformers.json")
    text = "{}" if settings is None else Path(settings).read_text(encoding="utf-8")
    kind = json.loads(text).get("model_type", "SentenceTransformer")
    if kind == "CrossEncoder":  # a sequence classifier
        return None
    if kind != "SentenceTransformer":
        raise LoadingError(f"cannot load {name}: a {kind} of sentence-transformers is not supported")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise LoadingError(
            f"cannot load {name}: it is a SentenceTransformer: pip install sentence-transformers"
        ) from error
    model: Any = SentenceTransformer(name, device="cpu", trust_remote_code=False).eval()
    return Classifier(model, model.tokenizer)


def _file(name: str, file: str) -> str | None:
    """Return the path of a checkpoint's file, downloaded from the hub if needed; None if it is missing."""
    path: str | None = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return path


def _reason(name: str, error: Exception) -> str:
    """Return the reason why a model cannot be loaded, in one line."""
    if not os.path.isdir(name):
        cause: BaseException | None = error
        while cause is not None:
            kinds = {kind.__name__ for kind in type(cause).__mro__}
            if known := [message for kind, message in HUB.items() if kind in kinds]:
                return known[-1]
            cause = cause.__cause__ or cause.__context__
    return in_one_line(error)


def in_one_line(error: Exception) -> str:
    r"""Return the first line of an error message, and the second if the first ends with a colon.

    Example:
        >>> in_one_line(ValueError("no number in 'size':\n    a list\n")), in_one_line(KeyError())
        ("no number in 'size': a list", 'KeyError')
    """
    first, *others = str(error).strip().splitlines() or [""]
    line = " ".join([first, *others[:1]]) if first.endswith(":") else first
    return shorten(line, 200, placeholder=" ...") or type(error).__name__
