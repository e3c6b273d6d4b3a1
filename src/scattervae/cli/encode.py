"""``scattervae encode``: stars to a catalogue of latents."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import (
    TABLE_OR_FOLDER,
    AllowSkipped,
    AsJson,
    DeviceName,
    ModelFolder,
    Summary,
    Threads,
    check_out,
    check_skipped,
    choose_device,
    existing,
    listed,
    skipped_rows,
)
from scattervae.display import progress_bar, stderr
from scattervae.errors import DataError, RecipeError, counted

if TYPE_CHECKING:
    from scattervae.gaia.reading import RowTally
    from scattervae.model.checkpoint import Checkpoint
    from scattervae.science.catalogue.encoding import CatalogueSummary, Chunk
    from scattervae.science.catalogue.hats_folder import Engine
    from scattervae.spectra.spectra import Spectra


logger = logging.getLogger(__name__)


class EngineName(StrEnum):
    """Who computes."""

    LOCAL = "local"
    DASK = "dask"


def encode(
    model: ModelFolder,
    inputs: Annotated[
        list[Path],
        typer.Argument(callback=existing, metavar="INPUT", help="Stores or files of spectra."),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help=TABLE_OR_FOLDER)],
    engine: Annotated[
        EngineName, typer.Option(help="Compute on this machine, or on the workers of a Dask cluster.")
    ] = EngineName.LOCAL,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Dask's scheduler; a cluster of its own on this machine if none."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Workers of the cluster on this machine; 0: one a core.")
    ] = 0,
    device: DeviceName = "auto",
    threads: Threads = 0,
    other_basis: Annotated[
        bool,
        typer.Option(
            "--transport",
            help="Express stars of another basis, such as another release's, in the model's own first.",
        ),
    ] = False,
    allow_skipped: AllowSkipped = 0.01,
    as_json: AsJson = False,
) -> None:
    """Write a catalogue, one row a star: latents with errors, log-likelihood, reduced chi^2, KL, scatter, flags;
    labels and an outlier score, where the model's folder has what they need.

    To a file, rows come in the order of the input. To a folder, one store (or any HATS catalogue of
    spectra) becomes a HATS catalogue with the same partitions and positions, which LSDB opens and joins. A
    star that cannot be encoded keeps its row, with NaN and the reason in its flags; a row of a file that cannot be read
    is left out and counted; where these are more than --allow-skipped, the exit code is 3. A star in several inputs is
    flagged DUPLICATE in all but the first. Stars unlike those that the model was trained on are counted in a
    warning, and say so in the column training_flags. If the run is stopped, run the same command again: it resumes.

    Examples:

        scattervae encode model store --out catalogue.parquet

        scattervae encode model a.csv b.fits --out catalogue.parquet

        scattervae encode model store --out catalogue --engine dask --scheduler tcp://node17:8786
    """
    if engine is EngineName.LOCAL and (scheduler or workers):
        raise RecipeError("--scheduler and --workers are Dask's; give --engine dask with them")
    if engine is EngineName.DASK and device not in ("auto", "cpu"):
        raise RecipeError(f"--device {device}: the workers of --engine dask compute on their CPUs")
    if out.suffix and engine is EngineName.DASK:
        raise RecipeError(f"--engine dask writes a HATS catalogue; name a folder instead of {out}")
    if other_basis and not out.suffix:
        raise DataError(f"--transport writes one file; name a file instead of {out}, such as {out}.parquet")
    check_out(out, "catalogue", folders=True)
    from scattervae.gaia.reading import RowTally
    from scattervae.science.trained import load_model

    machine = choose_device("cpu" if engine is EngineName.DASK else device, threads)
    checkpoint = load_model(model).to(machine)
    started, tally = time.perf_counter(), RowTally()
    if out.suffix:
        chunks = (
            _transported(checkpoint, inputs, tally) if other_basis else _chunks(checkpoint, inputs, tally)
        )
        summary = _to_file(checkpoint, inputs, out, chunks)
    else:
        with _chosen(engine, scheduler, workers) as chosen:
            summary = _to_folder(checkpoint, inputs, out, chosen)
    if summary.n_unlike:
        logger.warning("%s", _unlike(summary))
    n_new = summary.n_stars - summary.n_resumed
    speed = n_new / (time.perf_counter() - started)
    resumed = f" ({summary.n_resumed:,} of them by an earlier run)" if summary.n_resumed else ""
    Summary(
        {
            "out": str(out),
            **vars(summary),
            "path": str(out),
            "engine": engine.value,
            "n_rows_skipped": tally.n_skipped,
            "stars_per_second": round(speed) if n_new else None,
        },
        (
            f"encoded {summary.n_encoded:,} of {counted(summary.n_stars, 'star')}{resumed}; "
            f"flags: {listed(summary.flags)}",
            f"wrote {out}{f' at {speed:,.0f} stars/s' if speed >= 1 else ''} with the {engine.value} engine"
            f"{skipped_rows(tally.n_skipped, tally.n_rows)}",
        ),
    ).show(as_json=as_json)
    check_skipped(tally.n_skipped, tally.n_rows, allow_skipped)


def _unlike(summary: "CatalogueSummary") -> str:
    from scattervae.science.catalogue.training_flags import TRAINING_FLAGS, UNLIKE, TrainingFlag

    kinds = {name: n for name, n in summary.training.items() if TrainingFlag[name] & UNLIKE}
    return (
        f"{summary.path}: {summary.n_unlike:,} of {counted(summary.n_stars, 'star')} are unlike those that the model "
        f"was trained on: {listed(kinds)} (column {TRAINING_FLAGS})"
    )


def _to_file(
    checkpoint: "Checkpoint", inputs: list[Path], out: Path, chunks: "Iterator[Chunk]"
) -> "CatalogueSummary":
    from scattervae.files import file_digest
    from scattervae.science.catalogue.encoding import once_each
    from scattervae.science.catalogue.one_file import write_chunks
    from scattervae.spectra.store import SpectrumStore

    digests = [SpectrumStore(p).digest if p.is_dir() else file_digest(p) for p in inputs]
    total = sum(len(SpectrumStore(p)) for p in inputs) if all(p.is_dir() for p in inputs) else None
    with progress_bar("stars") as bar:
        task = bar.add_task("encoding", total=total)
        return write_chunks(
            checkpoint,
            once_each(chunks) if len(inputs) > 1 else chunks,
            out,
            stars_digest=" ".join(digests),
            progress=lambda n: bar.update(task, completed=n),
        )


def _chunks(checkpoint: "Checkpoint", inputs: Iterable[Path], tally: "RowTally") -> "Iterator[Chunk]":
    """The stars of all inputs in order; small files that follow each other share batches."""
    from scattervae.gaia.reading import load_chunks
    from scattervae.science.catalogue.encoding import chunks_of
    from scattervae.spectra.store import SpectrumStore

    for are_folders, paths in groupby(inputs, Path.is_dir):
        if are_folders:
            for path in paths:
                yield from chunks_of(checkpoint, SpectrumStore(path))
        else:
            read = partial(load_chunks, tally=tally, basis=checkpoint.normalization.basis)
            yield from chunks_of(checkpoint, chain.from_iterable(map(read, paths)))


def _transported(checkpoint: "Checkpoint", inputs: list[Path], tally: "RowTally") -> "Iterator[Chunk]":
    """The stars of all inputs in the model's basis; what is lost is printed once for each basis."""
    from scattervae.gaia.reading import load_chunks
    from scattervae.gaia.transport import transport
    from scattervae.science.catalogue.encoding import chunks_of
    from scattervae.science.catalogue.training_flags import TrainingFlag

    printed = set()

    def moved(chunks: "Iterable[Spectra]") -> "Iterator[tuple[TrainingFlag, Spectra]]":
        for chunk in chunks:
            result = transport(chunk, checkpoint.normalization.basis)
            if result.spectra is not chunk and chunk.basis not in printed:
                printed.add(chunk.basis)
                stderr.print(
                    f"{chunk.basis} to {checkpoint.normalization.basis}: {result.loss}", soft_wrap=True
                )
            flag = TrainingFlag(0) if result.spectra is chunk else TrainingFlag.OTHER_RELEASE
            yield flag, result.spectra

    chunks = (load_chunks(path, tally=tally, correlations=True) for path in inputs)
    for known, some in groupby(moved(chain.from_iterable(chunks)), key=itemgetter(0)):
        yield from chunks_of(checkpoint, (spectra for _, spectra in some), known=known)


def _to_folder(
    checkpoint: "Checkpoint", inputs: list[Path], out: Path, engine: "Engine"
) -> "CatalogueSummary":
    from scattervae.science.catalogue.hats_folder import encode_store
    from scattervae.spectra.store import SpectrumStore

    if len(inputs) > 1 or not inputs[0].is_dir():
        raise DataError(
            f"{out}: a folder is written from one store; for other inputs name a file, such as {out}.parquet"
        )
    store = SpectrumStore(inputs[0])
    with progress_bar("stars") as bar:
        task = bar.add_task("encoding", total=len(store))
        return encode_store(
            checkpoint, store, out, engine=engine, progress=lambda n: bar.update(task, completed=n)
        )


@contextmanager
def _chosen(engine: EngineName, scheduler: str | None, workers: int) -> "Iterator[Engine]":
    from scattervae.science.catalogue.dask import DaskEngine, dask_client
    from scattervae.science.catalogue.hats_folder import encode_here

    if engine is EngineName.LOCAL:
        yield encode_here
        return
    with dask_client(scheduler, workers=workers) as client:
        yield DaskEngine(client)
