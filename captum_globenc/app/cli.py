"""The ``captum-globenc`` command: explanations in the terminal, as JSON lines or as a page; evaluations.

What costs time to import (torch, transformers) is imported inside the commands, so that
``--help`` and ``--version`` answer at once.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from captum_globenc.app.attribute import attribute_data
from captum_globenc.app.command import CONTEXT, CommandError, ModelsOption
from captum_globenc.app.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from captum_globenc.app.evaluate import evaluate_texts
from captum_globenc.app.explain import EXAMPLES as EXPLAIN_EXAMPLES
from captum_globenc.app.explain import explain_texts
from captum_globenc.app.show import show_saved
from captum_globenc.app.summarize import summarize_data
from captum_globenc.errors import LoadingError
from captum_globenc.extras import install, installed_version
from captum_globenc.results.terminal import printable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What writing fails with where there is no room, or no device."""

# Typer carries its own copy of Click, which some versions do not: this is the class in both.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
    help="Show which tokens a Hugging Face model used, and what speaks for and against its answers.",
    epilog='Try: captum-globenc explain "The plot is thin, but the acting is simply wonderful."',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Mistakes of the user's, and output that cannot be written, end with one line on standard error and
    status 2, Ctrl-C with 130, a pipe that is closed early silently with 1.
    Any other exception is a bug of this package and keeps its traceback.

    Args:
        arguments: The arguments after the program's name; left out, those of the process.

    Example:
        >>> main(["explain", "--frobnicate"])
        2
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a token that it cannot encode is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        status = int(app(arguments, standalone_mode=False) or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read has read enough
        _drop_output()
        return 1  # as Typer and Rich have it
    except OSError as error:
        if error.filename is not None or error.errno not in FULL:
            raise
        _drop_output()
        message = f"cannot write the output: {error.strerror}"
    except USAGE_ERROR as error:
        message = cast("typer.BadParameter", error).format_message()
    except CommandError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    typer.echo(f"error: {printable(' '.join(message.split()))}", err=True)
    return 2


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter does not try again as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"captum-globenc {installed_version()}")
        raise typer.Exit


app.command("explain", epilog=EXPLAIN_EXAMPLES)(explain_texts)
app.command("show")(show_saved)
app.command("evaluate", epilog=EVALUATE_EXAMPLES)(evaluate_texts)
app.command("attribute")(attribute_data)
app.command("summarize")(summarize_data)


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("encoders")
def list_encoders() -> None:
    """List the families of encoders that are supported, and those that are refused with the reason."""
    from captum_globenc.encoders import registered_specs
    from captum_globenc.encoders.registry import UNSUPPORTED

    supported = Table("model type", "modality", "norm order", title="supported", title_justify="left")
    for model_type, spec in sorted(registered_specs().items()):
        supported.add_row(Text(model_type), spec.modality, spec.order)
    refused = Table("model type", "why not", title="refused", title_justify="left")
    for model_type, reason in sorted(UNSUPPORTED.items()):
        refused.add_row(Text(model_type), reason)
    console = Console()
    console.print(supported, refused, sep="\n")


@app.command("demo")
def show_demo(
    models: ModelsOption = None,
    any_model: Annotated[
        bool | None,
        typer.Option(
            "--any-model/--no-any-model",
            help="Load whatever visitors name. Left out: on an address of this machine alone; say no where "
            "a proxy opens it to others.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0 opens it to the network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 7860,
    seconds: Annotated[
        float, typer.Option(min=1, help="How long an answer may take until it is given up.")
    ] = 120.0,
) -> None:
    """Explain texts in the browser, on a page that this machine serves."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise CommandError(f"the web demo needs gradio: {install('demo')}")

    from captum_globenc.demo.page import serve

    try:
        serve(
            host,
            port,
            models or (),
            any_model=any_model,
            seconds=seconds,
            started=lambda url: typer.echo(f"GlobEnc is at {url} (Ctrl-C ends it)"),
        )
    except LoadingError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error}") from error
