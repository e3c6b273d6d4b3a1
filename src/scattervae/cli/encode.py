"""``scattervae encode``: stars to a catalogue of latents."""

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from scattervae.cli.console import (
    AsJson,
    DeviceName,
    Summary,
    Threads,
    check_out_file,
    listed,
    progress_bar,
    settle_machine,
)


def encode(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A trained model's folder.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Stores or files of spectra.")],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The catalogue, a parquet file.")],
    device: DeviceName = "auto",
    threads: Threads = 0,
    as_json: AsJson = False,
) -> None:
    """Write one row a star: latents with errors, log-likelihood, reduced chi^2, KL, scatter, flags.

    Rows come in the order of the input. A star that cannot be encoded keeps its row, with NaN and the reason
    in its flags. Stopped, the same command goes on where it was.

    Examples:

        scattervae encode model store --out catalogue.parquet

        scattervae encode model a.csv b.fits --out catalogue.parquet
    """
    from scattervae.folders import file_digest
    from scattervae.gaia import intake
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.catalogue import write_catalogue
    from scattervae.spectra.store import SpectrumStore

    check_out_file(out, "catalogue")
    machine = settle_machine(device, threads)
    checkpoint = Checkpoint.load(model).to(machine)
    digests = [SpectrumStore(p).digest if p.is_dir() else file_digest(p) for p in inputs]
    total = sum(len(SpectrumStore(p)) for p in inputs) if all(p.is_dir() for p in inputs) else None
    with progress_bar("stars") as bar:
        task = bar.add_task("encoding", total=total)
        summary = write_catalogue(
            checkpoint,
            chain.from_iterable(map(intake.load_chunks, inputs)),
            out,
            stars_digest=" ".join(digests),
            progress=lambda n: bar.update(task, completed=n),
        )
    resumed = f" ({summary.n_resumed:,} of them by an earlier run)" if summary.n_resumed else ""
    Summary(
        {"out": str(out), **vars(summary), "path": str(out)},
        (
            f"encoded {summary.n_encoded:,} of {summary.n_stars:,} stars{resumed}; "
            f"flags: {listed(summary.flags)}",
            f"wrote {out}",
        ),
    ).show(as_json=as_json)
