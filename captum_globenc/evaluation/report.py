"""The result of an evaluation: means per method and metric, as a table, files and a figure."""

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from captum_globenc.datasets.store import replace
from captum_globenc.evaluation.checkpoint import METHOD, SECONDS, Row
from captum_globenc.evaluation.metrics import METRICS

ARROWS = {"higher": "↑", "lower": "↓"}
BEST = "*"
"""Marks the best mean of each metric."""


class Cell(NamedTuple):
    """Mean, standard deviation and number of texts of a metric; NaN values are ignored."""

    mean: float
    deviation: float
    texts: int

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.texts) if self.texts else math.nan


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`captum_globenc.evaluation.evaluate`.

    Args:
        methods: names of the methods, in the order of the table's rows.
        metrics: names of the metrics, in the order of the table's columns.
        rows: one per text and method: `example`, `method`, `label`, `prediction`, a value per metric.
        settings: the arguments of the call, and the versions of the packages.
        folder: the folder of the saved files; None if the evaluation was not saved.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: list[Row]
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def summary(self) -> dict[str, dict[str, Cell]]:
        """Return mean, standard deviation and number of texts per method and metric, ignoring NaN."""
        return {
            method: {
                metric: _cell([row[metric] for row in self.rows if row[METHOD] == method])
                for metric in self.metrics
            }
            for method in self.methods
        }

    def seconds(self) -> dict[str, float]:
        """Return the mean time per text of each method, in seconds."""
        return {
            method: statistics.fmean(row[SECONDS] for row in self.rows if row[METHOD] == method)
            for method in self.methods
        }

    def table(self) -> RenderableType:
        """Return a terminal table of means and standard errors; arrows show which direction is better."""
        return _Means(self)

    def markdown(self) -> str:
        """Return a Markdown table of means and standard errors."""
        heads = [f"{metric} {ARROWS[METRICS[metric].better]}" for metric in self.metrics]
        lines = [[METHOD, *heads], ["---", *("---:" for _ in heads)]]
        for method, cells in self.summary().items():
            lines.append([method, *(f"{cell.mean:.3f} ± {cell.error:.3f}" for cell in cells.values())])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def save(self, folder: Path) -> None:
        """Write summary.csv, summary.json and summary.png.

        Args:
            folder: an existing folder.

        Raises:
            OSError: a file cannot be written.
        """
        summary = self.summary()
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([METHOD, "metric", "better", "mean", "standard_deviation", "texts"])
        for method, cells in summary.items():
            for metric, cell in cells.items():
                writer.writerow([method, metric, METRICS[metric].better, *cell])
        replace(folder / "summary.csv", file.getvalue())
        found = {
            "settings": self.settings,
            "seconds_per_text": self.seconds(),
            "summary": {
                method: {metric: _finite(cell) for metric, cell in cells.items()}
                for method, cells in summary.items()
            },
        }
        replace(folder / "summary.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
        draw(summary, folder / "summary.png")


def draw(summary: Mapping[str, Mapping[str, Cell]], path: Path) -> None:
    """Save a figure with a panel per metric and a bar per method, with 95% confidence intervals."""
    # Does not use pyplot, whose global state belongs to the user.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    methods = list(summary)
    metrics = list(next(iter(summary.values())))
    columns = min(4, len(metrics))
    lines = math.ceil(len(metrics) / columns)
    figure = Figure(figsize=(2 + 2.6 * columns, lines * (1.2 + 0.22 * len(methods))), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    for panel, metric in zip(panels, metrics, strict=False):
        cells = [summary[method][metric] for method in methods]
        panel.barh(
            methods,
            [cell.mean for cell in cells],
            xerr=[1.96 * cell.error for cell in cells],
            color="#c44e00",
            error_kw={"elinewidth": 0.8},
        )
        panel.set_title(f"{metric} ({METRICS[metric].better} is better)", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.axvline(0, color="#707070", linewidth=0.8)
    for panel in panels[len(metrics) :]:
        panel.remove()
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=150)


class _Means:
    """Means by method and metric, split into tables that fit the width of the terminal."""

    def __init__(self, evaluation: Evaluation) -> None:
        summary = evaluation.summary()
        self._methods = [METHOD, *evaluation.methods]
        self._columns = []
        for metric in evaluation.metrics:
            cells = [summary[method][metric] for method in evaluation.methods]
            best = _best(metric, [cell.mean for cell in cells])
            texts = [
                f"{BEST if cell.mean == best else ''}{cell.mean:.3f} ± {cell.error:.3f}" for cell in cells
            ]
            self._columns.append([f"{metric} {ARROWS[METRICS[metric].better]}", *texts])
        self._columns.append(["seconds a text", *(f"{it:.3g}" for it in evaluation.seconds().values())])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        available = options.max_width - max(map(len, self._methods))
        parts: list[list[list[str]]] = [[]]
        left = available
        for column in self._columns:
            width = max(map(len, column)) + 3
            if width > left and parts[-1]:
                parts.append([])
                left = available
            parts[-1].append(column)
            left -= width
        for columns in parts:
            table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 2), pad_edge=False, show_edge=False)
            table.add_column(METHOD, no_wrap=True)
            for head, *_ in columns:
                table.add_column(Text(head), justify="right", overflow="fold")
            for name, *cells in zip(self._methods[1:], *(column[1:] for column in columns), strict=True):
                table.add_row(Text(name), *(Text(it, "bold" if BEST in it else "") for it in cells))
            yield table
            yield Text()
        yield Text(f"{BEST} the best mean of its column, ± its standard error; ↑ higher is better, ↓ lower")


def _best(metric: str, means: Sequence[float]) -> float:
    """Return the best mean; NaN, which equals no mean, if all means are equal."""
    known = [mean for mean in means if not math.isnan(mean)]
    if len(set(known)) < 2:
        return math.nan
    return max(known) if METRICS[metric].better == "higher" else min(known)


def _cell(values: Sequence[float]) -> Cell:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Cell(math.nan, math.nan, 0)
    spread = len(known) > 1 and all(map(math.isfinite, known))
    return Cell(statistics.fmean(known), statistics.stdev(known) if spread else math.nan, len(known))


def _finite(cell: Cell) -> dict[str, float | None]:
    """Return a cell as JSON values, with None for NaN and infinity."""
    return {name: value if math.isfinite(value) else None for name, value in cell._asdict().items()}
