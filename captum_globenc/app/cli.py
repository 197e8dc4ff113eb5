"""The ``captum-globenc`` command line.

Slow imports (torch, transformers) are inside the commands, so that ``--help`` and ``--version`` are fast.
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
from captum_globenc.app.command import CONTEXT, CommandError, ModelsOption, user_errors
from captum_globenc.app.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from captum_globenc.app.evaluate import evaluate_texts
from captum_globenc.app.explain import EXAMPLES as EXPLAIN_EXAMPLES
from captum_globenc.app.explain import explain_texts
from captum_globenc.app.show import show_saved
from captum_globenc.app.summarize import summarize_data
from captum_globenc.extras import install, installed_version
from captum_globenc.results.terminal import printable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Error numbers of a full or failing device."""

# Some versions of Typer have their own copy of Click; this is the class in both cases.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    context_settings=CONTEXT,
    pretty_exceptions_enable=False,
    help="Show which tokens a Hugging Face model used, and which support or oppose its predictions.",
    epilog='Try: captum-globenc explain "The plot is thin, but the acting is simply wonderful."',
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    User errors and output that cannot be written print one line on standard error and return 2. Ctrl-C
    returns 130; a pipe that is closed early returns 1 and prints nothing. Any other exception is a bug of
    this package and keeps its traceback.

    Args:
        arguments: The arguments after the program's name; by default `sys.argv[1:]`.

    Example:
        >>> main(["explain", "--frobnicate"])
        2
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # so that a token outside its encoding raises no error
            stream.reconfigure(errors="replace")
    try:
        status = int(app(arguments, standalone_mode=False) or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader closed the pipe
        _drop_output()
        return 1  # as in Typer and Rich
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
    """Discard buffered output, so that the interpreter does not try to write it at exit."""
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
    """List the supported encoder families, and the unsupported ones with the reason."""
    from captum_globenc.encoders import registered_specs
    from captum_globenc.encoders.registry import UNSUPPORTED

    supported = Table("model type", "modality", "norm order", title="supported", title_justify="left")
    for model_type, spec in sorted(registered_specs().items()):
        supported.add_row(Text(model_type), spec.modality, spec.order)
    unsupported = Table("model type", "reason", title="unsupported", title_justify="left")
    for model_type, reason in sorted(UNSUPPORTED.items()):
        unsupported.add_row(Text(model_type), reason)
    console = Console()
    console.print(supported, unsupported, sep="\n")


@app.command("demo")
def show_demo(
    models: ModelsOption = None,
    any_model: Annotated[
        bool | None,
        typer.Option(
            "--any-model/--no-any-model",
            help="Let visitors load any model. By default only if the address is local; choose "
            "--no-any-model behind a proxy that others can reach.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on; 0.0.0.0 is public.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 7860,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds after which an explanation is stopped.")
    ] = 120.0,
) -> None:
    """Serve a web page that explains texts."""
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise CommandError(f"the web demo needs gradio: {install('demo')}")

    from captum_globenc.demo.page import serve

    try:
        with user_errors():
            serve(
                host,
                port,
                models or (),
                any_model=any_model,
                seconds=seconds,
                started=lambda url: typer.echo(f"GlobEnc is at {url} (Ctrl-C ends it)"),
            )
    except OSError as error:
        raise CommandError(f"cannot listen on {host}, port {port}: {error}") from error
