"""What the commands of `captum-globenc` share: mistakes, notes, options, and loading a model quietly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from captum_globenc.texts.loading import Classifier

ModelOption = Annotated[
    str | None,
    typer.Option(
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


class CommandError(Exception):
    """A mistake of the user's, to be told in one line."""


def note(message: str) -> None:
    """Tell something on standard error, where it does not mix with results."""
    typer.echo(f"note: {message}", err=True)


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
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from error


def quiet() -> None:
    """Switch the messages of transformers off, but for its errors."""
    import transformers

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
    from captum_globenc.texts.loading import LoadingError, load_classifier, load_model

    quiet()
    try:
        classifier = load_model(model) if any_task else load_classifier(model)
    except LoadingError as error:
        raise CommandError(str(error)) from error
    if classifier.missing:
        note(f"{model} lacks {', '.join(classifier.missing)}: its predictions are random")
    return classifier


def names(given: Sequence[str] | None, known: Iterable[str], default: Sequence[str]) -> list[str]:
    """Return the names that an option lists, separated by commas or given several times.

    "all" stands for all that are known; "list" prints these and ends the command.
    """
    listed = [name.strip() for part in given or () for name in part.split(",") if name.strip()]
    if "list" in listed:
        typer.echo("\n".join(known))
        raise typer.Exit
    every = list(known) if "all" in listed else []
    return [*dict.fromkeys([*every, *(name for name in listed if name != "all")])] or list(default)
