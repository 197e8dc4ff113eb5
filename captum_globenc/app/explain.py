"""``captum-globenc explain``: explain texts in the terminal, as JSON lines, or as an HTML page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from captum_globenc.app.choices import BASELINES, FILE_METHODS, METHODS, MIXINGS
from captum_globenc.app.command import (
    CommandError,
    ModelOption,
    NewTokensOption,
    PositionOption,
    SpecialOption,
    TopOption,
    WordsOption,
    check_folders,
    completing,
    load,
    names,
    note,
    note_missing,
    printing,
    quiet,
    show_methods,
    status,
    user_errors,
    write,
    wrote,
)
from captum_globenc.datasets.files import open_text
from captum_globenc.errors import check_names
from captum_globenc.results.explanations import Explanations
from captum_globenc.results.terminal import printable

if TYPE_CHECKING:
    from captum_globenc.results.explanation import Explanation

BATCH = 8

EXAMPLES = """Examples:

captum-globenc explain "The plot is thin, but the acting is simply wonderful."

captum-globenc explain "Not bad at all." --target NEGATIVE --against POSITIVE

captum-globenc explain -m ./my-classifier --top 10 -o page.html < texts.txt

captum-globenc explain -m ./my-language-model "Paris is" --answer "big" --method transformer-deep-lift

captum-globenc explain "Dull." --method globenc,feature-ablation,lime --no-special
"""


def explain_texts(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="Texts to explain. By default, or for -, the lines of standard input.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    pair: Annotated[str | None, typer.Option(metavar="TEXT", help="A second segment for every text.")] = None,
    position: PositionOption = None,
    mixing: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="W, W-FixedRes, W-Res, N, N-FixedRes, N-Res, N-ResLN or N-Enc.",
            autocompletion=completing(MIXINGS),
        ),
    ] = "N-Enc",
    layers: Annotated[bool, typer.Option("--layers", help="Also show the scores after every layer.")] = False,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            "--methods",
            metavar="NAME,...",
            help="globenc (shares, independent of the class), transformer-deep-lift (positive and negative "
            "contributions to a class), or others; list shows all. By default these two.",
            autocompletion=completing(METHODS),
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The explained output: a class, all (every class), a label, a word, or start or end of an "
            "answer. By default the prediction.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="The contrast class or answer: explain the target minus this output.",
        ),
    ] = None,
    baseline: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="The baseline: mask, the fully masked text (mean if the tokenizer has no mask token); mean, "
            "the mean word embedding; pad, padding tokens; or zero, word embeddings of zero.",
            autocompletion=completing(BASELINES),
        ),
    ] = "mask",
    windows: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            min=0,
            help="Split texts that are too long for the model into windows that share this number of tokens.",
        ),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="The answer to explain, for language models. By default the model generates one.",
        ),
    ] = None,
    max_new_tokens: NewTokensOption = None,
    chat: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Explain the answer to a chat instead: a JSON file with one or several lists of messages.",
            dir_okay=False,
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--image", metavar="FILE", help="Explain an image instead; may be given repeatedly."),
    ] = None,
    sounds: Annotated[
        list[Path] | None,
        typer.Option(
            "--audio", metavar="FILE", help="Explain a sound (WAV) instead; may be given repeatedly."
        ),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the explanation of an image or sound, as PNG or SVG.", dir_okay=False
        ),
    ] = None,
    words: WordsOption = True,
    top: TopOption = None,
    special: SpecialOption = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one explanation per line.")] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also save the explanations to a file for captum-globenc show; .gz compresses it.",
            dir_okay=False,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            "-o",
            metavar="FILE",
            help="Also write a standalone HTML page; the terminal then shows one line per text if there are "
            "several.",
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Explain a model's prediction for each TEXT.

    GlobEnc's scores are shares that sum to 1, independent of the class. Most other methods compute positive
    and negative contributions to the predicted class, or to --target. Token classification has one
    explanation per entity, and masked language models one per mask. For question answering, the context is
    --pair. For text generation, the explained output is the log-probability of the answer to each TEXT.
    """
    check_folders(html, save)
    draw = None if as_json else printing(words=words, top=top, special=special)
    if picture is not None or images or sounds:
        text_options = (texts, pair, position, against, windows, answer, max_new_tokens, chat)
        if layers or any(it is not None for it in text_options) or (mixing, baseline) != ("N-Enc", "mask"):
            raise CommandError(
                "--image and --audio accept only --model, --method, --target and the options for output"
            )
        found = _explain_files(images, sounds, model, methods, target, picture)
        _output(found, len(images or sounds or ()), draw, save, html)
        return
    chosen = names("method", methods, METHODS, show_methods) or None
    check_names("mixing", [mixing], MIXINGS, CommandError)
    check_names("baseline", [baseline], BASELINES, CommandError)
    if chat is not None and texts:
        raise CommandError("--chat replaces TEXT: leave one of the two out")
    wanted: list[Any] = _read_chats(chat) if chat is not None else list(_read_texts(texts or ["-"]))
    with status("Loading torch and transformers"):
        from captum_globenc.texts.explaining import TRUNCATED, explain
        from captum_globenc.texts.options import Options, parse_position
        from captum_globenc.texts.tokenizing import token_limit, tokenize

        with user_errors():
            where = parse_position(position or "")
            Options(chosen, mixing=mixing, baseline=baseline, target=target, against=against, windows=windows)
    with status(f"Loading {model or 'the embedded model'}"):
        classifier, tokenizer, _ = load(model, any_task=True)
    notices: dict[str, None] = {}
    explained = partial(
        explain,
        model=classifier,
        tokenizer=tokenizer,
        pair=pair,
        position=where,
        mixing=mixing,
        layers=layers,
        methods=chosen,
        target=target,
        against=against,
        baseline=baseline,
        windows=windows,
        answer=answer,
        max_new_tokens=max_new_tokens,
        tell=lambda message: notices.setdefault(message),
    )
    _output(_explanations(wanted, explained), len(wanted), draw, save, html)
    for message in notices:
        if not message.startswith(TRUNCATED):  # truncated texts of all batches are counted below
            note(message)
    limit = token_limit(classifier, tokenizer) if windows is None and chat is None else None
    pairs = None if pair is None else [pair] * len(wanted)
    if limit and (cut := sum(tokenize(wanted, pairs, tokenizer, limit, truncate=False)[1])):
        note(f"{cut} of {len(wanted)} texts truncated at {limit} tokens, the limit of the model")


