"""Arrow schemas of the attributor's columns and of shards, in the layouts "full" and "thermostat".

Letters: C classes, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from captum_globenc.datasets.rows import new_columns
from captum_globenc.extras import optional

__all__ = ["DTYPES", "LAYOUTS", "Layout", "Plan", "extend_arrays", "extend_table"]

pa: Any = optional("pyarrow", "datasets")

DTYPES: Mapping[str, Any] = {"float32": pa.float32(), "float16": pa.float16()}
"""The types in which scores can be saved."""

LABELS: Mapping[str, Any] = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}

_IDS = pa.list_(pa.int32())
_STRINGS = pa.list_(pa.string())

KINDS: Mapping[str, Any] = {
    "input_ids": _IDS,
    "tokens": _STRINGS,
    "offsets": pa.list_(_IDS),
    "segments": _IDS,
    "word_ids": _IDS,
    "words": _STRINGS,
    "prediction": pa.string(),
    "explained": pa.string(),
    "logits": pa.list_(pa.float32()),
    "answer_ids": _IDS,
    "answer_tokens": _STRINGS,
    "log_probabilities": pa.list_(pa.float32()),
    "windows": pa.int32(),
    "truncated": pa.bool_(),
    "error": pa.string(),
}
"""The types of an attributor's columns; all others hold scores."""


class Plan(NamedTuple):
    """The properties of a run that determine the output columns.

    Attributes:
        methods: the names of the methods.
        dtype: the type of the scores, a key of `DTYPES`.
        labels: the names of the model's classes.
        label: the type of the data's labels, a key of `LABELS`; "" if there are none.
        pairs: whether there are second segments.
        id: the type of the data's ids, a key of `LABELS`; "" if there are none.
        generates: whether the model generates text.
    """

    methods: tuple[str, ...]
    dtype: str
    labels: tuple[str, ...]
    label: str = ""
    pairs: bool = False
    id: str = ""
    generates: bool = False


class Layout(NamedTuple):
    """A layout of the output rows.

    Attributes:
        schema: function from a plan to the Arrow schema.
        columns: function `(columns, plan) -> columns` that converts `idx`, `text`, `pair`, `label` and the
            attributor's columns to the layout.
        check: function of a plan that raises ValueError if the layout does not support it.
    """

    schema: Callable[[Plan], Any]
    columns: Callable[[Mapping[str, Sequence[Any]], Plan], Mapping[str, Sequence[Any]]]
    check: Callable[[Plan], None]

    def table(self, columns: Mapping[str, Sequence[Any]], plan: Plan) -> Any:
        """Return a `pyarrow.Table` of the columns that `self.columns` returns for a plan."""
        schema = self.schema(plan)
        arrays = [_array(columns[field.name], field.type) for field in schema]
        return pa.Table.from_arrays(arrays, schema=schema)


def extend_table(table: Any, made: Mapping[str, Sequence[Any]]) -> Any:
    """Add an attributor's columns to a `pyarrow.Table`; they replace columns of the same name."""
    for name, values in made.items():
        column = _array(values, KINDS.get(name, pa.list_(pa.float32())))
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return table


def extend_arrays(columns: Mapping[str, Any], made: Mapping[str, Sequence[Any]]) -> Any:
    """Return a `pyarrow.Table` of columns in numpy arrays and of an attributor's columns."""
    arrays = {
        name: pa.array(column if column.ndim == 1 else column.tolist()) for name, column in columns.items()
    }
    return extend_table(pa.table(arrays), made)


def _array(values: Sequence[Any], kind: Any) -> Any:
    if kind == pa.list_(pa.float16()):
        values = [np.asarray(row, dtype=np.float16) for row in values]
    return pa.array(values, type=kind)


def _full_schema(plan: Plan) -> Any:
    given = [("idx", pa.int64()), ("text", pa.string())]
    if plan.id:
        given.insert(1, ("id", LABELS[plan.id]))
    if plan.pairs:
        given.append(("pair", pa.string()))
    if plan.label:
        given.append(("label", LABELS[plan.label]))
    made = (*new_columns(plan.generates), *plan.methods, "error")
    return pa.schema([*given, *((name, KINDS.get(name, pa.list_(DTYPES[plan.dtype]))) for name in made)])


def _thermostat_schema(plan: Plan) -> Any:
    schema = pa.schema(
        [
            ("idx", pa.int64()),
            ("input_ids", _IDS),
            ("attributions", pa.list_(DTYPES[plan.dtype])),
            ("label", pa.int64()),
            ("predictions", pa.list_(pa.float32())),
            ("error", pa.string()),
        ]
    )
    datasets = optional("datasets", "datasets")
    features = datasets.Features.from_arrow_schema(schema)
    features["label"] = datasets.ClassLabel(names=list(plan.labels))
    return schema.with_metadata(features.arrow_schema.metadata)


def _thermostat_columns(columns: Mapping[str, Sequence[Any]], plan: Plan) -> Mapping[str, Sequence[Any]]:
    labels, errors = [], list(columns["error"])
    for row, label in enumerate(columns.get("label") or [None] * len(errors)):
        number = _class_index(label, plan.labels)
        if number is None and not errors[row]:
            errors[row] = f"label {label!r} is not a class of the model: {', '.join(plan.labels)}"
        labels.append(-1 if number is None else number)
    return {
        "idx": columns["idx"],
        "input_ids": columns["input_ids"],
        "attributions": columns[plan.methods[0]],
        "label": labels,
        "predictions": columns["logits"],
        "error": errors,
    }


def _class_index(label: Any, names: Sequence[str]) -> int | None:
    """Return the class of a label; -1 for an empty label, None for an unknown class."""
    if label is None or label == -1:
        return -1
    lowered = [name.lower() for name in names]
    if isinstance(label, str) and label.lower() in lowered:
        return lowered.index(label.lower())
    try:
        number = int(label)
    except (ValueError, OverflowError):  # OverflowError: infinity
        return None
    return number if number == float(label) and 0 <= number < len(names) else None


def _check_thermostat(plan: Plan) -> None:
    if plan.generates:
        raise ValueError("the layout thermostat is for classifiers, and the model generates text: use full")
    if len(plan.methods) > 1:
        raise ValueError(
            f"the layout thermostat supports one method, and {len(plan.methods)} are chosen: "
            f"{', '.join(plan.methods)}"
        )
    if plan.id:
        raise ValueError("the layout thermostat has no column for ids: leave id_column out, or use full")


LAYOUTS: Mapping[str, Layout] = {
    "full": Layout(_full_schema, lambda columns, _: columns, lambda _: None),
    "thermostat": Layout(_thermostat_schema, _thermostat_columns, _check_thermostat),
}
"""Layouts by name: "full" has every column and one per method, "thermostat" the columns of thermostat."""
