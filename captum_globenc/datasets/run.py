"""A run over files: rows in, shards of attributions out, taken up where it was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from captum_globenc.datasets.attributor import Attributor
from captum_globenc.datasets.blocks import Block, Source
from captum_globenc.datasets.engines import ENGINES, check_engine
from captum_globenc.datasets.layout import DTYPES, LAYOUTS, Plan
from captum_globenc.datasets.shards import Counts, Shards
from captum_globenc.texts.classes import ACTIVATIONS, problem_of
from captum_globenc.texts.position import pooled_token
from captum_globenc.texts.provenance import versions, weights_digest

__all__ = ["attribute_files"]

Progress = Callable[[float, int], None]
"""Is told the rows that are done, and all."""


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
    """Explain all rows of files, and write them to a folder as Parquet.

    Shard i holds rows i * rows_per_shard and on, in the order of the input, and is written as soon as it is
    done. Stopped at any moment, the same call goes on with the shards that are not there. What is
    in a shard depends on its rows alone, so that it does not matter where a run was stopped, or which engine
    it has.

    Args:
        attributor: what explains them; it names the columns of texts and of second segments.
        data: a file, .csv, .tsv, .jsonl or .json, also with .gz, or .parquet; a folder of such, read in the
            order of their names; a pandas DataFrame; or a `datasets.Dataset`.
        out: the folder, which gets the shards and `attributions.json`, a description.
        label_column: the column of labels, which are copied to the output, or None. "label", and "pair" or
            "text_pair", are used if they exist; columns of other names must exist.
        id_column: the column of ids, copied to the output as `id`.
        encoding: of text files; left out, that of their byte order mark, or else UTF-8.
        rows_per_shard: how many rows a shard has.
        dtype: of the scores, "float32" or "float16".
        layout: "full", or "thermostat": `idx`, `input_ids`, `attributions`, `label`, `predictions` of one
            method, as thermostat names them, and `error`.
        engine: "local", this process, or "ray", actors of Ray that load the model once.
        workers: how many actors.
        progress: called as work is done.

    Returns:
        How many rows there are, in error, cut, and in windows.

    Raises:
        ValueError: an option is none of these, the data cannot be read, a method does not support the
            model, or `out` holds something else.
        LoadingError: the model cannot be loaded.
        EngineError: a worker of Ray failed; what was done is kept.
        torch.OutOfMemoryError: so many tokens do not fit the GPU; likewise.
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
    chosen.check(Plan(attributor.methods, dtype, (), id=id_column or ""))
    settings = attributor.settings
    columns = {
        "text": settings.text_column,
        "pair": settings.pair_column,
        "label": label_column,
        "id": id_column,
    }
    if isinstance(data, str | PathLike) and Path(data).resolve() == Path(out).resolve():
        raise ValueError(f"{out} holds the data: choose another folder for the attributions")
    source = Source(data, columns, encoding)
    survey = source.survey()
    attributor.check()
    label, ids = survey.types["label"], survey.types["id"]
    plan = Plan(attributor.methods, dtype, tuple(attributor.labels), label, survey.pairs, ids)
    about = {
        "model": {
            "name": attributor.name,
            "class": type(attributor.model).__name__,
            "labels": list(plan.labels),
            "activation": ACTIVATIONS[problem_of(attributor.model.config)],
            "pooled": pooled_token(attributor.model) if "globenc" in plan.methods else None,
            "unknown": attributor.tokenizer.unk_token_id,
            "weights": weights_digest(attributor.model),
            "device": attributor.model.device.type,
        },
        "versions": versions(),
        "settings": {
            **{
                name: getattr(settings, name)
                for name in ("target", "position", "windows", "cut", "batch_tokens")
            },
            "methods": list(plan.methods),
            "dtype": dtype,
            "layout": layout,
            "columns": columns,
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
        blocks = _missing(source.blocks(rows_per_shard, survey.types), finished)
        for number, block, made in ENGINES[engine](attributor, blocks, workers, done):
            rows = chosen.columns(_rows(block, made, plan), plan)
            counts[number] = _counts(made, rows["error"])
            shards.write(number, chosen.table(rows, plan), counts[number])
    total = Counts()
    for number in sorted(counts):
        total = total.plus(counts[number])
    shards.finish(total)
    return total


def _missing(blocks: Iterator[Block], finished: Mapping[int, Counts]) -> Iterator[tuple[int, Block]]:
    """Number the blocks, without those whose shards are there."""
    return ((number, block) for number, block in enumerate(blocks) if number not in finished)


def _rows(block: Block, made: Mapping[str, Sequence[Any]], plan: Plan) -> dict[str, Sequence[Any]]:
    """Put what was read and what was made of it together; scores that cannot be stored are an error."""
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
    """Return a text if it is one that can be written down."""
    if not isinstance(text, str):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text
