"""``captum-globenc show``: show saved explanations, without their model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from captum_globenc.app.command import (
    CommandError,
    SpecialOption,
    TopOption,
    WordsOption,
    printing,
    user_errors,
    write,
    wrote,
)
from captum_globenc.results.explanations import Explanations


def show_saved(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="The output of captum-globenc explain --save or --json, which may be compressed (.gz), or a "
            "folder of captum-globenc attribute.",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", metavar="N", help="Show the first N.", min=1)
    ] = None,
    words: WordsOption = True,
    top: TopOption = None,
    special: SpecialOption = True,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", "-o", metavar="FILE", help="Write a standalone HTML page instead.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Show saved explanations of texts, images or sounds, in the terminal or as an HTML page."""
    try:
        with user_errors():
            if file.is_dir():
                from captum_globenc.datasets import load_explanations

                found = load_explanations(file, limit=limit)
            else:
                found = Explanations.load(file)[:limit]
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    if html is not None:
        write(html, found.to_html)
        wrote(html)
        return
    draw = printing(words=words, top=top, special=special)
    for number, explanation in enumerate(found, start=1):
        draw(explanation, index=number if len(found) > 1 else None)
