"""``scattervae ingest``: files of any kind to a store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scattervae.cli.console import AsJson, Summary, counted, listed, progress_bar, table_lines

if TYPE_CHECKING:
    from scattervae.spectra.store import SpectrumStore

_TABLE_LIMIT = 20


def ingest(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILES", help="Files of spectra, of any kind, gzipped or not.")
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The store's folder; run again, it goes on.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="A table of Teff, log g, [Fe/H], [alpha/M] and errors, joined by source_id."),
    ] = None,
    correlations: Annotated[
        bool, typer.Option("--correlations", help="Also store the correlations of the coefficients.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first file that cannot be read.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read Gaia files into a store, which trains and encodes faster than the files do.

    The kind of each file is told from its content: bulk csv.gz; archive csv, ecsv, FITS or VOTable; DPAC
    avro; the HDF5 mirrors; parquet; sampled spectra, whose coefficients are inferred. Stars that cannot be
    used are kept and flagged; rows and files that cannot be read are counted and named. Stopped, the same
    command goes on with the next file.

    Example:

        scattervae ingest XpContinuousMeanSpectrum_*.csv.gz --out store
    """
    from scattervae.gaia import intake
    from scattervae.gaia.files import read_labels_file
    from scattervae.spectra.store import FileEntry

    given = None if labels is None else read_labels_file(labels)
    with progress_bar("files", "file") as bar:
        task = bar.add_task("reading", total=len(files), file="")

        def done(entry: FileEntry) -> None:
            bar.update(task, advance=1, file=Path(entry.name).name)

        store = intake.ingest(
            files, out, labels=given, correlations=correlations, strict=strict, progress=done
        )
    _summary(store).show(as_json=as_json)


def _summary(store: "SpectrumStore") -> Summary:
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
    values = {"out": str(store.path), **store_values(store)}
    wrote = f"wrote {store.path}: {counted(len(store), 'star')}, {store.basis}; flags: {listed(store.flags)}"
    return Summary(values, (*table, *more, wrote))
