"""Find the words with the highest scores for each class of a data set, with DuckDB in bounded memory."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from captum_globenc.datasets.shards import check_shard, read_about, shard_files
from captum_globenc.extras import optional
from captum_globenc.texts.methods import METHODS

__all__ = ["Example", "WordWeight", "summarize", "write_csv"]


class Example(NamedTuple):
    """A row in which a word scores high: its number and its text."""

    idx: int
    text: str


@dataclass(frozen=True)
class WordWeight:
    """The mean score of a word for a class.

    Attributes:
        label: the class.
        word: the word, in lower case.
        mean: the mean of the word's signed scores; a word's score is the sum of its tokens' scores.
        count: number of occurrences in rows of the class.
        examples: the rows in which the word scores highest.
    """

    label: str
    word: str
    mean: float
    count: int
    examples: list[Example]


# One row per token. The first token of a word is the one whose predecessor (`before`) has another word id.
# Only the token's own word is kept, not the text or the list of words, to save memory.
TOKENS = """
SELECT idx, label, place, before, score, lower(word) AS word FROM (
    SELECT idx, {label} AS label, unnest(word_ids) AS place,
           unnest([NULL::INTEGER] || word_ids[:-2]) AS before, unnest("{method}")::DOUBLE AS score,
           unnest(list_transform(word_ids, lambda place: words[place + 1])) AS word
    FROM read_parquet({files}) WHERE error = ''
)
WHERE place IS NOT NULL
"""

WEIGHTS = """
SELECT label, word, sum(score) AS total, count(*) FILTER (before IS DISTINCT FROM place) AS occurrences
FROM ({tokens}) GROUP BY label, word HAVING occurrences >= {least}
QUALIFY row_number() OVER (PARTITION BY label ORDER BY total / occurrences DESC, word) <= {top}
"""

EXAMPLES = """
SELECT label, word, max({{'score': score, 'before': -idx}}, {most}) AS rows
FROM (
    SELECT label, word, idx, max(score) AS score
    FROM (
        SELECT label, word, idx, sum(score) AS score
        FROM ({tokens}) SEMI JOIN weights USING (label, word)
        GROUP BY label, word, idx, place
    )
    GROUP BY label, word, idx
)
GROUP BY label, word
"""

TEXTS = "SELECT idx, text FROM read_parquet({files}) WHERE idx IN (SELECT unnest(?))"


def summarize(
    folder: str | PathLike[str],
    method: str | None = None,
    *,
    top: int = 20,
    min_count: int = 5,
    examples: int = 3,
    memory: str = "1GB",
) -> list[WordWeight]:
    """Find the words with the highest mean scores for each class, from the files of a run.

    Each row counts for its explained class; for methods without a class, such as GlobEnc, for its predicted
    class.

    Args:
        folder: the output folder of `captum-globenc attribute` or
            :func:`~captum_globenc.datasets.attribute_files`, in the layout "full".
        method: the method whose scores are used; by default the first.
        top: number of words per class.
        min_count: minimum number of occurrences of a word in rows of the class.
        examples: number of example rows per word.
        memory: memory limit of DuckDB, for example "500MB"; larger intermediate results go to the disk.

    Returns:
        The words of each class, by decreasing mean score.

    Raises:
        ValueError: the folder holds no attributions, or only a part of them; the layout is not "full"; there
            are no scores of `method`; a number or `memory` is too low; or a file is damaged.
        ImportError: the extra `datasets` is not installed.
    """
    for what, number, least in (("top", top, 1), ("min_count", min_count, 1), ("examples", examples, 0)):
        if number < least:
            raise ValueError(f"{what} is {number}: at least {least} is needed")
    folder = Path(folder)
    settings = read_about(folder)["settings"]
    if settings["layout"] != "full":
        raise ValueError(
            f"{folder} has the layout {settings['layout']}, which has no words: write it with layout full"
        )
    methods = settings["methods"]
    method = methods[0] if method is None else method
    if method not in methods:
        raise ValueError(f"{folder} has no scores of {method}, only of {', '.join(methods)}")
    paths = shard_files(folder)
    try:
        files = f"[{', '.join(_quoted(check_shard(path)) for path in paths)}]"
    except ValueError as error:
        raise ValueError(f"cannot summarize {folder}: {error}") from error
    tokens = TOKENS.format(
        label="prediction" if not METHODS[method].knows_class else "explained",
        method=method,
        files=files,
    )
    duckdb: Any = optional("duckdb", "datasets")
    try:
        with tempfile.TemporaryDirectory() as temporary, duckdb.connect() as database:
            database.execute("SET temp_directory = ?", [temporary])
            try:
                database.execute("SET memory_limit = ?", [memory])
            except duckdb.Error as error:
                raise ValueError(f"memory is {memory!r}: pass a size such as 500MB") from error
            database.execute("SET preserve_insertion_order = false")
            weights = WEIGHTS.format(tokens=tokens, least=min_count, top=top)
            database.execute(f"CREATE TEMP TABLE weights AS {weights}")
            found: dict[tuple[str, str], list[Example]] = {}
            if examples:
                rows = database.execute(EXAMPLES.format(tokens=tokens, most=examples)).fetchall()
                numbers = sorted({-it["before"] for _, _, chosen in rows for it in chosen})
                texts = dict(database.execute(TEXTS.format(files=files), [numbers]).fetchall())
                found = {
                    (label, word): [Example(-it["before"], texts[-it["before"]] or "") for it in chosen]
                    for label, word, chosen in rows
                }
            ordered = database.execute(
                "SELECT label, word, total / occurrences AS mean, occurrences FROM weights "
                "ORDER BY label, mean DESC, word"
            ).fetchall()
    except duckdb.Error as error:  # a damaged file, or too little memory
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"cannot summarize {folder}: {reason}") from error
    return [
        WordWeight(label, word, mean, count, found.get((label, word), []))
        for label, word, mean, count in ordered
    ]


def _quoted(path: Path) -> str:
    """Return a path as an SQL string, with wildcards escaped."""
    plain = re.sub(r"([\[*?])", r"[\1]", str(path)).replace("'", "''")
    return f"'{plain}'"


def write_csv(weights: Iterable[WordWeight], path: Path) -> None:
    """Write words to a CSV file: class, word, mean, count, and the numbers of the example rows."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "word", "mean", "count", "examples"])
        for it in weights:
            numbers = " ".join(str(example.idx) for example in it.examples)
            writer.writerow([it.label, it.word, repr(it.mean), it.count, numbers])
