"""From published files to stars a model can use: read, infer coefficients, find the G flux, store.

`load` gives the stars of one file, table or store; `ingest` writes many files to a store and loses nothing to
one that is broken.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from astropy.table import Table

from scattervae.errors import DataError, ScatterVaeError
from scattervae.folders import file_digest
from scattervae.gaia.basis import g_flux_from_coeffs, require_known
from scattervae.gaia.files import FileContents, SkippedRow, read_file, read_table
from scattervae.gaia.inference import infer_coeffs
from scattervae.spectra.flags import GFluxSource
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import SampledSpectra, Spectra
from scattervae.spectra.store import FileEntry, SpectrumStore, StoreWriter

logger = logging.getLogger(__name__)

Source: TypeAlias = str | Path | Table | pd.DataFrame


@dataclass(frozen=True)
class Stars:
    """The stars of one source, ready for a model.

    Attributes:
        spectra: Stars with their G flux, flagged where they cannot be used.
        labels: Labels of the same stars in the same order, NaN where a star has none.
        kind: What the source was recognised as.
        skipped: Rows that could not be used at all.
        note: How the coefficients came about, where they are not the published ones.
    """

    spectra: Spectra
    labels: StellarLabels
    kind: str
    skipped: tuple[SkippedRow, ...] = ()
    note: str | None = None


def load(source: Source, *, correlations: bool = False) -> Stars:
    """All stars of a store, of a file of any kind, or of a table in memory.

    Coefficients are inferred where the source holds sampled spectra (flag ``INFERRED``). Stars without a G
    flux in the table get it from their coefficients; which of the two is noted for each star.

    Args:
        source: A store's folder, a file, an astropy table or a pandas frame.
        correlations: Also read the correlations of the coefficients, where there are any.

    Raises:
        DataError: The source holds no spectra, or no G flux and a basis that gives none.
        StoreError: The folder is no store.
    """
    if isinstance(source, str | Path):
        if Path(source).is_dir():
            store = SpectrumStore(source)
            return Stars(store.read(), store.labels(), kind="store")
        contents = read_file(source, correlations=correlations)
        where = str(source)
    else:
        contents = read_table(source, correlations=correlations)
        where = contents.kind
    return _ready(contents, where)


def load_chunks(source: str | Path) -> Iterator[Spectra]:
    """The same stars, chunk by chunk: a store is streamed, a file is one chunk.

    Raises:
        DataError: As `load`.
        StoreError: As `load`.
    """
    if Path(source).is_dir():
        yield from SpectrumStore(source).chunks()
    else:
        yield load(source).spectra


def ingest(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    labels: StellarLabels | None = None,
    correlations: bool = False,
    strict: bool = False,
    progress: Callable[[FileEntry], None] | None = None,
) -> SpectrumStore:
    """Write the stars of many files to a store; run again, it goes on where it was stopped.

    A file that was read before (by its digest) is passed over: it keeps the labels it came with. A file that
    cannot be read is noted in the manifest with the reason, and the others are read all the same.

    Args:
        files: Files of any kind that `load` reads; folders are not searched.
        out: The store's folder, new or left by an earlier run.
        labels: Labels of any stars, joined by source_id; where None, those in the files are taken.
        correlations: Also store the correlations of the coefficients.
        strict: Stop at the first file that cannot be read.
        progress: Called with what became of each file.

    Raises:
        StoreError: `out` is something else, or no file gave a star.
        DataError: A file cannot be read, and `strict` is set.
    """
    writer = StoreWriter(out)
    read_before = {entry.digest for entry in writer.entries if entry.error is None}
    n_passed_over = 0
    for file in files:
        entry = _ingest_file(writer, Path(file), labels, correlations=correlations, strict=strict)
        n_passed_over += entry.digest in read_before
        if progress is not None:
            progress(entry)
    if n_passed_over and (labels is not None or correlations):
        logger.warning(
            "%s: %d of %d files were in it already and keep the labels and correlations they came with",
            out,
            n_passed_over,
            len(files),
        )
    return SpectrumStore(out)


def _ingest_file(
    writer: StoreWriter, file: Path, labels: StellarLabels | None, *, correlations: bool, strict: bool
) -> FileEntry:
    digest = ""
    try:
        digest = _digest(file)
        read_before = writer.entry_of(digest)
        if read_before is not None:
            logger.info("%s: in the store already", file)
            return read_before
        stars = load(file, correlations=correlations)
        entry = FileEntry(
            name=str(file),
            digest=digest,
            kind=stars.kind,
            note=stars.note,
            n_rows=len(stars.spectra) + len(stars.skipped),
            skipped=tuple(f"row {row.row}: {row.reason}" for row in stars.skipped),
        )
        return writer.add(entry, stars.spectra, stars.labels if labels is None else labels)
    except ScatterVaeError as error:
        if strict:
            raise
        logger.warning("%s", error)
        return writer.leave_out(FileEntry(name=str(file), digest=digest, error=str(error)))


def _digest(file: Path) -> str:
    if not file.is_file():
        raise DataError(f"{file}: {'is a folder; name its files' if file.is_dir() else 'no such file'}")
    try:
        return file_digest(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be opened: {error.strerror}") from error


def _ready(contents: FileContents, where: str) -> Stars:
    stars, note = contents.stars, None
    if isinstance(stars, SampledSpectra):
        inferred = infer_coeffs(stars)
        stars, note = inferred.spectra, inferred.provenance
    spectra = _with_g_flux(stars, where)
    labels = contents.labels.aligned_to(spectra.source_id)
    return Stars(spectra, labels, contents.kind, contents.skipped, note)


def _with_g_flux(spectra: Spectra, where: str) -> Spectra:
    unknown = spectra.g_flux_source == GFluxSource.NONE
    if not unknown.any():
        return spectra
    try:
        require_known(spectra.basis)
    except DataError as error:
        if unknown.all():
            raise DataError(f"{where}: {error}; give phot_g_mean_flux in the table") from None
        logger.warning(
            "%s: %d of %d stars are flagged: they have no G flux in the table, and %s",
            where,
            int(unknown.sum()),
            len(spectra),
            error,
        )
        return spectra
    return spectra.with_g_flux(g_flux_from_coeffs(spectra), GFluxSource.COEFFICIENTS)
