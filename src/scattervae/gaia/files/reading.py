"""One file or table in, its stars, labels and skipped rows out."""

import csv
import gzip
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
from astropy.io.fits import VerifyError
from astropy.utils.exceptions import AstropyWarning
from fastavro.schema import SchemaParseException

from scattervae.arrays import SourceIds, StarArray, StarMask
from scattervae.errors import DataError, counted, located
from scattervae.gaia.facts import DR3, LABEL_COLUMNS, NO_LABEL, SNR_NAME, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import (
    FileContents,
    assemble,
    assemble_sources,
    read_labels,
    read_source_ids,
    require_columns,
    snr_of,
)
from scattervae.gaia.files.avro import read_avro
from scattervae.gaia.files.cells import identifiers, integers, looks_like_identifier
from scattervae.gaia.files.columns import Columns, Skips, in_archive_units, wanted_columns
from scattervae.gaia.files.fits_and_votable import read_fits, read_mapped_fits, read_votable
from scattervae.gaia.files.sampled import grid_beside, with_id_of_name
from scattervae.gaia.files.tables import (
    TableLike,
    columns_in_memory,
    read_feather,
    read_hdf5,
    read_json,
    read_numpy,
    read_parquet,
)
from scattervae.gaia.files.text import Kind, read_text, recognise, text_lines
from scattervae.opening import open_file, unpacked
from scattervae.spectra.spectra import Basis, Spectra, repeats
from scattervae.spectra.star_tables import (
    SOURCE_COLUMNS,
    BasisIds,
    DataRelease,
    SourceColumns,
    StellarLabels,
    warn_if_unnamed,
)

logger = logging.getLogger(__name__)
_Reader = Callable[[BufferedIOBase, frozenset[str]], Columns]
_READERS: dict[Kind, _Reader] = {
    Kind.VOTABLE: read_votable,
    Kind.AVRO: read_avro,
    Kind.HDF5: read_hdf5,
    Kind.PARQUET: read_parquet,
    Kind.FEATHER: read_feather,
    Kind.NUMPY: read_numpy,
    Kind.JSON: read_json,
    Kind.TEXT: read_text,
}
# What the libraries raise at a file that is cut off or damaged, as fuzzing them shows.
_LIBRARY_ERRORS = (
    ArithmeticError,
    AstropyWarning,
    AttributeError,
    EOFError,
    ExpatError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SchemaParseException,
    SyntaxError,
    TypeError,
    ValueError,
    VerifyError,
    csv.Error,
    pa.ArrowException,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


def read_file(
    path: str | Path,
    *,
    correlations: bool = False,
    release: DataRelease = DR3,
    basis: Basis | BasisIds | None = None,
) -> FileContents:
    """All stars of a file of any kind, recognised by its content; of one basis.

    Args:
        path: bulk or archive csv, ecsv, FITS, VOTable, DPAC avro, HDF5 or parquet, gzipped or not.
        release: Whose identifiers and magnitudes the file has; designations of another are refused.
        basis: The basis to take, also for stars that name none; where None, that of most stars.

    Raises:
        DataError: The file cannot be opened, is damaged, or holds no spectra that can be used.
    """
    path = Path(path)
    with located(path):
        columns = replace(_read_columns(path, wanted_columns(correlations=correlations)), release=release)
        if columns.grid_nm is None and columns.holds_flux and not columns.holds_coeffs:
            columns = replace(columns, grid_nm=grid_beside(path))
        contents = assemble(with_id_of_name(columns, path.name), basis)
    return _with_warning(str(path), contents, basis)


def read_table(
    table: TableLike, *, correlations: bool = False, basis: Basis | BasisIds | None = None
) -> FileContents:
    """All stars of a table in memory with the archive's column names; units that it states are converted.

    Raises:
        DataError: The table holds no spectra that can be used.
    """
    columns = columns_in_memory(table, wanted_columns(correlations=correlations))
    with located(columns.form):
        contents = assemble(columns, basis)
    return _with_warning(columns.form, contents, basis)


def read_labels_file(path: str | Path) -> StellarLabels:
    """The labels in a file of any kind, with or without spectra; one row a star.

    APOGEE's allStar and astroNN's catalogue of it are known by their columns, and cut as their makers do (`ALLSTARS`);
    a FITS table may be larger than memory.
    """
    labels = (name for pair in LABEL_COLUMNS for name in pair)
    cuts = (cut.column for table in ALLSTARS for cut in table.cuts)
    with located(path):
        wanted = frozenset((*SOURCE_ID_NAMES, *labels, SNR_NAME, *cuts))
        return assemble_labels(_read_columns(Path(path), wanted, fits=read_mapped_fits))


def read_sources_file(path: str | Path, *, release: DataRelease = DR3) -> SourceColumns:
    """What a file of any kind has of ``gaia_source``, with or without spectra; one row a star.

    Designations of another release are refused.
    """
    with located(path):
        columns = _read_columns(Path(path), frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS)))
        return assemble_sources(replace(columns, release=release))


