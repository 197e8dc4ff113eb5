"""Attributor: add predictions and scores to batches of rows.

Letters: C classes, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.datasets.answers import Answers
from captum_globenc.datasets.classes import Classes
from captum_globenc.datasets.files import USUAL
from captum_globenc.datasets.rows import Done, new_columns
from captum_globenc.recording.dropout import reject_dropout
from captum_globenc.texts.classes import class_names, class_of
from captum_globenc.texts.loading import load_classifier_or_generator
from captum_globenc.texts.model import as_loaded_model
from captum_globenc.texts.options import Options, is_whole
from captum_globenc.texts.provenance import weights_digest
from captum_globenc.texts.tasks import check_task, task_of

__all__ = ["Attributor"]

EMPTY: Mapping[str, type] = {
    "prediction": str,
    "explained": str,
    "windows": int,
    "truncated": bool,
    "error": str,
}
"""Factories of the empty values of a row with an error; list for all other columns."""

PROBE = "a"


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
        options = Options(self.methods, self.position, target=self.target, windows=self.windows)
        for name in ("position", "target", "windows"):  # as Python's numbers
            object.__setattr__(self, name, getattr(options, name))
        if isinstance(self.model, PreTrainedModel) != (self.tokenizer is not None):
            raise ValueError("pass a tokenizer with a model object, and none with the name of a model")
        if self.windows is not None and isinstance(self.position, int):
            raise ValueError("windows have no position in common: leave one of the two out")
        tokens = 1 if self.max_new_tokens is None else self.max_new_tokens
        for name, number in (("batch_tokens", self.batch_tokens), ("max_new_tokens", tokens)):
            if not is_whole(number) or number < 1:
                raise ValueError(f"{name} is {number!r}: pass an integer of at least 1")


class _Ready(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    missing: tuple[str, ...]
    rows: Classes | Answers


class Attributor:
    """A callable that adds predictions and attributions to batches of rows.

    Use it with `datasets.Dataset.map(Attributor(...), batched=True)`, or with Ray Data's
    `map_batches(Attributor, fn_constructor_kwargs={...}, concurrency=..., num_gpus=...)`, where each actor
    loads the model once. Within a call, rows of similar length are batched together; the results are in the
    order of the rows and do not depend on the engine.

    A row that cannot be explained has the reason in `error`, and empty values in the other new columns.

    For models that generate text, a row is a prompt, the explained output is the log-probability of its
    answer, and the scores equal the scores of :func:`captum_globenc.explain`.

    Args:
        model: a sequence classifier or a model that generates text, in eval mode, or the folder or name of
            one, which is loaded with the first batch; by default the embedded classifier.
        tokenizer: the tokenizer; required if `model` is an object, and only then.
        methods: keys of `captum_globenc.datasets.METHODS`; by default "globenc", and "transformer-deep-lift"
            for models that generate text.
        target: the class explained by methods that depend on a class, by name or index; by default the
            predicted class.
        position: the token that GlobEnc explains: an index into every text (negative indices count from the
            end), or "mean"; by default the tokens that the model's head reads.
        windows: number of tokens that neighboring windows share. Texts over the model's limit are split into
            windows, which are all explained for the same class. The prediction uses the mean of their logits;
            a token's score is its average over the windows that contain it, and shares are normalized to sum
            to 1. By default, texts are not split.
        cut: whether texts over the limit are truncated if `windows` is None, and `truncated` is set; if
            False, such rows get an error. Prompts over the limit always get an error.
        batch_tokens: maximum number of tokens per forward pass, padding and answers included.
        text_column: the column of texts.
        pair_column: the column of second segments, used if it exists; None or "" means no second segment.
        device: the device for a model loaded by name; by default the GPU if there is one.
        answer_column: the column of the answers that are explained, for models that generate text; used if
            it exists. Without it, or with None or "" here, the model generates the answers, greedily.
        max_new_tokens: the maximum number of generated tokens; by default the value in the model's
            generation config, else 64.

    Raises:
        ValueError: an option has an invalid value.

    Example:
        >>> attribute = Attributor()
        >>> rows = attribute({"text": ["A wonderful film.", None]})
        >>> rows["prediction"], rows["words"][0], rows["error"]
        (['POSITIVE', ''], ['A', 'wonderful', 'film', '.'], ['', 'the text is missing'])
        >>> round(sum(rows["globenc"][0]), 4)
        1.0
    """

    def __init__(
        self,
        model: PreTrainedModel | str | PathLike[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        methods: Sequence[str] | str | None = None,
        *,
        target: str | int | None = None,
        position: int | Literal["mean"] | None = None,
        windows: int | None = None,
        cut: bool = True,
        batch_tokens: int = 1024,
        text_column: str = "text",
        pair_column: str | None = "pair",
        device: str | None = None,
        answer_column: str | None = "answer",
        max_new_tokens: int | None = None,
    ) -> None:
        chosen = (methods,) if isinstance(methods, str) else methods
        self.settings = Settings(
            model=fspath(model) if isinstance(model, PathLike) else model,
            tokenizer=tokenizer,
            methods=None if chosen is None else tuple(dict.fromkeys(chosen)),
            target=target,
            position=position,
            windows=windows,
            cut=cut,
            batch_tokens=batch_tokens,
            text_column=text_column,
            pair_column=pair_column,
            device=device,
            answer_column=answer_column,
            max_new_tokens=max_new_tokens,
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in the order of their columns; loads the model if none were chosen."""
        usual = "globenc" if self.settings.methods or not self.generates else "transformer-deep-lift"
        return self.settings.methods or (usual,)

    @property
    def generates(self) -> bool:
        """Whether the model generates text; loads the model."""
        return isinstance(self._ready.rows, Answers)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the new columns, in order; loads the model."""
        return (*new_columns(self.generates), *self.methods, "error")

    @property
    def name(self) -> str:
        """The name or folder of the model; "embedded" for the embedded classifier."""
        model = self.settings.model
        return str(getattr(getattr(model, "config", None), "_name_or_path", model or "embedded"))

    @property
    def labels(self) -> list[str]:
        """The names of the model's classes, none for a model that generates text; loads the model."""
        return self._ready.names

    @property
    def missing(self) -> tuple[str, ...]:
        """Weights that the checkpoint lacks, which makes the predictions random; loads the model."""
        return self._ready.missing

    @property
    def model(self) -> PreTrainedModel:
        """The model; loads it on first use."""
        return self._ready.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; loads the model."""
        return self._ready.tokenizer

    def __call__(self, batch: Any) -> Any:
        """Explain a batch of rows.

        Args:
            batch: lists or arrays by column name, or a `pyarrow.Table`.

        Returns:
            The columns of the batch and the new ones (:attr:`columns`), as lists by name. The result is a
            `pyarrow.Table` if the batch is one, or holds numpy arrays, as in Ray Data.

        Raises:
            KeyError: the batch has no column of texts, or none of answers that is called `answer_column`.
            TypeError: the batch is one row, or a list of rows.
            ValueError: see :meth:`check`.
            LoadingError: the model cannot be loaded.
        """
        if isinstance(batch, list | tuple):
            raise TypeError("the batch is a list: pass a dict of columns, such as {'text': [...]}")
        if hasattr(batch, "column_names") and hasattr(batch, "to_pylist"):
            from captum_globenc.datasets.layout import extend_table

            return extend_table(batch, self._explain(batch.to_pydict()))
        columns = {name: batch[name] for name in batch}
        if columns and all(hasattr(column, "dtype") for column in columns.values()):
            from captum_globenc.datasets.layout import extend_arrays

            return extend_arrays(columns, self._explain(columns))
        return {**columns, **self._explain(columns)}

    def _explain(self, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        text_column, pair_column = self.settings.text_column, self.settings.pair_column
        if text_column not in columns:
            known = ", ".join(columns) or "none"
            raise KeyError(f"the rows have no column {text_column!r} (text_column); they have {known}")
        if isinstance(columns[text_column], str):
            raise TypeError("the batch is one row: pass several rows, such as map(attributor, batched=True)")
        names = (pair_column, *(USUAL["pair"] if pair_column in USUAL["pair"] else ()))
        pairs = next((columns[name] for name in names if name and name in columns), None)
        answers, answer_column = None, self.settings.answer_column
        if self.generates and answer_column:
            if answer_column not in columns and answer_column not in USUAL["answer"]:
                raise KeyError(f"no column {answer_column!r} (answer_column) in {', '.join(columns)}")
            answers = columns.get(answer_column)
        return self.explain(
            list(columns[text_column]),
            None if pairs is None else list(pairs),
            answers=None if answers is None else list(answers),
        )

    def explain(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None = None,
        done: Done | None = None,
        answers: Sequence[Any] | None = None,
    ) -> dict[str, list[Any]]:
        """Explain texts, and return only the new columns.

        Args:
            texts: one per row.
            pairs: the second segments, one per row, or None.
            done: function of the number of rows finished since its last call, which may be fractional.
            answers: the answers to the prompts, one per row; by default the model generates them. Only for
                models that generate text.

        Raises:
            ValueError: see :meth:`check`.
            LoadingError: the model cannot be loaded.
        """
        self._check_answers(answers is not None)
        for what, column in (("pairs", pairs), ("answers", answers)):
            if column is not None and len(column) != len(texts):
                raise ValueError(f"there are {len(column)} {what} for {len(texts)} texts: pass one for each")
        rows = self._ready.rows(texts, pairs, answers, done)
        return {name: [values.get(name, EMPTY.get(name, list)()) for values in rows] for name in self.columns}

    def check(self, *, answered: bool = False) -> None:
        """Load the model and explain a short text, to raise errors that do not depend on the rows.

        Args:
            answered: whether the rows have answers.

        Raises:
            ValueError: a method or an option does not apply to the model, the target class is unknown, the
                model is in training mode, the device cannot be used, `windows` exceeds the size of a window,
                or `max_new_tokens` is set and the rows have answers.
            LoadingError: the model cannot be loaded.
        """
        self._check_answers(answered)
        (row,) = self._ready.rows([PROBE], None, [PROBE], None)
        error = row.get("error", "")
        if error and not error.startswith("position "):
            raise ValueError(error)

    def _check_answers(self, answered: bool) -> None:
        if answered and self.generates and self.settings.max_new_tokens is not None:
            raise ValueError(
                "the rows have answers, so nothing is generated: leave max_new_tokens out, or set "
                "answer_column to None"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings; a model loaded by name is loaded again after unpickling.

        A digest of the weights is included, so that caches keyed by the pickle notice changed weights.
        """
        by_name = not isinstance(self.settings.model, PreTrainedModel)
        return {"settings": self.settings, "weights": weights_digest(self.model) if by_name else ""}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.settings = state["settings"]

    @cached_property
    def _ready(self) -> _Ready:
        settings = self.settings
        model: Any = settings.model
        tokenizer, missing = cast("PreTrainedTokenizerBase", settings.tokenizer), tuple[str, ...]()
        if not isinstance(model, PreTrainedModel):
            model, tokenizer, missing = load_classifier_or_generator(model)
            model = _placed(model, settings.device)
        reject_dropout(model)
        generation = {} if settings.max_new_tokens is None else {"max_new_tokens": settings.max_new_tokens}
        loaded = as_loaded_model(model, tokenizer)
        check_task(loaded, generation=list(generation))
        if task_of(model).generates:
            options = Options(
                settings.methods or ("transformer-deep-lift",),
                settings.position,
                target=settings.target,
                windows=settings.windows,
                generation=generation,
            )
            return _Ready(model, tokenizer, [], missing, Answers(loaded, options, settings.batch_tokens))
        names = class_names(model.config)
        if model.config.problem_type == "regression" and len(names) > 1 and settings.target is None:
            raise ValueError(
                f"the model gives {len(names)} values: choose one with target, of {', '.join(names)}"
            )
        classes = Classes(
            model,
            tokenizer,
            names,
            settings.methods or ("globenc",),
            target=None if settings.target is None else class_of(settings.target, names, "target"),
            position=settings.position,
            cut=settings.cut,
            windows=settings.windows,
            tokens=settings.batch_tokens,
        )
        return _Ready(model, tokenizer, names, missing, classes)


def _placed(model: PreTrainedModel, device: str | None) -> PreTrainedModel:
    """Move a model to a device; by default to the GPU if there is one.

    Raises:
        ValueError: the device cannot be used.
        torch.OutOfMemoryError: the device has too little memory.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]  # a device by its name
        return moved
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"cannot use device {device!r}: {reason}") from error
