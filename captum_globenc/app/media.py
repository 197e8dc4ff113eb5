"""``captum-globenc explain --image`` and ``--audio``: explain files one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captum_globenc.app.choices import FILE_METHODS
from captum_globenc.app.command import (
    CommandError,
    names,
    note,
    quiet,
    status,
    write,
    wrote,
)
from captum_globenc.errors import CaptumGlobencError, LoadingError

if TYPE_CHECKING:
    from captum_globenc.results.explanation import Explanation

__all__ = ["explain_files"]


def explain_files(
    images: Sequence[Path] | None,
    sounds: Sequence[Path] | None,
    model: str | None,
    methods: Sequence[str] | None,
    target: str | None,
    picture: Path | None,
) -> Iterator[Explanation]:
    """Yield the explanation of each file.

    Raises:
        CommandError: a file cannot be read or explained, or options are incompatible.
    """
    files = list(images or sounds or ())
    if model is None or (images and sounds) or not files:
        raise CommandError("give a --model of images for --image, or one of sounds for --audio")
    if picture is not None and (len(files) > 1 or not picture.resolve().parent.is_dir()):
        raise CommandError(f"cannot write {picture}: it takes one file, and a folder that is there")
    chosen = names("method", methods, FILE_METHODS) or None
    with status("Loading torch and transformers"):
        from captum_globenc.media import explain_file, load_media_model

        quiet()
    try:
        with status(f"Loading {model}"):
            found, processor, missing = load_media_model(model, "image" if images else "sound")
    except LoadingError as error:
        raise CommandError(str(error)) from error
    if missing:
        note(f"{model} lacks {', '.join(missing)}: its predictions are random")
    for path in files:
        try:
            with status("Explaining"):
                explanation = explain_file(path, found, processor, methods=chosen, target=target, tell=note)
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror or error}") from error
        except (CaptumGlobencError, ValueError) as error:  # the documented errors
            raise CommandError(str(error)) from error
        if picture is not None:  # there is only one file
            from captum_globenc.visualization.media import draw_media

            write(picture, lambda path: draw_media(explanation).savefig(path))  # noqa: B023
            wrote(picture)
        yield explanation
