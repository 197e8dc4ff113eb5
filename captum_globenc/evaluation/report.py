"""What an evaluation found: means per method and metric, as a table, as files and as a figure."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from captum_globenc.evaluation.journal import METHOD, SECONDS, Row, replace
from captum_globenc.evaluation.metrics import METRICS

LONGEST_NAME = 20
"""Characters of a name that stand in one line of a table."""

ARROWS = {"higher": "↑", "lower": "↓"}
HYPHENATED = {
    "comprehensiveness": "compre-hensive-ness",
    "sufficiency": "suffi-ciency",
    "accuracy": "accu-racy",
    "spearman-saliency": "spear-man-sali-ency",
    "kendall-ablation": "ken-dall-abla-tion",
}
"""Where to break names of metrics, so that the default ones fit a terminal of 80 columns."""


class Cell(NamedTuple):
    """A metric over all texts that have it: mean, standard deviation, number of texts."""

    mean: float
    deviation: float
    texts: int

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return self.deviation / math.sqrt(self.texts) if self.texts else math.nan


@dataclass(frozen=True)
class Evaluation:
    """The outcome of :func:`captum_globenc.evaluation.evaluate`.

    Args:
        methods: names of the methods, in the order of the table.
        metrics: names of the metrics, likewise.
        rows: one per text and method: `example`, `method`, `label`, `prediction`, a value per metric.
        settings: what was asked for, and the versions it ran with.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: list[Row]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, dict[str, Cell]]:
        """Return each method's mean, deviation and number of texts per metric, NaN left out."""
        return {
            method: {
                metric: _cell([row[metric] for row in self.rows if row[METHOD] == method])
                for metric in self.metrics
            }
            for method in self.methods
        }

    def table(self) -> Table:
        """Draw the means for a terminal, an arrow showing which way is better."""
        table = Table(box=SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column(METHOD, no_wrap=True)
        for metric in self.metrics:
            table.add_column(Text(_head(metric)), justify="right", overflow="fold")
        for method, cells in self.summary().items():
            table.add_row(Text(_in_lines(method)), *(f"{cell.mean:.3f}" for cell in cells.values()))
        return table

    def markdown(self) -> str:
        """Draw the means, and their standard errors, as a table for a page."""
        heads = [f"{metric} {ARROWS[METRICS[metric].better]}" for metric in self.metrics]
        lines = [[METHOD, *heads], ["---", *("---:" for _ in heads)]]
        for method, cells in self.summary().items():
            lines.append([method, *(f"{cell.mean:.3f} ± {cell.error:.3f}" for cell in cells.values())])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def save(self, folder: Path) -> None:
        """Write summary.csv, summary.json and summary.png.

        Args:
            folder: where; it exists.

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
            "seconds_per_text": {
                method: statistics.fmean(row[SECONDS] for row in self.rows if row[METHOD] == method)
                for method in self.methods
            },
            "summary": {
                method: {metric: _finite(cell) for metric, cell in cells.items()}
                for method, cells in summary.items()
            },
        }
        replace(folder / "summary.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
        draw(summary, folder / "summary.png")


def draw(summary: Mapping[str, Mapping[str, Cell]], path: Path) -> None:
    """Draw a panel per metric, a bar per method, with 95 % intervals of the mean.

    Args:
        summary: what :meth:`Evaluation.summary` returned.
        path: where to; the suffix chooses the format.
    """
    # Built without pyplot, whose state belongs to the user.
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


def _in_lines(name: str) -> str:
    """Break a long name after its first hyphen, so that the table fits a terminal.

    Example:
        >>> _in_lines("transformer-deep-lift/2").split()
        ['transformer-', 'deep-lift/2']
    """
    first, hyphen, rest = name.partition("-")
    return f"{first}{hyphen}\n{rest}" if len(name) > LONGEST_NAME and hyphen else name


def _head(metric: str) -> str:
    """Return a column's head: the parts of the name below each other, and which way is better."""
    return HYPHENATED.get(metric, metric).replace("-", "-\n") + "\n" + ARROWS[METRICS[metric].better]


def _cell(values: Sequence[float]) -> Cell:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Cell(math.nan, math.nan, 0)
    spread = len(known) > 1 and all(map(math.isfinite, known))
    return Cell(statistics.fmean(known), statistics.stdev(known) if spread else math.nan, len(known))


def _finite(cell: Cell) -> dict[str, float | None]:
    """Return a cell as JSON takes it, which knows no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in cell._asdict().items()}
