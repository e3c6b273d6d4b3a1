"""What every command shares: its options, its progress bars, its summary, its errors."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    import torch

    from scattervae.model.train import EpochRecord

stderr = Console(stderr=True)

AsJson = Annotated[
    bool, typer.Option("--json", help="Print a machine-readable summary on stdout instead of text.")
]
Threads = Annotated[
    int, typer.Option("--threads", min=0, help="CPU threads to compute with; 0 takes what the machine has.")
]
DeviceName = Annotated[
    str,
    typer.Option("--device", help="Where to compute: cpu, cuda, mps; auto takes a GPU where there is one."),
]


@dataclass(frozen=True)
class Summary:
    """What a command did: lines for people, values for programs.

    Attributes:
        values: JSON values; source_ids as strings.
        lines: The same for people.
    """

    values: Mapping[str, Any]
    lines: tuple[str, ...]

    def show(self, *, as_json: bool) -> None:
        """Print it on stdout."""
        if as_json:
            sys.stdout.write(json.dumps(self.values, indent=2, allow_nan=False) + "\n")
        else:
            sys.stdout.write("".join(line + "\n" for line in self.lines))


def log_to_stderr(*, verbose: bool) -> None:
    """Send warnings, and with `verbose` the library's notes, to stderr."""
    handler = RichHandler(console=stderr, show_time=False, show_path=False, rich_tracebacks=False)
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[handler]
    )


@contextmanager
def progress_bar(unit: str, *columns: str) -> Iterator[Progress]:
    """A progress bar on stderr, with these fields of the task shown behind it; nothing where no one looks."""
    fields = [TextColumn(f"{{task.fields[{name}]}}") for name in columns]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        *fields,
        console=stderr,
        disable=not stderr.is_terminal,
    ) as progress:
        yield progress


def settle_machine(device: str, threads: int) -> "torch.device":
    """The device to compute on, chosen once; sets the number of CPU threads.

    Raises:
        RecipeError: There is no such device here.
    """
    import torch

    from scattervae.errors import RecipeError

    if threads:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"--device {device}: not to be had here ({reason}); use --device cpu") from error
    return chosen


def table_lines(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """A table as lines of text, first column to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, header_style="")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return tuple(line.rstrip() for line in capture.get().splitlines())


@contextmanager
def epoch_bar(epochs: int, name: str = "training") -> Iterator["Callable[[EpochRecord], None]"]:
    """A progress bar over epochs with the terms of the loss behind it."""
    with progress_bar("epochs", "terms") as bar:
        task = bar.add_task(name, total=epochs, terms="")

        def show(record: "EpochRecord") -> None:
            terms = (
                f"-ELBO {record.negative_elbo:.1f} = chi2 {record.chi2:.1f} "
                f"+ penalty {record.penalty:.1f} + KL {record.kl:.2f} nats"
            )
            bar.update(task, completed=record.epoch, terms=terms)

        yield show
