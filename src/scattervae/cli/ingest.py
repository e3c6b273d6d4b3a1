"""``scattervae ingest``: files of any kind to a store."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import (
    AllowSkipped,
    AsJson,
    ReleaseName,
    Summary,
    check_skipped,
    listed,
    skipped_rows,
    table_lines,
)
from scattervae.display import progress_bar
from scattervae.errors import DataError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scattervae.spectra.store import SpectrumStore

_TABLE_LIMIT = 20
_SOURCE_NAME = "GaiaSource_"
_SMALL_BYTES = 2**25  # files that one process reads before others have started


def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES", help="Files of spectra, of any kind, gzipped or not.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The store's folder; run again, it resumes.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="A table with [Fe/H], [alpha/M], Teff, log g and errors, joined by source_id."),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A gaia_source file, a quoted pattern, or a folder of GaiaSource_* files; may be repeated. "
            "Positions, G flux and quality columns are joined by source_id.",
        ),
    ] = None,
    correlations: Annotated[
        bool, typer.Option("--correlations", help="Also store the correlations of the coefficients.")
    ] = False,
    release: ReleaseName = "DR3",
    basis: Annotated[
        str | None,
        typer.Option(
            metavar="BP+RP",
            help="Ids of the basis to take, as 56+57 of DR3; also that of files that name none. Without it, the basis "
            "of most stars of the first file.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that cannot be read.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", "-j", min=0, metavar="N", help="Processes, a file each; 0 takes one for each CPU."
        ),
    ] = 0,
    allow_skipped: AllowSkipped = 0.01,
    as_json: AsJson = False,
) -> None:
    """Read Gaia files into a store, which trains and encodes faster than the files do.

    The kind of each file is recognised by its content: bulk csv.gz; archive csv, ecsv, FITS or VOTable; DPAC
    avro; the HDF5 mirrors; parquet; sampled spectra, whose coefficients are inferred. Stars that cannot be
    used are kept and flagged; rows and files that cannot be read are counted and named. The exit code is 1
    where a file is missing from the store, 3 where more rows are skipped than --allow-skipped. If the run is
    stopped, run the same command again: it resumes.

    Examples:

        scattervae ingest XpContinuousMeanSpectrum_*.csv.gz --out store

        scattervae ingest xp/Xp*.csv.gz --sources gaia_source/ --out store --workers 16
    """
    from scattervae.gaia.files.reading import read_labels_file
    from scattervae.gaia.ingest import StagedFile
    from scattervae.gaia.ingest import ingest as ingest_files
    from scattervae.spectra.star_tables import parse_ids

    _refuse_source_files(files)
    given = None if labels is None else read_labels_file(labels)
    joined = _source_files(sources or [])
    done: list[StagedFile] = []
    started = time.perf_counter()
    with progress_bar("files", "rate", "file") as bar:
        task = bar.add_task("reading", total=len(files), rate="", file="")

        def show(file: StagedFile) -> None:
            done.append(file)
            n_read = sum(file.entry.n_rows for file in done if file.times is not None)
            rate = n_read / (time.perf_counter() - started)
            last = "" if len(done) < len(files) else "writing the store"
            bar.update(task, advance=1, rate=f"{rate:,.0f} rows/s", file=last or Path(file.entry.name).name)

        store = ingest_files(
            files,
            out,
            labels=given,
            sources=joined,
            correlations=correlations,
            release=release,
            basis=None if basis is None else parse_ids(basis),
            strict=strict,
            workers=workers or _workers_for(files),
            progress=show,
        )
    entries = [file.entry for file in done if file.entry.error is None]
    n_skipped, n_rows = sum(len(entry.skipped) for entry in entries), sum(entry.n_rows for entry in entries)
    _summary(store, n_skipped, n_rows).show(as_json=as_json)
    n_unread = sum(file.entry.error is not None for file in done)
    if n_unread:
        raise DataError(
            f"{n_unread:,} of {counted(len(files), 'file')} could not be read, as said above, and {out} is without "
            "them; mend them and run the same command again"
        )
    first = next((f"{entry.name}: {entry.skipped[0]}" for entry in entries if entry.skipped), "")
    check_skipped(n_skipped, n_rows, allow_skipped, first=first)


def _workers_for(files: "Sequence[Path]") -> int:
    """A process for each CPU, as far as there are files for them and these are large enough to be worth it."""
    from scattervae.parallel import n_cpus

    n_bytes = sum(file.stat().st_size for file in files if file.is_file())
    return 1 if n_bytes < _SMALL_BYTES else max(1, min(len(files), n_cpus()))


def _refuse_source_files(files: "Sequence[Path]") -> None:
    """A pattern after --sources that the shell has replaced by files would be taken for spectra."""
    for file in files:
        if file.name.startswith(_SOURCE_NAME):
            raise DataError(
                f"{file}: a gaia_source file among the spectra; name its folder, or put the pattern in quotes, "
                "after --sources"
            )


def _source_files(given: "Sequence[str]") -> list[Path]:
    """The files that --sources names: as they are, by a pattern, or the GaiaSource_* files of a folder."""
    import glob

    files: list[Path] = []
    for name in given:
        folder = Path(name).is_dir()
        pattern = f"{glob.escape(name)}/**/{_SOURCE_NAME}*" if folder else name
        found = [name] if Path(name).is_file() else sorted(glob.glob(pattern, recursive=True))
        if not found:
            what = f"no {_SOURCE_NAME}* file in this folder" if folder else "no such file"
            raise DataError(
                f"--sources {name}: {what}; give gaia_source files, or a folder or pattern of them"
            )
        files += map(Path, found)
    return files


def _summary(store: "SpectrumStore", n_skipped: int, n_rows: int) -> Summary:
    from scattervae.cli.info import store_values

    entries = store.entries
    if len(entries) > _TABLE_LIMIT:  # only files of which something is missing
        entries = tuple(e for e in entries if e.error or e.skipped or e.n_duplicates)
    rows = [
        (
            Path(e.name).name,
            "not read" if e.error else str(e.kind),
            f"{e.n_rows:,}",
            f"{e.n_kept:,}",
            f"{e.n_duplicates:,}",
            f"{len(e.skipped):,}",
        )
        for e in entries
    ]
    table = table_lines(("file", "kind", "rows", "kept", "duplicates", "unreadable"), rows) if rows else ()
    complete = len(store.entries) - len(entries)
    more = (f"and {counted(complete, 'file')} of which every row was kept",) if complete else ()
    values = {
        "out": str(store.path),
        **store_values(store),
        "n_rows_read": n_rows,
        "n_rows_skipped": n_skipped,
    }
    wrote = f"wrote {store.path}: {counted(len(store), 'star')}, {store.basis}; flags: {listed(store.flags)}"
    return Summary(values, (*table, *more, wrote + skipped_rows(n_skipped, n_rows)))
