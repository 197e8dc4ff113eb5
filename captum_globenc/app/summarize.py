"""``captum-globenc summarize``: show the words with the highest scores for each class of a data set."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captum_globenc.app.command import CommandError, check_folders, user_errors, write
from captum_globenc.results.terminal import printable

if TYPE_CHECKING:
    from captum_globenc.datasets import WordWeight

LONGEST_WORD, OTHERS = 20, 46
"""Maximum characters of a word, and characters of a line besides the examples."""


def summarize_data(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The output folder of captum-globenc attribute.", show_default=False
        ),
    ],
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="The method. By default the first in the files.")
    ] = None,
    top: Annotated[int, typer.Option(metavar="N", help="Words per class.")] = 20,
    min_count: Annotated[
        int, typer.Option(metavar="N", help="Minimum occurrences of a word in texts of the class.")
    ] = 5,
    examples: Annotated[int, typer.Option(metavar="N", help="Example rows per word.")] = 3,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory limit; larger results go to the disk.")
    ] = "1GB",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the table as CSV.", dir_okay=False)
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw a figure: .png, .svg or .pdf.", dir_okay=False),
    ] = None,
) -> None:
    """Show the words with the highest scores for each class: mean score, count, and example rows."""
    check_folders(csv, figure)
    with user_errors():
        from captum_globenc.datasets import summarize
        from captum_globenc.datasets.summary import write_csv

        weights = summarize(folder, method, top=top, min_count=min_count, examples=examples, memory=memory)
    if not weights:
        raise CommandError(f"no word occurs {min_count} times in texts of a class: lower --min-count")
    console = Console(highlight=False)
    for label, words in groupby(weights, key=lambda it: it.label):
        _show(console, label, list(words))
    if csv is not None:
        write(csv, lambda path: write_csv(weights, path))
    if figure is not None:
        _draw(weights, figure)


def _show(console: Console, label: str, words: list[WordWeight]) -> None:
    table = Table(title=Text(printable(label), style="bold"), title_justify="left", box=SIMPLE_HEAD)
    table.add_column("word", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("such as", overflow="fold")
    for it in words:
        shown = "; ".join(f"{example.idx}: {example.text}" for example in it.examples)
        shown = shorten(printable(shown), max(20, console.width - OTHERS), placeholder=" …")
        word = shorten(printable(it.word), LONGEST_WORD, placeholder="…")
        table.add_row(Text(word), f"{it.mean:.4f}", str(it.count), Text(shown))
    console.print(table)


def _draw(weights: list[WordWeight], path: Path) -> None:
    from captum_globenc.visualization import plot_words

    panels = {
        label: [(it.word, it.mean) for it in words] for label, words in groupby(weights, lambda it: it.label)
    }
    write(path, lambda path: plot_words(panels).savefig(path, dpi=150))
