"""``captum-globenc attribute``: write the attributions of a data set to a folder of Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import ProgressColumn, Task
from rich.text import Text

from captum_globenc.app.choices import METHODS
from captum_globenc.app.command import (
    FILES,
    AnswerColumnOption,
    CommandError,
    EncodingOption,
    IdColumnOption,
    LabelColumnOption,
    ModelOption,
    NewTokensOption,
    PairColumnOption,
    PositionOption,
    TargetOption,
    TextColumnOption,
    completing,
    names,
    note,
    note_missing,
    progress_bar,
    quiet,
    show_methods,
    status,
    user_errors,
)


class _Speed(ProgressColumn):
    """Rows per second."""

    def render(self, task: Task) -> Text:
        """Return the speed of the last half minute, or of the whole run until that is known."""
        speed = task.finished_speed or task.speed
        if speed is None and task.elapsed:
            speed = (task.completed - task.fields["before"]) / task.elapsed
        return Text("" if speed is None else f"{speed:.3g} rows/s")


def attribute_data(
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE|FOLDER",
            help=f"Texts to explain: {FILES}. Labels are copied to the output.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The folder for the Parquet files. An unfinished run in it is resumed.",
        ),
    ],
    model: ModelOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            metavar="NAME,...",
            help="Methods; all selects every one, list shows them. By default globenc, and "
            "transformer-deep-lift for language models.",
            autocompletion=completing(METHODS),
        ),
    ] = None,
    target: TargetOption = None,
    position: PositionOption = None,
    windows: Annotated[
        int | None,
        typer.Option(
            metavar="STRIDE",
            help="Split texts that are too long for the model into windows that share this number of "
            "tokens, and merge their scores. By default such texts are truncated.",
        ),
    ] = None,
    cut: Annotated[
        bool,
        typer.Option(
            "--cut/--no-cut", help="Truncate texts above the model's limit, or write an error for them."
        ),
    ] = True,
    text_column: TextColumnOption = "text",
    pair_column: PairColumnOption = "pair",
    answer_column: AnswerColumnOption = "answer",
    max_new_tokens: NewTokensOption = None,
    label_column: LabelColumnOption = "label",
    id_column: IdColumnOption = None,
    encoding: EncodingOption = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local: this process. ray: Ray workers.")
    ] = "local",
    workers: Annotated[int, typer.Option(metavar="N", help="Ray workers; each loads the model once.")] = 1,
    layout: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="full: every column, and one per method. thermostat: idx, input_ids, attributions, "
            "label, predictions.",
        ),
    ] = "full",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="The type of the scores: float32 or float16.")
    ] = "float32",
    rows_per_shard: Annotated[
        int, typer.Option(metavar="N", help="Rows per file; an interrupted run loses at most one file.")
    ] = 1000,
    batch_tokens: Annotated[
        int,
        typer.Option(
            metavar="N", help="Maximum tokens per forward pass, padding included; raise it on a GPU."
        ),
    ] = 1024,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The device, cpu or cuda. By default the GPU if there is one."),
    ] = None,
) -> None:
    """Explain a classifier's predictions, or a language model's answers, for all texts of a data set.

    A language model generates the answers if there is no column of answers.
    To resume an interrupted run, repeat the command: no row is lost, duplicated or incomplete. Texts that
    cannot be explained are written with their error and counted. Load the files with
    captum_globenc.datasets.load_attributions, or summarize them with captum-globenc summarize.
    """
    chosen = names("method", methods, METHODS, show_methods) or None
    with status("Loading torch and transformers"), user_errors():
        from torch import OutOfMemoryError

        from captum_globenc.datasets import Attributor, attribute_files
        from captum_globenc.texts.options import parse_position

    quiet()
    bar = progress_bar("Attributing", _Speed())

    def advance(done: float, rows: int) -> None:
        if not bar.tasks:
            note_missing(model, attributor.missing)
            bar.add_task("Attributing", completed=int(done), total=rows, before=done)
            bar.start()
        bar.update(bar.tasks[0].id, completed=round(done))

    try:
        with user_errors():
            attributor = Attributor(
                model,
                methods=chosen,
                target=target,
                position=parse_position(position or ""),
                windows=windows,
                cut=cut,
                batch_tokens=batch_tokens,
                text_column=text_column,
                pair_column=pair_column,
                device=device,
                answer_column=answer_column,
                max_new_tokens=max_new_tokens,
            )
            counts = attribute_files(
                attributor,
                data,
                out,
                label_column=label_column,
                id_column=id_column,
                encoding=encoding,
                rows_per_shard=rows_per_shard,
                dtype=dtype,
                layout=layout,
                engine=engine,
                workers=workers,
                progress=advance,
            )
    except OutOfMemoryError as error:
        raise CommandError("the GPU has too little memory: lower --batch-tokens") from error
    except KeyboardInterrupt:
        bar.stop()
        note(f"stopped; repeat the command to resume from {out}")
        raise
    finally:
        bar.stop()
    if counts.cut:
        truncated = f"{counts.cut} of {counts.rows} texts truncated at the limit of the model"
        note(f"{truncated}; --windows explains them whole")
    if counts.windowed:
        note(f"{counts.windowed} of {counts.rows} texts explained in windows")
    if counts.errors:
        first = f"The first: {counts.first}"
        note(
            f"{counts.errors} of {counts.rows} rows not explained; the column error has the reasons. {first}"
        )
    typer.echo(f"{counts.rows} rows in {out}")
