"""``captum-globenc evaluate``: compare attribution methods on a model and labeled texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from captum_globenc.app.choices import METHODS, METRICS, REMOVALS
from captum_globenc.app.command import (
    FILES,
    AnswerColumnOption,
    CommandError,
    EncodingOption,
    IdColumnOption,
    LabelColumnOption,
    ModelOption,
    PairColumnOption,
    PositionOption,
    TargetOption,
    TextColumnOption,
    completing,
    load,
    names,
    note,
    progress_bar,
    show_methods,
    status,
    user_errors,
)
from captum_globenc.errors import check_names

OWN = Path("globenc-evaluation")
"""The default output folder; a number is appended if it is in use."""

EXAMPLES = """Examples:

captum-globenc evaluate --limit 200

captum-globenc evaluate -m ./my-classifier --data reviews.csv --methods globenc,lime,random -o compared
"""


def evaluate_texts(
    model: ModelOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help=f"Texts to evaluate on: {FILES}. By default 3,000 English review sentences.",
        ),
    ] = None,
    text_column: TextColumnOption = "text",
    pair_column: PairColumnOption = "text_pair",
    answer_column: AnswerColumnOption = "answer",
    label_column: LabelColumnOption = "label",
    id_column: IdColumnOption = None,
    encoding: EncodingOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            metavar="NAME,...",
            help="Methods to compare; all selects every one, list shows them.",
            autocompletion=completing(METHODS),
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="Metrics; all selects every one, list shows them.",
            autocompletion=completing(METRICS),
        ),
    ] = None,
    removal: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How metrics remove a token: mask, delete or pad. By default mask, and delete for language "
            "models.",
            autocompletion=completing(REMOVALS),
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Evaluate on N texts, drawn at random.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Texts per forward pass.")] = 16,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed.")] = 0,
    target: TargetOption = None,
    position: PositionOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            help="The folder for results.csv, summary.csv, summary.json and summary.png. An unfinished "
            "evaluation in it is resumed. By default globenc-evaluation, with a number appended if that "
            "holds another evaluation.",
        ),
    ] = None,
) -> None:
    """Measure how faithful attribution methods are to a classifier or a language model.

    Every method explains the predicted class, or --target; for a language model, the log-probability of the
    answer to each prompt. The metrics measure how the output changes when tokens are removed, and how far the
    methods agree.
    """
    chosen_methods = names("method", methods, METHODS, show_methods)
    chosen_metrics = names("metric", metrics, METRICS)
    if removal is not None:
        check_names("removal", [removal], REMOVALS, CommandError)
    with status("Loading torch and transformers"):
        from captum_globenc.evaluation import SENTENCES, evaluate, read_examples, sample
        from captum_globenc.texts.options import parse_position
    with user_errors():
        where = parse_position(position or "")
        read = read_examples(
            data or SENTENCES,
            text_column=text_column,
            label_column=label_column,
            pair_column=pair_column,
            answer_column=answer_column,
            id_column=id_column,
            encoding=encoding,
        )
        examples = sample(read, limit, seed)
    with status(f"Loading {model or 'the embedded model'}"):
        classifier = load(model, generates=True)
    bar = progress_bar("Evaluating")
    task = bar.add_task("Evaluating", total=len(examples))
    try:
        with bar, user_errors():
            evaluation = evaluate(
                classifier.model,
                classifier.tokenizer,
                examples,
                methods=chosen_methods or None,
                metrics=chosen_metrics or None,
                removal=removal,
                batch_size=batch_size,
                seed=seed,
                target=target,
                position=where,
                out=out or OWN,
                fresh=out is None,
                progress=lambda done, _: bar.update(task, completed=done),
            )
    except KeyboardInterrupt:
        note(f"stopped; repeat the command to resume{'' if out is None else f' from {out}'}")
        raise
    if evaluation.settings["cut"]:
        note(f"{evaluation.settings['cut']} of {len(examples)} texts truncated at the limit of the model")
    console = Console(highlight=False)
    title = f"Means over {len(examples)} texts; more in {evaluation.folder}"
    console.print(title, markup=False, soft_wrap=True)
    console.print(evaluation.table())
