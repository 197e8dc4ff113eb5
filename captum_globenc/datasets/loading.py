"""Attributions read back as a `datasets.Dataset`."""

from __future__ import annotations

from glob import escape
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captum_globenc.datasets.shards import check_shard, shard_files
from captum_globenc.extras import optional

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_attributions"]


def load_attributions(
    folder: str | PathLike[str], *, cache_dir: str | PathLike[str] | None = None
) -> Dataset:
    """Read the attributions of a finished run.

    Args:
        folder: what `captum-globenc attribute` or :func:`~captum_globenc.datasets.attribute_files` wrote to.
        cache_dir: where `datasets` keeps the Arrow file that it maps into memory; left out, its own folder.

    Returns:
        A `datasets.Dataset` with a row for each of the input, in its order.

    Raises:
        ValueError: the folder holds no attributions, or not all of them yet, or a file is damaged.
        ImportError: the extra `datasets` is not installed.
    """
    datasets: Any = optional("datasets", "datasets")
    # What it takes for patterns are names here.
    files = [escape(str(check_shard(path))) for path in shard_files(Path(folder))]
    dataset: Dataset = datasets.Dataset.from_parquet(
        files, cache_dir=None if cache_dir is None else fspath(cache_dir)
    )
    return dataset
