"""The command ``scattervae``: its commands by name, and every error as one line."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from scattervae import __version__
from scattervae.cli import (
    calibrate,
    compare,
    convert,
    crossmatch,
    demo,
    doctor,
    encode,
    evaluate,
    explore,
    fetch,
    figure,
    generate,
    info,
    ingest,
    label,
    models,
    outliers,
    reproduce,
    scatter,
    star,
    train,
)
from scattervae.cli.console import log_to_stderr
from scattervae.errors import ScatterVaeError, SkippedRowsError

ROWS_SKIPPED = 3
INTERRUPTED = 130
_NO_MEMORY = re.compile("can't allocate memory|out of memory")  # torch's own words, on a CPU and on a GPU

app = typer.Typer(
    name="scattervae",
    help="Learn an unsupervised, generative model of Gaia's BP/RP spectra, and use it on any stars.\n\n"
    "The usual way: ingest files to a store, train a model on it, encode stars to a catalogue.",
    epilog="Try `scattervae demo` first: it trains on real stars and draws them, in about four minutes.",
    rich_markup_mode="markdown",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo.demo,
    star.star,
    models.models,
    models.export,
    models.push,
    ingest.ingest,
    train.train,
    calibrate.calibrate,
    label.label,
    encode.encode,
    crossmatch.crossmatch,
    explore.explore,
    evaluate.evaluate,
    generate.generate,
    compare.compare,
    scatter.scatter,
    outliers.outliers,
    outliers.similar,
    convert.convert,
    info.info,
    doctor.doctor,
    reproduce.reproduce,
):
    app.command()(command)
app.command(epilog=figure.NAMES)(figure.figure)
app.add_typer(fetch.app, name="fetch")


def _print_version(wanted: bool) -> bool:  # noqa: FBT001
    if wanted:
        sys.stdout.write(f"scattervae {__version__}\n")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also say what is being done.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    del version
    log_to_stderr(verbose=verbose)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    With 0 it is done, with 1 it could not be, with 2 it is no command, with 3 it is done but for more rows than may be
    skipped, with 130 it was interrupted.
    """
    try:
        code = typer.main.get_command(app).main(
            args=None if arguments is None else list(arguments), prog_name="scattervae", standalone_mode=False
        )
    except TyperException as error:
        _fail_usage(error)
    except ScatterVaeError as error:
        _fail(str(error), ROWS_SKIPPED if isinstance(error, SkippedRowsError) else 1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a rename that fails names its target second
        where = error.filename2 or error.filename or "the machine"
        _fail(f"{where}: {error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _NO_MEMORY.search(str(error))):
            raise
        _fail(f"not enough memory ({str(error) or 'for what was asked'}); ask for less at a time", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which is also what typer makes of most interrupts
        _fail("stopped; what was finished is kept, and the same command resumes (train: with --resume)", code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail_usage(error: TyperException) -> None:
    """A command line that cannot be understood; one without arguments has printed the help already."""
    context = getattr(error, "ctx", None)
    command = "scattervae" if context is None else context.command_path
    message = error.format_message().rstrip(".")
    if message:
        _fail(f"{message}; see `{command} --help`", error.exit_code)
    sys.exit(error.exit_code)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"scattervae: error: {' '.join(message.split())}\n")
    sys.exit(code)