def read_ids_file(path: str | Path, *, release: DataRelease = DR3) -> SourceIds:
    """The source_ids in a file, in its order: one a line, or in the identifier's column of a table of any kind.

    One may also read as the archive's designation does, Gaia DR3 5853498713190525696; another release's is refused.
    """
    path = Path(path)
    with located(path):
        ids = _listed_ids(path, release.name)
        if ids is None:
            columns = _read_columns(path, frozenset(SOURCE_ID_NAMES))
            require_columns(columns, "holds no identifiers")
            skips = Skips(len(columns))
            ids = read_source_ids(replace(columns, release=release), skips)[skips.kept]
        if len(ids) == 0:
            raise DataError("holds no source_id")
        return ids


def _listed_ids(path: Path, release: str) -> SourceIds | None:
    """The source_ids of a file with one a line, in its order; None where its first line is something else."""
    with opened(path) as (kind, stream):
        if kind is not Kind.TEXT:
            return None
        lines = [(number, line.strip()) for number, line in text_lines(stream) if not line.startswith("#")]
    texts = np.array([line for _, line in lines], dtype=object)
    if not any(looks_like_identifier(text) for text in texts[:1]):
        return None
    read = identifiers(texts, release=release)
    for row in np.flatnonzero(read.values <= 0):
        why = read.why.get(int(row), "")
        found = f"{texts[row][:40]} is no source_id" if "no integer" in why or not why else why
        raise DataError(f"line {lines[row][0]}: {found}; expected one a line")
    return read.values


def _with_warning(where: str, contents: FileContents, basis: Basis | BasisIds | None) -> FileContents:
    if contents.skipped:
        first, count = contents.skipped[0], len(contents.skipped)
        logger.warning("%s: %s skipped; row %d: %s", where, counted(count, "row"), first.row, first.reason)
    if basis is not None and isinstance(contents.stars, Spectra):
        warn_if_unnamed(where, contents.stars.basis, is_named=contents.is_named)
    return contents


def _read_columns(path: Path, wanted: frozenset[str], *, fits: _Reader = read_fits) -> Columns:
    with opened(path) as (kind, stream):
        reader = fits if kind is Kind.FITS else _READERS[kind]
        return reader(stream, wanted)


@contextmanager
def opened(path: Path) -> Iterator[tuple[Kind, BufferedIOBase]]:
    """The kind of a file, by its content, and what it holds, unpacked; what is wrong with it is one line.

    Raises:
        DataError: It is absent, of no kind that holds a table, cut off or damaged, or what is done with it fails so.
    """
    try:
        with open_file(path) as stream:
            kind = recognise(stream)
            yield kind, stream if kind is Kind.TEXT else unpacked(stream)
    except PermissionError:
        raise DataError("may not be read; check its permissions") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("is cut off or damaged; download it again") from error
    except _LIBRARY_ERRORS as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"cannot be read ({why}); it may be cut off, so download it again") from error


_ANY_BIT = -1


@dataclass(frozen=True)
class Cut:
    """A reason not to trust a row's labels: bits that are set, or an error that is too large or missing."""

    name: str  # what the log calls it
    column: str  # the column it looks at, in lower case
    bits: int = 0  # bits of which none may be set
    limit: float | None = None  # what the value may not exceed; without one where `bits` are given

    def drops(self, columns: Columns) -> StarMask:
        """True for the rows that it drops; none where the table lacks the column."""
        if self.column not in columns:
            return np.zeros(len(columns), dtype=bool)
        if self.limit is not None:
            return ~(columns.numbers(self.column) <= self.limit)
        return np.asarray((integers(columns.cells[self.column]).values & self.bits) != 0)


