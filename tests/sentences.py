"""Texts of the tiny classifier's vocabulary, and ways to write them to files."""

import csv
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq

from checkpoints import WORDS

LEXICON = [word for word in WORDS if not word.startswith("##")]


def sentences(count, seed=0, shortest=1, longest=12):
    """Texts of various lengths, some with a word of two tokens."""
    draw = random.Random(seed)
    return [
        " ".join(draw.choices([*LEXICON, "unhappy"], k=draw.randint(shortest, longest))) for _ in range(count)
    ]


def write_rows(path, columns):
    """Write columns as the end of the file's name says."""
    path = path.resolve()
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            table = csv.writer(file, delimiter="," if path.suffix == ".csv" else "\t")
            table.writerow(columns)
            table.writerows(row.values() for row in rows)
    return path
