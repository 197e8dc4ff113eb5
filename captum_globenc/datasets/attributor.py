"""Attributor: a batch of rows in, the same rows with predictions and scores out, on any engine.

Letters: C classes, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from captum_globenc.datasets.files import USUAL
from captum_globenc.datasets.passes import Passes, Scored
from captum_globenc.datasets.rows import Reader, Text
from captum_globenc.datasets.settings import Settings
from captum_globenc.recording.dropout import reject_dropout
from captum_globenc.texts.classes import class_names, class_of
from captum_globenc.texts.loading import load_classifier
from captum_globenc.texts.provenance import weights_digest

__all__ = ["COLUMNS", "Attributor"]

COLUMNS = (
    "input_ids",
    "tokens",
    "offsets",
    "segments",
    "word_ids",
    "words",
    "prediction",
    "explained",
    "logits",
    "windows",
    "truncated",
)
"""What a row gets ahead of the scores, which have a column for each method, and of `error`."""

EMPTY: Mapping[str, type] = {
    "prediction": str,
    "explained": str,
    "windows": int,
    "truncated": bool,
    "error": str,
}
"""What makes the values of a row in error, where these are no lists."""

PROBE = "a"


class _Ready(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    names: list[str]
    missing: tuple[str, ...]
    read: Reader
    passes: Passes


class Attributor:
    """A callable that adds predictions and attributions to batches of rows.

    For `datasets.Dataset.map(Attributor(...), batched=True)`, and for Ray Data's
    `map_batches(Attributor, fn_constructor_kwargs={...}, concurrency=..., num_gpus=...)`, where each actor
    loads the model once. Rows are sorted by length inside a call, and those of like length run
    together; they come back in their order, and what a row gets does not depend on the engine.

    A row that cannot be explained gets its reason in `error`, and empty columns otherwise.

    Args:
        model: a sequence classifier in eval mode; or the folder or name of one, which is loaded when the
            first batch comes; left out, the embedded classifier.
        tokenizer: its tokenizer, where `model` is an object.
        methods: names from `captum_globenc.datasets.METHODS`.
        target: the class that is explained by those that know classes, by name or index; left out, the one
            that is predicted.
        position: what GlobEnc explains: an index into every text, negative ones counting from its end,
            "mean", or, left out, what the model's head reads.
        windows: how many tokens neighbouring windows share, into which texts over the model's limit are cut:
            the prediction is of the mean of the windows' logits, all windows are explained for its class,
            and a token's score is the average over the windows that hold it; GlobEnc's are made to sum to 1
            again. Left out, there are none.
        cut: whether such texts lose their end otherwise, told by `truncated`; or are in error.
        batch_tokens: how many tokens, padding included, run together at most.
        text_column: the column of the texts.
        pair_column: the column of second segments, used where there is one; None or "" in a row without it.
        device: where a model that is loaded here goes; left out, the GPU if there is one.

    Raises:
        ValueError: an option is none of these.

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
        methods: Sequence[str] | str = ("globenc",),
        *,
        target: str | int | None = None,
        position: int | Literal["mean"] | None = None,
        windows: int | None = None,
        cut: bool = True,
        batch_tokens: int = 1024,
        text_column: str = "text",
        pair_column: str | None = "pair",
        device: str | None = None,
    ) -> None:
        self.settings = Settings(
            model=fspath(model) if isinstance(model, PathLike) else model,
            tokenizer=tokenizer,
            methods=(methods,) if isinstance(methods, str) else tuple(dict.fromkeys(methods)),
            target=target,
            position=position,
            windows=windows,
            cut=cut,
            batch_tokens=batch_tokens,
            text_column=text_column,
            pair_column=pair_column,
            device=device,
        )

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in the order of their columns."""
        return self.settings.methods

    @property
    def name(self) -> str:
        """Where the model comes from: "embedded" for the one that is."""
        model = self.settings.model
        return str(getattr(getattr(model, "config", None), "_name_or_path", model or "embedded"))

    @property
    def labels(self) -> list[str]:
        """The names of the model's classes; loads it."""
        return self._ready.names

    @property
    def missing(self) -> tuple[str, ...]:
        """The weights that a model loaded by name lacks, so that its predictions are random; loads it."""
        return self._ready.missing

    @property
    def model(self) -> PreTrainedModel:
        """The model; loads it."""
        return self._ready.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer; loads it."""
        return self._ready.tokenizer

    def __call__(self, batch: Any) -> Any:
        """Explain rows.

        Args:
            batch: columns by name: lists or arrays, or a `pyarrow.Table`.

        Returns:
            All columns of the batch, and those of `COLUMNS`, one for each method and `error`: lists by name;
            a `pyarrow.Table` where the batch was one, or had numpy's arrays, as Ray Data gives them.

        Raises:
            KeyError: the batch has no column of texts.
            Exception: as :meth:`check` does.
        """
        if hasattr(batch, "column_names") and hasattr(batch, "to_pylist"):
            from captum_globenc.datasets.layout import extend_table

            return extend_table(batch, self._of(batch.to_pydict()), self.methods)
        columns = {name: batch[name] for name in batch}
        if columns and all(hasattr(column, "dtype") for column in columns.values()):
            from captum_globenc.datasets.layout import extend_arrays

            return extend_arrays(columns, self._of(columns), self.methods)
        return {**columns, **self._of(columns)}

    def _of(self, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        text_column, pair_column = self.settings.text_column, self.settings.pair_column
        if text_column not in columns:
            known = ", ".join(columns) or "none"
            raise KeyError(f"the rows have no column {text_column!r} (text_column); they have {known}")
        names = (pair_column, *(USUAL["pair"] if pair_column in USUAL["pair"] else ()))
        pairs = next((columns[name] for name in names if name and name in columns), None)
        return self.explain(list(columns[text_column]), None if pairs is None else list(pairs))

    def explain(
        self,
        texts: Sequence[Any],
        pairs: Sequence[Any] | None = None,
        done: Callable[[float], None] | None = None,
    ) -> dict[str, list[Any]]:
        """Explain texts, and return the new columns alone.

        Args:
            texts: one for each row.
            pairs: the second segments, if there are any.
            done: is told how many rows' worth of work is done since it was told last.

        Raises:
            Exception: as :meth:`check` does.
        """
        ready = self._ready
        rows = ready.read(texts, pairs)
        found = ready.passes(rows, done)
        made: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, *self.methods, "error")}
        for row, scored in zip(rows, found, strict=True):
            values = {"error": row.error} if row.error else self._values(row, scored)
            for name, column in made.items():
                column.append(values.get(name, EMPTY.get(name, list)()))
        return made

    def _values(self, row: Text, scored: Scored) -> dict[str, Any]:
        """Return what a row gets that ran."""
        assert scored.logits is not None
        names = self._ready.names
        return {
            "input_ids": row.ids,
            "tokens": row.tokens,
            "offsets": row.offsets,
            "segments": row.segments,
            "word_ids": row.word_ids,
            "words": row.words,
            "prediction": names[int(scored.logits.argmax())],
            "explained": names[self._ready.passes.explained(scored)],
            "logits": scored.logits.tolist(),
            "windows": len(row.pieces),
            "truncated": row.truncated,
            **{name: scores.tolist() for name, scores in scored.scores.items()},
        }

    def check(self) -> None:
        """Load the model and explain a short text, so that what no row could do about is told at once.

        Raises:
            ValueError: a method does not support the model, a class or a position is not known, the model is
                in training mode, the device cannot be used, or windows share more tokens than they hold.
            LoadingError: the model cannot be loaded.
        """
        (text,) = self._ready.read([PROBE])
        self._ready.passes([text])
        if text.error and not text.error.startswith("position "):
            raise ValueError(text.error)

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings: what was loaded by name is loaded again where it is needed.

        With a digest of the weights, so that a cache which goes by the pickle notices when these change.
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
            model, tokenizer, missing = load_classifier(model)
            model = settings.placed(model)
        reject_dropout(model)
        names = class_names(model.config)
        if model.config.problem_type == "regression" and len(names) > 1 and settings.target is None:
            raise ValueError(
                f"the model gives {len(names)} values: choose one with target, of {', '.join(names)}"
            )
        position = settings.position
        reader = Reader(
            model,
            tokenizer,
            cut=settings.cut,
            windows=settings.windows,
            position=position if isinstance(position, int) else None,
        )
        passes = Passes(
            model,
            tokenizer,
            self.methods,
            target=None if settings.target is None else class_of(settings.target, names, "target"),
            position=position,
            tokens=settings.batch_tokens,
        )
        return _Ready(model, tokenizer, names, missing, reader, passes)
