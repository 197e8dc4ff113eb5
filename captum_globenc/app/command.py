"""What the commands of `captum-globenc` share: mistakes, notes, options, and loading a model quietly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from captum_globenc.errors import CaptumGlobencError, LoadingError, unknown_names
from captum_globenc.results.terminal import printable, show

if TYPE_CHECKING:
    from captum_globenc.texts.loading import Classifier

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH_OR_NAME",
        help="A sequence classifier, from a folder or the Hugging Face hub. "
        "Left out, a small English sentiment model.",
    ),
]
"""The option `--model` of a command that takes one."""

ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="PATH_OR_NAME",
        help="A sequence classifier, from a folder or the Hugging Face hub; may be given repeatedly. "
        "Left out, a small English sentiment model.",
    ),
]
"""The same of a command that takes several."""

PositionOption = Annotated[
    str | None,
    typer.Option(
        metavar="INDEX|mean",
        help="The token whose mixture is explained. Left out, what the model's head pools.",
    ),
]
"""The option `--position` of every command that explains."""

FILES = (
    "a .csv, .tsv, .jsonl or .json file, also packed as .gz, a .parquet file, or a folder of such files, "
    "with the columns text and, if there are any, label and pair"
)
"""What `--data` takes, in the help of the commands that read data sets."""

_named = partial(typer.Option, metavar="NAME")
TextColumnOption = Annotated[str, _named(help="The column of the texts.")]
"""The options of these commands that name columns and the encoding of files."""
PairColumnOption = Annotated[
    str, _named(help="The column of second segments. Left out, pair or text_pair.", show_default=False)
]
LabelColumnOption = Annotated[str, _named(help="The column of the labels.")]
IdColumnOption = Annotated[str | None, _named(help="A column of ids, to find rows again in the results.")]
EncodingOption = Annotated[
    str | None, _named(help="The encoding of text files, such as latin-1. Left out, UTF-8, UTF-16 or UTF-32.")
]

WordsOption = Annotated[
    bool,
    typer.Option("--words/--tokens", help="Show whole words, or the model's tokens with their ids."),
]
"""The option `--words` of every command that shows explanations, like those below."""

TopOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Show the N strongest in the tables, by the first method with a sign, and the sum of others.",
    ),
]

SpecialOption = Annotated[
    bool,
    typer.Option("--special/--no-special", help="Show special tokens such as [CLS], or leave them out."),
]

CONTEXT = {"help_option_names": ["-h", "--help"]}
"""Settings of every command."""


class CommandError(CaptumGlobencError):
    """A mistake of the user's, to be told in one line."""


def note(message: str) -> None:
    """Tell something on standard error, where it does not mix with results."""
    typer.echo(f"note: {printable(' '.join(message.split()))}", err=True)


@contextmanager
def status(message: str) -> Iterator[None]:
    """Show what takes a while in a line on standard error, where that is a terminal, and clear it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(message)):  # a name is no markup
        yield


def write(path: Path, how: Callable[[Path], object]) -> None:
    """Write a file.

    Args:
        path: Where to.
        how: What writes it.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        how(path)
    except (OSError, ValueError) as error:  # of a picture of a kind that is not known
        reason = getattr(error, "strerror", None) or error
        raise CommandError(f"cannot write {path}: {reason}") from error


def wrote(path: Path) -> None:
    """Say on standard error which file was written, where it does not mix with results."""
    typer.echo(printable(f"wrote {path}"), err=True)


def quiet() -> None:
    """Switch the messages of transformers and of the hub off, but for errors."""
    import transformers
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def load(model: str | None, *, any_task: bool = False) -> Classifier:
    """Load a classifier without the library's own messages.

    Args:
        model: as `captum_globenc.texts.loading.load_classifier` takes it.
        any_task: whether it may be a model for another task.

    Raises:
        CommandError: it cannot be loaded.
    """
    from captum_globenc.texts.loading import load_classifier, load_model

    quiet()
    try:
        classifier = load_model(model) if any_task else load_classifier(model)
    except LoadingError as error:
        raise CommandError(str(error)) from error
    if classifier.missing:
        note(f"{model} lacks {', '.join(classifier.missing)}: its predictions are random")
    return classifier


def names(
    given: Sequence[str] | None,
    known: Iterable[str],
    default: Sequence[str],
    show: Callable[[], None] | None = None,
) -> list[str]:
    """Return the names that an option lists, separated by commas or given several times.

    "all" stands for all known names; "list" prints them, or what `show` prints, and ends the command.
    """
    listed = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    if "list" in listed:
        (show or (lambda: typer.echo("\n".join(known))))()
        raise typer.Exit
    every = list(known) if "all" in listed else []
    return [*dict.fromkeys([*every, *(name for name in listed if name != "all")])] or list(default)


def show_methods() -> None:
    """Print the table of all methods: name, kind of scores, cost in forward passes, requirements."""
    from captum_globenc.texts.methods import list_methods

    typer.echo("\n".join(list_methods()))


def completing(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what completes the last of several names, separated by commas, in a shell.

    Example:
        >>> completing(["lime", "random"])("lime,ra")
        ['lime,random']
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in known if name.startswith(begun)]

    return complete


def check_names(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Reject unknown names before slow imports.

    Raises:
        CommandError: one is not known.
    """
    unknown = [name for name in given if name not in known]
    if unknown:
        raise CommandError(unknown_names(what, unknown, known))


def printing(*, words: bool, top: int | None, special: bool) -> Callable[..., None]:
    """Return what prints an explanation by the options of the commands that do, and takes its `index`."""
    return partial(
        show, Console(highlight=False), of="words" if words else "tokens", top=top, special=special
    )