def _output(
    found: Iterable[Explanation],
    count: int,
    draw: Callable[..., None] | None,
    save: Path | None,
    html: Path | None,
) -> None:
    """Print explanations as they are computed, as JSON if `draw` is None, and write them to files.

    If a page is written for several texts, one line per explanation is printed.
    """
    kept: list[Explanation] = []
    for index, explanation in enumerate(found, start=1):
        if draw is None:
            typer.echo(json.dumps(explanation.to_dict(), allow_nan=False))
        elif html is not None and count > 1:
            text = shorten(explanation.text, 60, placeholder="…")
            typer.echo(printable(f"{index}. {explanation.headline} {text}"))
        else:
            draw(explanation, index=index if count > 1 else None)
        if html is not None or save is not None:
            kept.append(explanation)
    made = Explanations(kept)
    if save is not None:
        write(save, made.save)
        wrote(save)
    if html is not None:
        write(html, made.to_html)
        wrote(html)


def _explanations(
    texts: Sequence[Any], run: Callable[[Sequence[Any]], Sequence[Explanation]]
) -> Iterator[Explanation]:
    """Explain in batches, with a progress bar on standard error if there are several."""
    notes = Console(stderr=True)
    progress = Progress(console=notes, transient=True, disable=not notes.is_terminal or len(texts) <= BATCH)
    task = progress.add_task("Explaining", total=len(texts))
    for start in range(0, len(texts), BATCH):
        # Remove the progress bar while results are printed, because both may share a terminal.
        with progress if len(texts) > BATCH else status("Explaining"), user_errors():
            found = run(texts[start : start + BATCH])
            progress.advance(task, len(texts[start : start + BATCH]))
        yield from found


def _read_texts(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the arguments, with "-" replaced by the lines of standard input."""
    found = False
    for argument in arguments:
        for text in _lines() if argument == "-" else [argument]:
            found = True
            if not text.strip():
                raise CommandError("a text is empty")
            yield text
    if not found:
        raise CommandError("no text to explain: standard input is empty")


def _read_chats(path: Path) -> list[list[dict[str, Any]]]:
    """Return the chats of a JSON file, which holds one list of messages or several.

    Raises:
        CommandError: The file cannot be read, or does not hold chats.
    """
    try:
        with open_text(path) as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"not valid JSON: {error}"
        raise CommandError(f"cannot read {path}: {reason}") from error
    chats = [found] if isinstance(found, list) and found and isinstance(found[0], dict) else found
    if not isinstance(chats, list) or not all(
        isinstance(it, list) and it and all(isinstance(message, dict) for message in it) for it in chats
    ):
        raise CommandError(f'{path} is not a chat, a list such as [{{"role": "user", "content": "..."}}]')
    return chats


def _lines() -> Iterator[str]:
    """Return the lines of standard input that are not blank."""
    if sys.stdin is None:  # closed
        return iter(())
    if sys.stdin.isatty():
        note("reading texts from standard input, one per line; Ctrl-D ends it")
    try:
        # Decode bytes, because the locale's encoding may differ from the file's.
        content = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("standard input is not valid UTF-8") from None
    return (line.rstrip("\r") for line in content.split("\n") if line.strip())


def _explain_files(
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
        raise CommandError(
            "pass an image classifier as --model for --image, or an audio classifier for --audio"
        )
    if picture is not None and (len(files) > 1 or not picture.resolve().parent.is_dir()):
        raise CommandError(f"cannot write {picture}: pass one file to explain and an existing folder")
    chosen = names("method", methods, FILE_METHODS) or None
    with status("Loading torch and transformers"):
        from captum_globenc.media import explain_file, load_media_model

        quiet()
    with status(f"Loading {model}"), user_errors():
        found, processor, missing = load_media_model(model, "image" if images else "sound")
    note_missing(model, missing)
    for path in files:
        try:
            with status("Explaining"), user_errors():
                explanation = explain_file(path, found, processor, methods=chosen, target=target, tell=note)
        except OSError as error:
            raise CommandError(f"cannot read {path}: {error.strerror or error}") from error
        if picture is not None:  # there is only one file
            from captum_globenc.visualization import draw_media

            # With a format, matplotlib adds no ending to the name.
            kind = picture.suffix[1:] or "png"
            write(picture, lambda path: draw_media(explanation).savefig(path, format=kind))  # noqa: B023
            wrote(picture)
        yield explanation
