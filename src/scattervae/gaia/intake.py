"""From published files to stars a model can use: read, infer coefficients, find the G flux.

`load` gives the stars of one file, table or store; `load_chunks` gives them piece by piece.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from scattervae.errors import DataError, counted
from scattervae.gaia.basis import known_basis
from scattervae.gaia.bulk import is_bulk, read_bulk
from scattervae.gaia.facts import DR3
from scattervae.gaia.files import FileContents, SkippedRow, read_file, read_table
from scattervae.gaia.files.in_memory import TableLike
from scattervae.gaia.g_flux import GFluxes
from scattervae.gaia.inference import infer_coeffs
from scattervae.spectra.bases import BasisIds, SeveralBasesError, check_taken, is_of
from scattervae.spectra.labels import LABEL_NAMES, StellarLabels
from scattervae.spectra.partition_file import is_partition_file, read_partition_file
from scattervae.spectra.sources import DataRelease, SourceColumns
from scattervae.spectra.spectra import Basis, SampledSpectra, Spectra
from scattervae.spectra.store import SpectrumStore

logger = logging.getLogger(__name__)

Source: TypeAlias = str | Path | TableLike
_NO_LABELS = StellarLabels(np.empty(0, dtype=np.int64), *np.empty((2, 0, len(LABEL_NAMES))))


@dataclass(frozen=True)
class Stars:
    """The stars of one source, ready for a model.

    Attributes:
        spectra: Stars with their G flux, flagged where they cannot be used.
        labels: Labels of the same stars in the same order, NaN where a star has none.
        kind: What the source was recognised as.
        skipped: Rows that could not be used at all.
        note: How the coefficients came about, where they are not the published ones.
        sources: What a file has of ``gaia_source`` for these stars; empty where it has no ra and dec.
    """

    spectra: Spectra
    labels: StellarLabels
    kind: str
    skipped: tuple[SkippedRow, ...] = ()
    note: str | None = None
    sources: SourceColumns = field(default_factory=SourceColumns.empty)


def load(source: Source, *, correlations: bool = False, basis: Basis | BasisIds | None = None) -> Stars:
    """All stars of a store, of a file of any kind, or of a table in memory.

    Coefficients are inferred where the source holds sampled spectra (flag ``INFERRED``). Stars without a G
    flux in the table, or with one that their coefficients contradict, get it from their coefficients; which of the
    two is noted for each star.

    Args:
        source: A store's folder, a file, or a table in memory: of astropy, pandas, polars or arrow, astroquery's
            dictionary of lists of tables, or what GaiaXPy's ``calibrate`` returns.
        correlations: Also read the correlations of the coefficients, where there are any.
        basis: The basis to take from a file or table, also for stars that name none; where None, that of most
            stars. Stars of others are among the skipped rows.

    Raises:
        DataError: The source holds no spectra, or no G flux and a basis that gives none; or none of that basis, or
            as many stars of two bases where none is asked for.
        StoreError: The folder is no store.
    """
    basis = known_basis(basis) if isinstance(basis, tuple) else basis
    if isinstance(source, str | Path):
        if os.path.isdir(source):
            store = SpectrumStore(source)
            return Stars(store.read(correlations=correlations), store.labels(), kind="store")
        stars = _joined(list(read_stars(source, correlations=correlations, basis=basis)))
        where = str(source)
    else:
        contents = read_table(source, correlations=correlations, basis=basis)
        where = contents.kind
        stars = _stars_of(contents, where)
    g_fluxes = GFluxes(where)
    spectra = g_fluxes.of(stars.spectra)
    g_fluxes.warn()
    return replace(stars, spectra=spectra)


@dataclass
class RowTally:
    """How many rows of files were read, and how many of them were skipped since they cannot be used."""

    n_rows: int = 0
    n_skipped: int = 0

    def add(self, stars: Stars) -> None:
        self.n_rows += len(stars.spectra) + len(stars.skipped)
        self.n_skipped += len(stars.skipped)


def load_chunks(
    source: str | Path,
    *,
    tally: RowTally | None = None,
    correlations: bool = False,
    basis: Basis | BasisIds | None = None,
) -> Iterator[Spectra]:
    """The same stars, chunk by chunk: a store or a bulk file is streamed, any other file is one chunk.

    Args:
        source: A store's folder or a file.
        tally: Counts the rows of files.
        correlations: Also read the correlations of the coefficients, where there are any.
        basis: As for `load`.

    Raises:
        DataError: As `load`.
        StoreError: As `load`.
    """
    if os.path.isdir(source):
        yield from SpectrumStore(source).chunks(correlations=correlations)
    else:
        g_fluxes = GFluxes(str(source))
        for stars in read_stars(source, correlations=correlations, basis=basis):
            if tally is not None:
                tally.add(stars)
            yield g_fluxes.of(stars.spectra)
        g_fluxes.warn()


def read_stars(
    path: str | Path,
    *,
    correlations: bool = False,
    release: DataRelease = DR3,
    basis: Basis | BasisIds | None = None,
) -> Iterator[Stars]:
    """The stars of a file with the G fluxes that it gives: in chunks where it is a bulk file, else all at once.

    Args:
        path: The file.
        correlations: Also read the correlations of the coefficients, where there are any.
        release: Whose identifiers and magnitudes the file has.

    Raises:
        DataError: The file cannot be read, or holds no spectra.
    """
    path = Path(path)
    is_file = os.path.isfile(path)
    if is_file and is_bulk(path):
        skipped: list[SkippedRow] = []
        for chunk in read_bulk(path, correlations=correlations, basis=basis):
            labels = _NO_LABELS.aligned_to(chunk.spectra.source_id)
            yield Stars(chunk.spectra, labels, "bulk csv", chunk.skipped)
            skipped += chunk.skipped
        if skipped:
            row, reason = skipped[0].row, skipped[0].reason
            logger.warning("%s: %s skipped; row %d: %s", path, counted(len(skipped), "row"), row, reason)
    elif is_file and is_partition_file(path):
        part = read_partition_file(path, correlations=correlations)
        _require_basis(path, part.spectra, basis)
        yield Stars(part.spectra, part.labels, "store partition", sources=part.sources)
    else:
        stars = _stars_of(read_file(path, correlations=correlations, release=release, basis=basis), str(path))
        _require_basis(path, stars.spectra, basis)
        yield stars


def _require_basis(path: Path, spectra: Spectra, wanted: Basis | BasisIds | None) -> None:
    """Refuse stars of which the file settles the basis, not its rows: a store's, or inferred ones."""
    if wanted is not None and not is_of(spectra.basis, wanted):
        try:
            check_taken(spectra.basis, 0, Counter({spectra.basis: len(spectra)}), wanted)
        except SeveralBasesError as error:
            raise error.located(str(path)) from None


def _joined(chunks: Sequence[Stars]) -> Stars:
    if len(chunks) == 1:
        return chunks[0]
    spectra = Spectra.concatenate([chunk.spectra for chunk in chunks])
    skipped = tuple(row for chunk in chunks for row in chunk.skipped)
    return replace(
        chunks[0], spectra=spectra, labels=_NO_LABELS.aligned_to(spectra.source_id), skipped=skipped
    )


def _stars_of(contents: FileContents, where: str) -> Stars:
    stars, note = contents.stars, None
    if isinstance(stars, SampledSpectra):
        try:
            inferred = infer_coeffs(stars)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        stars, note = inferred.spectra, inferred.provenance
    labels = contents.labels.aligned_to(stars.source_id)
    return Stars(stars, labels, contents.kind, contents.skipped, note, contents.sources)
