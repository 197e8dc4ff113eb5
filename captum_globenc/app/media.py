"""``captum-globenc explain --image`` and ``--audio``: files explained in words, as JSON, or as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from captum_globenc.app.command import CommandError, note, quiet, write

SHOWN = 5
"""How many parts are listed."""


def explain_files(
    images: Sequence[Path] | None,
    sounds: Sequence[Path] | None,
    model: str | None,
    methods: Sequence[str] | None,
    target: str | None,
    picture: Path | None,
    *,
    as_json: bool,
) -> None:
    """Print what a classifier makes of each file, and which parts of it speak for and against that.

    Raises:
        CommandError: a file cannot be read or explained, or options do not go together.
    """
    files = list(images or sounds or ())
    if model is None or (images and sounds) or not files:
        raise CommandError("give a --model of images for --image, or one of sounds for --audio")
    if picture is not None and (len(files) > 1 or not picture.resolve().parent.is_dir()):
        raise CommandError(f"cannot write {picture}: it takes one file, and a folder that is there")
    quiet()
    from captum_globenc.attr.proof import ProofError
    from captum_globenc.media import explain_file, load_media_model
    from captum_globenc.recording.refusal import RecordingError
    from captum_globenc.texts.loading import LoadingError

    try:
        found, processor, missing = load_media_model(model, "image" if images else "sound")
    except LoadingError as error:
        raise CommandError(str(error)) from error
    if missing:
        note(f"{model} lacks {', '.join(missing)}: its predictions are random")
    for path in files:
        try:
            explanation = explain_file(path, found, processor, methods=methods, target=target, tell=note)
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror or error}") from error
        except (ValueError, ProofError, RecordingError) as error:  # what explain_file documents
            raise CommandError(str(error)) from error
        if as_json:
            typer.echo(json.dumps(explanation.to_dict(), allow_nan=False))
        else:
            typer.echo(f"{path}: {explanation.headline}")
            for name in explanation.scores:
                listed = ", ".join(f"{part} {score:+.3f}" for part, score in explanation.top(SHOWN, name))
                typer.echo(f"{name} \N{MIDDLE DOT} {listed}")
    if picture is not None:  # of the only one
        from captum_globenc.visualization.media import draw_media

        write(picture, lambda path: draw_media(explanation).savefig(path))
