"""Shared parts of the commands: errors, notes, options, and loading a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from captum_globenc.errors import CaptumGlobencError, check_names
from captum_globenc.results.terminal import Shown, printable

if TYPE_CHECKING:
    from captum_globenc.texts.loading import Classifier

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH_OR_NAME",
        help="A sequence classifier, from a folder or the Hugging Face hub. "
        "By default a small English sentiment model.",
    ),
]
"""The option `--model` of commands for one model."""

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH_OR_NAME",
        help="A sequence classifier, from a folder or the Hugging Face hub; may be given repeatedly. "
        "By default a small English sentiment model.",
    ),
]
"""The option `--model` of commands for several models."""

PositionOption = Annotated[
    str | None,
    typer.Option(
        metavar="INDEX|mean",
        help="The token that GlobEnc explains. By default the tokens that the model's head pools.",
    ),
]
"""The option `--position` of every command that explains."""

TargetOption = Annotated[
    str | None,
    typer.Option(metavar="CLASS", help="The explained class. By default each text's predicted class."),
]
"""The option `--target` of commands for data sets."""

NewTokensOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Generate at most N tokens.")]
"""The option `--max-new-tokens` of commands that explain answers."""

FILES = (
    "a .csv, .tsv, .jsonl or .json file, also compressed as .gz, a .parquet file, or a folder of such files, "
    "with the columns text and optionally label and pair"
)
"""The input formats, for the help of `--data`."""

_name_option = partial(typer.Option, metavar="NAME")
TextColumnOption = Annotated[str, _name_option(help="The column of texts.")]
"""Options of the commands that read data sets: the columns, and the encoding of files."""
PairColumnOption = Annotated[
    str,
    _name_option(help="The column of second segments. By default pair or text_pair.", show_default=False),
]
AnswerColumnOption = Annotated[
    str, _name_option(help="The column of the answers to explain, for language models.")
]
LabelColumnOption = Annotated[str, _name_option(help="The column of labels.")]
IdColumnOption = Annotated[str | None, _name_option(help="The column of ids, copied to the results.")]
EncodingOption = Annotated[
    str | None,
    _name_option(help="The encoding of text files, such as latin-1. By default UTF-8, UTF-16 or UTF-32."),
]

WordsOption = Annotated[
    bool,
    typer.Option("--words/--tokens", help="Show whole words, or the model's tokens with their ids."),
]
"""This and the following options belong to every command that shows explanations."""

TopOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Show the N strongest tokens in the tables, ranked by the first signed method, and the sum of "
        "the rest.",
    ),
]

SpecialOption = Annotated[
    bool,
    typer.Option("--special/--no-special", help="Show or hide special tokens such as [CLS]."),
]

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""


class CommandError(CaptumGlobencError):
    """A user error, printed in one line."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Convert the documented errors of a call to `CommandError`."""
    try:
        yield
    except (CaptumGlobencError, ValueError, ImportError) as error:
        raise CommandError(str(error)) from error


def check_folders(*paths: Path | None) -> None:
    """Check that the folder of each output file exists, before the model runs.

    Raises:
        CommandError: a folder does not exist.
    """
    for path in paths:
        if path is not None and not path.resolve().parent.is_dir():
            raise CommandError(f"cannot write {path}: no such folder")


def note(message: str) -> None:
    """Print a notice on standard error, apart from the results."""
    typer.echo(f"note: {printable(' '.join(message.split()))}", err=True)


def note_missing(model: str | None, missing: Sequence[str]) -> None:
    """Print a notice if the files of a model lack weights."""
    if missing:
        note(f"{model} lacks {', '.join(missing)}: its predictions are random")


def progress_bar(doing: str, *columns: ProgressColumn) -> Progress:
    """Return a progress bar on standard error with further columns; hidden if that is no terminal."""
    terminal = Console(stderr=True)
    return Progress(
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        *columns,
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=terminal,
        transient=True,
        disable=not terminal.is_terminal,
    )


@contextmanager
def status(message: str) -> Iterator[None]:
    """Show a temporary status line on standard error, if that is a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(message)):  # Text: a name may look like markup
        yield


def write(path: Path, how: Callable[[Path], object]) -> None:
    """Write a file with the function `how`.

    Raises:
        CommandError: the file cannot be written.
    """
    try:
        how(path)
    except (OSError, ValueError) as error:  # ValueError: unknown image format
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"cannot write {path}: {reason}") from error


def wrote(path: Path) -> None:
    """Print on standard error which file was written."""
    typer.echo(printable(f"wrote {path}"), err=True)


def quiet() -> None:
    """Turn off messages of transformers and huggingface_hub, except errors."""
    import transformers
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load(model: str | None, *, any_task: bool = False, generates: bool = False) -> Classifier:
    """Load a model without messages of transformers.

    Args:
        model: a folder or hub name; None for the embedded classifier.
        any_task: whether models for other tasks than text classification are accepted.
        generates: whether models that generate text are accepted.

    Raises:
        CommandError: the model cannot be loaded.
    """
    from captum_globenc.texts.loading import load_classifier, load_classifier_or_generator, load_model

    quiet()
    loading = load_model if any_task else load_classifier_or_generator if generates else load_classifier
    with user_errors():
        classifier = loading(model)
    note_missing(model, classifier.missing)
    return classifier


def names(
    what: str,
    given: Sequence[str] | None,
    known: Sequence[str],
    show: Callable[[], None] | None = None,
) -> list[str]:
    """Return the names of an option, which may be separated by commas or given in several options.

    "all" stands for all known names; "list" prints them, or calls `show`, and exits.

    Raises:
        CommandError: a name is unknown, found before slow imports.
    """
    listed = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    if "list" in listed:
        (show or (lambda: typer.echo("\n".join(known))))()
        raise typer.Exit
    every = list(known) if "all" in listed else []
    chosen = [*dict.fromkeys([*every, *(name for name in listed if name != "all")])]
    if chosen:
        check_names(what, chosen, known, CommandError)
    return chosen


def show_methods() -> None:
    """Print the table of all methods: name, kind of scores, cost in forward passes, requirements."""
    from captum_globenc.texts.methods import list_methods

    typer.echo("\n".join(list_methods()))


def completing(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return a shell completion function for the last of several names, separated by commas.

    Example:
        >>> completing(["lime", "random"])("lime,ra")
        ['lime,random']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, prefix = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(prefix)]

    return complete


def printing(*, words: bool, top: int | None, special: bool) -> Callable[..., None]:
    """Return a function of an explanation and its `index` that prints it with the command's options."""
    console = Console(highlight=False)
    of: Literal["words", "tokens"] = "words" if words else "tokens"
    return lambda it, index: console.print(Shown(it, of=of, top=top, special=special, index=index))
