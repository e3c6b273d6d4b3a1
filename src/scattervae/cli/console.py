"""What every command shares: its options, its progress bars, its summary, its errors."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from scattervae.display import stderr
from scattervae.errors import DataError, RecipeError, SkippedRowsError, counted
from scattervae.opening import require_local
from scattervae.science.shipped import model_folder

if TYPE_CHECKING:
    import torch


TABLE_FILE = ".parquet, .fits, .vot, .ecsv or .csv"
TABLE_OR_FOLDER = f"A {TABLE_FILE} file, or a name without suffix for the folder of a HATS catalogue."
FORMATS = ("png", "pdf", "svg")
_DEVICES = ("cpu", "cuda", "mps")

Paths = TypeVar("Paths", Path, list[Path], Path | None)


def existing(paths: Paths) -> Paths:
    """The same paths: a callback of arguments that are read, so that a wrong one is named before torch is imported."""
    from scattervae.files import restored

    for path in paths if isinstance(paths, list) else [paths]:
        if path is None:
            continue
        require_local(path)
        if not restored(path).exists():
            raise DataError(f"{path}: does not exist; check the path")
    return paths


def figure_file(path: Path | None) -> Path | None:
    """The same path: a callback of figures that are drawn, as `existing`."""
    if path is not None and path.suffix[1:].lower() not in FORMATS:
        raise DataError(f"{path}: a figure's suffix says its format; give one of .{', .'.join(FORMATS)}")
    return path


def model_folders(paths: list[Path]) -> list[Path]:
    """The folders of models given by folder or name: a callback, as `existing`."""
    return [model_folder(path) for path in paths]


ModelFolder = Annotated[
    Path,
    typer.Argument(
        callback=model_folder, metavar="MODEL", help="A trained model's folder, or a name of `models`."
    ),
]
StarsPath = Annotated[
    Path, typer.Argument(callback=existing, metavar="STORE", help="A store, or any readable file of spectra.")
]
FigureFile = Annotated[
    Path | None,
    typer.Option(callback=figure_file, metavar="FILE", help="Also draw it; png, pdf or svg by its suffix."),
]
ReleaseName = Annotated[
    str,
    typer.Option(
        "--release",
        metavar="NAME|FILE",
        help="The data release: DR3, DR4, or a .toml file that describes one.",
    ),
]
ArchiveUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Another server with the archive's TAP and DataLink.")
]
BulkUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="A mirror laid out as the archive's own bulk server.")
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Passes over the stars; the recipe's where not given."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
AllowSkipped = Annotated[
    float,
    typer.Option(
        "--allow-skipped",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Share of rows that may be left out because they cannot be read; beyond it the exit code is 3.",
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads", min=0, max=4096, metavar="N", help="CPU threads; 0 takes what the machine has."
    ),
]
DeviceName = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="cpu, cuda or mps; auto takes cuda where there is one."),
]


@dataclass(frozen=True)
class Summary:
    """What a command did: lines for people, values for programs."""

    values: Mapping[str, Any]  # JSON values; source_ids as strings
    lines: tuple[str, ...]  # the same for people

    def show(self, *, as_json: bool) -> None:
        """Print it on stdout."""
        if as_json:
            from scattervae.files import json_values

            sys.stdout.write(json.dumps(json_values(self.values), indent=2, allow_nan=False) + "\n")
        else:
            sys.stdout.write("".join(line + "\n" for line in self.lines))


class _OneLine(logging.Handler):
    """Each record as one line on stderr, above the progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        message = " ".join(record.getMessage().split())
        stderr.print(f"scattervae: {kind}{message}", markup=False, highlight=False, soft_wrap=True)


def log_to_stderr(*, verbose: bool) -> None:
    """Send the package's warnings, and with `verbose` its notes, to stderr."""
    logger = logging.getLogger("scattervae")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    for handler in [h for h in logger.handlers if isinstance(h, _OneLine)]:
        logger.removeHandler(handler)
    logger.addHandler(_OneLine())


def print_stage(what: str) -> None:
    """One line on stderr at the start of each stage of a long command."""
    stderr.print(f"{what} ...", highlight=False)


def choose_device(device: str, threads: int) -> "torch.device":
    """The device to compute on, chosen once; sets the number of CPU threads."""
    if device != "auto" and device.partition(":")[0] not in _DEVICES:
        raise RecipeError(f"--device {device}: no such device; choose auto, {', '.join(_DEVICES)}")
    import torch

    if threads:
        torch.set_num_threads(threads)
    from scattervae.science.trained import device_of

    try:
        return device_of(device)
    except RecipeError as error:
        raise RecipeError(f"--{error}".replace("use device", "use --device")) from error


def note_of(path: Path) -> tuple[str, dict[str, Any]] | None:
    """What a catalogue or generated spectra in parquet say of themselves: their kind and how they were made."""
    from scattervae.spectra.tables import NOTES, notes_at

    return next(((NOTES[key], note) for key, note in notes_at(path).items()), None)


def check_out(out: Path, kind: str, *, folders: bool = False) -> None:
    """Refuse, before any work, a form that we do not write, or to replace what we did not make.

    Args:
        out: A file, or with `folders` also a name without a suffix for a HATS folder, which may hold an unfinished
            result of this kind.
        kind: What is written: catalogue, spectra, crossmatch.
        folders: See `out`.
    """
    from scattervae.spectra.tables import is_scattervae_table, require_form

    if folders and not out.suffix:
        require_form(out, folders=True)
        if out.is_file():
            raise DataError(f"{out}: is a file without a suffix; a name without one is that of a folder")
        if out.is_dir() and any(out.iterdir()):
            note = note_of(out / "dataset" / "_common_metadata")
            if note is None or note[0] != kind:
                raise DataError(f"{out}: exists and is no {kind} of scattervae; give another --out")
        return
    if out.is_dir():
        raise DataError(f"{out}: is a folder; name a file for the {kind}, such as {out / kind}.parquet")
    require_form(out)
    if out.exists() and out.suffix == ".csv":
        raise DataError(f"{out}: exists, and csv does not say who made it; remove it, or give another --out")
    if out.exists() and note_of(out) is None and not is_scattervae_table(out):
        raise DataError(f"{out}: exists and was not made by scattervae; give another --out")


def model_names(models: list[Path]) -> list[str]:
    """A name for each model: its folder's, or the path as given where two folders are called the same."""
    names = [path.resolve().name for path in models]
    return names if len(set(names)) == len(names) else [str(path) for path in models]


def listed(counts: Mapping[str, int]) -> str:
    """Counts by name on one line, without those that are zero."""
    return ", ".join(f"{name} {n:,}" for name, n in counts.items() if n) or "none"


def skipped_rows(n_skipped: int, n_rows: int) -> str:
    """How many rows were skipped, behind the last line of a command; empty where none was."""
    share = f"{100 * n_skipped / max(n_rows, 1):.2g} %"
    return f"; {n_skipped:,} of {counted(n_rows, 'row')} skipped ({share})" if n_skipped else ""


def check_skipped(n_skipped: int, n_rows: int, allowed: float, *, first: str = "") -> None:
    """End with an exit code of its own where a larger share of rows was skipped than is allowed."""
    if n_skipped > allowed * n_rows:
        found = skipped_rows(n_skipped, n_rows).removeprefix("; ")
        why = f"; the first, {first}" if first else ""
        raise SkippedRowsError(f"{found}, more than --allow-skipped {allowed:g}{why}; all else is done")


def table_lines(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """A table as lines of text, first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return tuple(
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    )
