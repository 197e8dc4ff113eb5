"""Load the attributions of a data set, as a `datasets.Dataset` or as explanations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from captum_globenc.datasets.shards import check_shard, read_about, shard_files
from captum_globenc.extras import optional
from captum_globenc.results.explanation import Explanation
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.record import Answer, Span
from captum_globenc.results.words import Word
from captum_globenc.texts.classes import activated
from captum_globenc.texts.methods import METHODS
from captum_globenc.texts.words import find_unknown

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_attributions", "load_explanations"]


def load_attributions(
    folder: str | PathLike[str], *, cache_dir: str | PathLike[str] | None = None
) -> Dataset:
    """Load the attributions of a finished run as a `datasets.Dataset`.

    Args:
        folder: the output folder of `captum-globenc attribute` or
            :func:`~captum_globenc.datasets.attribute_files`.
        cache_dir: the folder for the memory-mapped Arrow file; by default the cache of `datasets`.

    Returns:
        A `datasets.Dataset` with one row per row of the input, in the same order.

    Raises:
        ValueError: the folder holds no attributions, or only a part of them, or a file is damaged.
        ImportError: the extra `datasets` is not installed.
    """
    datasets: Any = optional("datasets", "datasets")
    # `from_parquet` would expand wildcards in the names.
    files = [escape(str(check_shard(path))) for path in shard_files(Path(folder))]
    dataset: Dataset = datasets.Dataset.from_parquet(
        files, cache_dir=None if cache_dir is None else fspath(cache_dir)
    )
    return dataset


def load_explanations(
    folder: str | PathLike[str], rows: Iterable[int] | None = None, *, limit: int | None = None
) -> Explanations:
    """Load attributions as `Explanations`, the return type of :func:`captum_globenc.explain`.

    Rows with an error are skipped. Scores have the precision in which they were saved.

    Args:
        folder: the output folder of `captum-globenc attribute` or
            :func:`~captum_globenc.datasets.attribute_files`, in the layout "full".
        rows: row numbers (`idx`) in the wanted order; by default all rows.
        limit: maximum number of explanations; by default all.

    Raises:
        ValueError: the folder holds no attributions, or only a part of them; the layout is not "full"; or a
            file is damaged.
        IndexError: a row number is out of range.
        ImportError: the extra `datasets` is not installed.

    Example:
        >>> import tempfile
        >>> from captum_globenc.datasets import Attributor, attribute_files
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "films.jsonl").write_text('{"text": "A wonderful film."}')
        >>> _ = attribute_files(Attributor(), folder / "films.jsonl", folder / "out")
        >>> load_explanations(folder / "out")[0].top(1)[0][0]
        'wonderful'
    """
    about = read_about(Path(folder))
    layout = about["settings"]["layout"]
    if layout != "full":
        raise ValueError(f"{folder} has the layout {layout}, without the texts: write it with layout full")
    found = _rows(Path(folder), about, None if rows is None else list(rows))
    return Explanations(islice((_explanation(row, about) for row in found if not row["error"]), limit))


def _rows(folder: Path, about: Mapping[str, Any], rows: list[int] | None) -> Iterator[dict[str, Any]]:
    """Yield rows of the shards, with one shard in memory at a time."""
    parquet: Any = optional("pyarrow.parquet", "datasets")
    files, size = shard_files(folder), about["rows_per_shard"]
    if rows is None:
        for file in files:
            yield from parquet.read_table(check_shard(file)).to_pylist()
        return
    number, table = -1, None
    for row in rows:
        if not 0 <= row < about["rows"]:
            raise IndexError(f"there is no row {row}: {folder} has {about['rows']}")
        if table is None or row // size != number:
            number = row // size
            table = parquet.read_table(check_shard(files[number]))
        yield table.slice(row % size, 1).to_pylist()[0]


def _outputs(row: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an explanation that hold outputs of the model."""
    if "log_probabilities" in row:
        answer = Answer(row["prediction"], row["answer_tokens"], row["answer_ids"], row["log_probabilities"])
        value = math.fsum(answer.log_probabilities)
        return {
            "probability": None,
            "value": value,
            "probabilities": {},
            "explained": value,
            "answer": answer,
            "settings": {"baseline": about["settings"]["baseline"]},
        }
    names = about["model"]["labels"]
    logits = torch.tensor([row["logits"]], dtype=torch.float64)
    shares = activated(logits, about["model"]["activation"])
    best, explained = names.index(row["prediction"]), names.index(row["explained"])
    return {
        "probability": None if shares is None else shares[0, best].item(),
        "value": logits[0, best].item(),
        "probabilities": {} if shares is None else dict(zip(names, shares[0].tolist(), strict=True)),
        "explained": logits[0, explained].item(),
    }


def _explanation(row: Mapping[str, Any], about: Mapping[str, Any]) -> Explanation:
    settings, outputs = about["settings"], _outputs(row, about)
    place = about["model"]["pooled"] if settings["position"] is None else settings["position"]
    if isinstance(place, int):
        place %= len(row["tokens"])
    groups, windowed = _groups(row), row["windows"] > 1
    return Explanation(
        text=row["text"],
        pair=row.get("pair") or None,
        prediction=row["prediction"],
        target=row["explained"],
        against=None,
        position=place if "globenc" in settings["methods"] else None,
        tokens=row["tokens"],
        scores={name: row[name] for name in settings["methods"]},
        kinds={
            name: METHODS[name].merged_kind if windowed else METHODS[name].kind
            for name in settings["methods"]
        },
        groups=groups,
        offsets=_offsets(row),
        model={"name": about["model"]["name"], "class": about["model"]["class"]},
        settings={"mixing": "N-Enc", "baseline": "mask"}
        | outputs.pop("settings", {})
        | ({"windows": str(settings["windows"])} if windowed else {}),
        versions=about["versions"],
        truncated=row["truncated"],
        ids=row["input_ids"],
        unknown=find_unknown(row["input_ids"], groups, about["model"].get("unknown")),
        **outputs,
    )


def _groups(row: Mapping[str, Any]) -> list[Word]:
    tokens: dict[int, list[int]] = {}
    for token, word in enumerate(row["word_ids"]):
        tokens.setdefault(-1 - token if word is None else word, []).append(token)
    return [
        Word(row["tokens"][places[0]] if word < 0 else row["words"][word], tuple(places), word < 0)
        for word, places in tokens.items()
    ]


def _offsets(row: Mapping[str, Any]) -> list[Span | None]:
    if row["offsets"] is None or row["segments"] is None:
        return []
    return [
        None if segment is None or start == stop else Span(start, stop, segment)
        for (start, stop), segment in zip(row["offsets"], row["segments"], strict=True)
    ]
