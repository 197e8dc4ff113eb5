"""What is measured of methods text by text, and tables of it: means, and differences to a reference."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from captum_globenc.decomposition.aggregation import AGGREGATIONS
from captum_globenc.decomposition.mixing import MIXINGS
from captum_globenc.evaluation import DEFAULT_METHODS, METHODS, Evaluation
from captum_globenc.evaluation.checkpoint import EXAMPLE, METHOD

REFERENCE = "integrated-gradients"

Measured = dict[str, dict[str, Tensor]]
"""For each method and measure one value a text, the texts in the same order for all."""


def compared_methods() -> list[str]:
    """Return all methods that are registered; of GlobEnc's kinds those of the defaults that have one name."""
    kinds = {mixing + suffix for mixing in MIXINGS for suffix in ("", *(f"/{it}" for it in AGGREGATIONS))}
    shown = set(DEFAULT_METHODS) - {"W-FixedRes"}  # which is attention-rollout
    return [name for name in METHODS if name not in kinds or name in shown]


def measured(evaluation: Evaluation) -> Measured:
    """Return what an evaluation measured, in the order of the examples."""
    rows = sorted(evaluation.rows, key=lambda row: row[EXAMPLE])
    return {
        method: {
            metric: torch.tensor([row[metric] for row in rows if row[METHOD] == method], dtype=torch.double)
            for metric in evaluation.metrics
        }
        for method in evaluation.methods
    }


def table(
    rows: Measured, compared: Sequence[str] | None = None, more: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        rows: what was measured.
        compared: measures next to which the difference to the reference stands; left out, all.
        more: further columns by their heads: what stands there for each method.
    """
    names, more = list(next(iter(rows.values()))), more or {}
    compared = names if compared is None else compared
    heads = [head for name in names for head in (name, f"minus {REFERENCE}")[: 1 + (name in compared)]]
    yield "| method | " + " | ".join([*heads, *more]) + " |"
    yield "| --- |" + " ---: |" * (len(heads) + len(more))
    for method, values in rows.items():
        cells = []
        for name in names:
            cells.append(written(values[name]))
            if name in compared:
                same = method == REFERENCE
                cells.append("" if same else written(values[name] - rows[REFERENCE][name], "+"))
        cells += [column.get(method, "") for column in more.values()]
        yield f"| {method} | " + " | ".join(cells) + " |"


def mean(values: Tensor) -> tuple[float, float]:
    """Return a mean and its standard error; texts without a value are left out."""
    values = values[values.isfinite()]
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def written(values: Tensor, sign: str = "") -> str:
    """Write a mean with its standard error.

    Example:
        >>> written(torch.tensor([1.0, 2.0, 3.0, torch.nan]), "+")
        '+2.000 ± 0.577'
    """
    middle, error = mean(values)
    return f"{middle:{sign}.3f} ± {error:.3f}"