@dataclass(frozen=True)
class AllStar:
    """A kind of table with a row for each star that APOGEE observed, some stars more than once."""

    name: str
    own_columns: frozenset[str]  # in lower case, which no other table of labels has together
    cuts: tuple[Cut, ...]  # what its makers leave out
    best: str  # of a star's rows that with the highest value of this column is used; the lowest after a minus

    def trusted(self, columns: Columns) -> StarMask:
        """True for rows that pass all cuts and have a label; how many others there are goes to the log."""
        trusted = np.ones(len(columns), dtype=bool)
        counts = []
        for cut in self.cuts:
            dropped = cut.drops(columns) & trusted
            counts.append(f"{cut.name} {int(dropped.sum()):,}")
            trusted &= ~dropped
        labelled = np.any([columns.numbers(name) > NO_LABEL for name, _ in LABEL_COLUMNS], axis=0)
        counts.append(f"no label {int((trusted & ~labelled).sum()):,}")
        logger.info("%s: %s rows; left out: %s", self.name, f"{len(columns):,}", ", ".join(counts))
        return np.asarray(trusted & labelled)

    def worth(self, columns: Columns) -> StarArray:
        """How good each row is beside others of the same star."""
        name = self.best.removeprefix("-")
        values = columns.numbers(name)
        return np.asarray(np.nan_to_num(-values if self.best.startswith("-") else values, nan=-np.inf))


ALLSTARS = (
    AllStar(
        name="APOGEE allStar",
        own_columns=frozenset({"aspcapflag", "starflag", "teff"}),
        cuts=(
            Cut("STAR_BAD", "aspcapflag", bits=2**23),
            Cut("M_H_BAD", "aspcapflag", bits=2**19),
            Cut("STARFLAG", "starflag", bits=_ANY_BIT),
        ),
        best="snr",
    ),
    AllStar(
        name="astroNN's APOGEE catalogue",
        own_columns=frozenset({"apogee_id", "nn_parallax", "teff"}),
        cuts=(
            Cut("TEFF_ERR above 100 K", "teff_err", limit=100.0),
            Cut("LOGG_ERR above 0.2 dex", "logg_err", limit=0.2),
            Cut("FE_H_ERR above 0.2 dex", "fe_h_err", limit=0.2),
        ),
        best="-logg_err",
    ),
)
"""SDSS DR17's ``allStar`` (also ``allStarLite``) and astroNN's value-added catalogue ``apogee_astroNN-DR17.fits``.

The rows that allStar marks as repeats of a star (bit 4 of ``EXTRATARG``) are not left out by that mark: it spares
the row with the highest SNR, which may be the one that a cut drops.

Source:
    allStar: the cuts are those of Leung & Bovy (2024), arXiv:2308.10944, github.com/henrysky/astroNN_stars_foundation,
    Dataset_Reduction.ipynb; the bits those of sdss4.org/dr17/irspec/apogee-bitmasks; the mark that of
    github.com/sdss/apogee, ``add_extratarg``. astroNN: the cuts of its makers' own diagnostic figures,
    github.com/henrysky/astroNN_APOGEE_VAC, 6_diagnostic_plots.py; columns by 5_compile_vac.py there.
"""


def allstar_of(names: Sequence[str]) -> AllStar | None:
    """Which of APOGEE's tables has these columns, if any."""
    lower = {name.strip().lower() for name in names}
    return next((table for table in ALLSTARS if table.own_columns <= lower), None)


def assemble_labels(columns: Columns) -> StellarLabels:
    """The labels of a table that need not hold spectra, one row a star, the best where it has several.

    Of APOGEE's own tables only rows that pass their makers' cuts are taken (`ALLSTARS`).
    """
    names = [name for name, _ in LABEL_COLUMNS]
    there = any(name in columns for name in names)
    require_columns(columns, "holds no labels", there=there, more=f" and some of {', '.join(names)}")
    columns = in_archive_units(columns)
    skips = Skips(len(columns))
    source_id = read_source_ids(columns, skips)
    kept, worth = skips.kept, snr_of(columns)
    allstar = allstar_of(columns.names)
    if allstar is not None:
        kept, worth = kept & allstar.trusted(columns), allstar.worth(columns)
    rows = np.flatnonzero(kept)
    return read_labels(columns, source_id, rows=rows[~repeats(source_id[rows], worth[rows])])
