"""Run an attributor over files, and write shards of attributions; an interrupted run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from captum_globenc.datasets.attributor import Attributor
from captum_globenc.datasets.blocks import Block, Source
from captum_globenc.datasets.engines import ENGINES, check_engine
from captum_globenc.datasets.layout import DTYPES, LAYOUTS, Plan
from captum_globenc.datasets.shards import Counts, Shards
from captum_globenc.texts.classes import ACTIVATIONS, problem_of
from captum_globenc.texts.options import pooled_token
from captum_globenc.texts.provenance import (
    config_text,
    digest,
    tokenizer_digest,
    versions,
    weights_digest,
)
from captum_globenc.texts.request import resolve_baseline

__all__ = ["attribute_files"]

Progress = Callable[[float, int], None]
"""Function of the number of finished rows and the number of all rows."""


def attribute_files(
    attributor: Attributor,
    data: Any,
    out: Path | str,
    *,
    label_column: str | None = "label",
    id_column: str | None = None,
    encoding: str | None = None,
    rows_per_shard: int = 1000,
    dtype: str = "float32",
    layout: str = "full",
    engine: str = "local",
    workers: int = 1,
    progress: Progress | None = None,
) -> Counts:
    """Explain all rows of files, and write the attributions to a folder of Parquet shards.

    Shard i starts at row `i * rows_per_shard`; rows keep the order of the input. Each shard is written when
    it is done; after an interruption, the same call computes the missing shards. The content of a shard
    depends on its rows alone, not on the engine or on interruptions.

    Args:
        attributor: the attributor; it sets the columns of texts, of second segments and of answers.
        data: a .csv, .tsv, .jsonl or .json file (also compressed, .gz), a .parquet file, a folder of such
            files (read in the order of their names), a pandas DataFrame, or a `datasets.Dataset`.
        out: the output folder, for the shards and their description `attributions.json`.
        label_column: the column of labels, which are copied to the output, or None. "label", and "pair" or
            "text_pair", are used if they exist; columns of other names must exist.
        id_column: the column of ids, copied to the output as `id`.
        encoding: the encoding of text files; by default given by the byte order mark, else UTF-8.
        rows_per_shard: number of rows per shard.
        dtype: the type of the scores, "float32" or "float16".
        layout: "full", or "thermostat" for the columns of thermostat (`idx`, `input_ids`, `attributions`,
            `label`, `predictions`, of one method) and `error`.
        engine: "local" for this process, or "ray" for Ray actors, each of which loads the model once.
        workers: number of Ray actors.
        progress: function of the number of finished rows and the number of all rows.

    Returns:
        The numbers of all rows, rows with an error, truncated rows, and rows split into windows.

    Raises:
        ValueError: an option has an invalid value, the data cannot be read, a method does not support the
            model, or `out` holds other files.
        LoadingError: the model cannot be loaded.
        EngineError: a Ray worker failed; finished shards are kept.
        torch.OutOfMemoryError: `batch_tokens` tokens do not fit on the GPU; finished shards are kept.
        ImportError: a package of the extra `datasets` or `ray` is not installed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "films.jsonl").write_text('{"text": "A wonderful film."}')
        >>> attribute_files(Attributor(), folder / "films.jsonl", folder / "out")
        Counts(rows=1, errors=0, cut=0, windowed=0, first='')
    """
    check_engine(engine, workers)
    for what, given, known in (("dtype", dtype, DTYPES), ("layout", layout, LAYOUTS)):
        if given not in known:
            raise ValueError(f"no {what} {given!r}; known: {', '.join(known)}")
    if rows_per_shard < 1:
        raise ValueError(f"rows_per_shard is {rows_per_shard}: at least one is needed")
    chosen = LAYOUTS[layout]
    settings = attributor.settings
    chosen.check(Plan(settings.methods or ("",), dtype, (), id=id_column or ""))
    columns = {
        "text": settings.text_column,
        "pair": settings.pair_column,
        "answer": settings.answer_column,
        "label": label_column,
        "id": id_column,
    }
    if isinstance(data, str | PathLike) and Path(data).resolve() == Path(out).resolve():
        raise ValueError(f"{out} contains the data: choose another folder for the attributions")
    source = Source(data, columns, encoding)
    survey = source.survey()
    attributor.check(answered=survey.answers)
    label, ids = survey.types["label"], survey.types["id"]
    names = tuple(attributor.labels)
    plan = Plan(attributor.methods, dtype, names, label, survey.pairs, ids, attributor.generates)
    chosen.check(plan)
    if not survey.answers or not plan.generates:
        columns["answer"] = None
        source = Source(data, columns, encoding)
    model = attributor.model
    pooled: int | Literal["mean"] | None = None  # the token that GlobEnc explains by default
    if "globenc" in plan.methods:
        pooled = "mean" if plan.generates else pooled_token(model)
    generated: dict[str, Any] = {}
    if plan.generates:
        generated["max_new_tokens"] = settings.max_new_tokens
        if not survey.answers:
            generated["generation"] = digest([config_text(model.generation_config)])
        generated["baseline"] = resolve_baseline("mask", model, attributor.tokenizer)
    about = {
        "model": {
            "name": attributor.name,
            "class": type(model).__name__,
            "labels": list(plan.labels),
            "activation": ACTIVATIONS[problem_of(model.config)],
            "pooled": pooled,
            "unknown": attributor.tokenizer.unk_token_id,
            "weights": weights_digest(model),
            "tokenizer": tokenizer_digest(attributor.tokenizer),
            "device": model.device.type,
        },
        "versions": versions(),
        "settings": {
            "target": settings.target,
            "position": settings.position,
            "windows": settings.windows,
            "cut": settings.cut,
            "batch_tokens": settings.batch_tokens,
            **generated,
            "methods": list(plan.methods),
            "dtype": dtype,
            "layout": layout,
            "columns": {name: it for name, it in columns.items() if plan.generates or name != "answer"},
            "encoding": encoding,
        },
        "data": {"label": label, "files": survey.files},
    }
    shards = Shards(Path(out), about, survey.rows, rows_per_shard)
    finished = shards.done()
    counts = dict(finished)
    state = {"rows": float(sum(it.rows for it in finished.values()))}

    def done(rows: float) -> None:
        state["rows"] += rows
        if progress is not None:
            progress(state["rows"], survey.rows)

    done(0)
    if len(finished) < len(shards):
        numbered = enumerate(source.blocks(rows_per_shard, survey.types))
        blocks = ((number, block) for number, block in numbered if number not in finished)
        for number, block, made in ENGINES[engine](attributor, blocks, workers, done):
            rows = chosen.columns(_rows(block, made, plan), plan)
            counts[number] = _counts(made, rows["error"])
            shards.write(number, chosen.table(rows, plan), counts[number])
    total = Counts()
    for number in sorted(counts):
        total = total.plus(counts[number])
    shards.finish(total)
    return total


def _rows(block: Block, made: Mapping[str, Sequence[Any]], plan: Plan) -> dict[str, Sequence[Any]]:
    """Join the columns of the data and the attributor's; scores too large for the dtype are an error."""
    errors = [block.problems.get(place, error) for place, error in enumerate(made["error"])]
    scores = {name: list(made[name]) for name in plan.methods}
    largest = np.finfo(plan.dtype).max
    for name, rows in scores.items():
        for place, row in enumerate(rows):
            if row and np.abs(row).max() > largest:
                errors[place] = f"{name} gave scores too large for {plan.dtype}: choose a wider dtype"
    for place, error in enumerate(errors):
        for rows in scores.values() if error else ():
            rows[place] = []
    given = {name: list(column) for name, column in block.columns.items()}
    for name in ("text", "pair"):
        if name in given:
            given[name] = [_storable(text) for text in given[name]]
    numbers = range(block.start, block.start + len(block))
    return {"idx": numbers, **given, **made, **scores, "error": errors}


def _counts(made: Mapping[str, Sequence[Any]], errors: Sequence[str]) -> Counts:
    return Counts(
        rows=len(errors),
        errors=sum(map(bool, errors)),
        cut=sum(made["truncated"]),
        windowed=sum(windows > 1 for windows in made["windows"]),
        first=next(filter(None, errors), ""),
    )


def _storable(text: Any) -> str | None:
    """Return a text, or None if it is not a string or not valid UTF-8."""
    if not isinstance(text, str):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
