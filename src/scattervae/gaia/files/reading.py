"""One file or table in, its stars, labels and skipped rows out."""

import csv
import gzip
import logging
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
from astropy.io.fits import VerifyError
from astropy.utils.exceptions import AstropyWarning
from fastavro.schema import SchemaParseException

from scattervae.arrays import SourceIds
from scattervae.errors import DataError, counted, located
from scattervae.gaia.facts import DR3, LABEL_COLUMNS, SNR_NAME, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import (
    FileContents,
    assemble,
    assemble_ids,
    assemble_labels,
    assemble_sources,
)
from scattervae.gaia.files.avro import read_avro
from scattervae.gaia.files.columns import Columns, wanted_columns
from scattervae.gaia.files.fits_and_votable import read_fits, read_mapped_fits, read_votable
from scattervae.gaia.files.hdf5 import read_hdf5
from scattervae.gaia.files.rows import identifiers, label_flags, looks_like_identifier
from scattervae.gaia.files.sampled import grid_beside, with_id_of_name
from scattervae.gaia.files.tables import (
    TableLike,
    columns_in_memory,
    read_feather,
    read_json,
    read_numpy,
    read_parquet,
)
from scattervae.gaia.files.text import Kind, read_text, recognise, text_lines
from scattervae.opening import open_file, unpacked
from scattervae.spectra.bases import BasisIds, warn_if_unnamed
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.star_tables import SOURCE_COLUMNS, DataRelease, SourceColumns, StellarLabels

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

    APOGEE's allStar and astroNN's catalogue of it are known by their columns, and cut as their makers do
    (`scattervae.gaia.files.rows`); a FITS table may be larger than memory.

    Raises:
        DataError: The file cannot be opened, is damaged, or holds no labels.
    """
    labels = (name for pair in LABEL_COLUMNS for name in pair)
    with located(path):
        wanted = frozenset((*SOURCE_ID_NAMES, *labels, SNR_NAME, *label_flags()))
        return assemble_labels(_read_columns(Path(path), wanted, fits=read_mapped_fits))


def read_sources_file(path: str | Path, *, release: DataRelease = DR3) -> SourceColumns:
    """What a file of any kind has of ``gaia_source``, with or without spectra; one row a star.

    Designations of another release are refused.

    Raises:
        DataError: The file cannot be opened, is damaged, or holds no positions.
    """
    with located(path):
        columns = _read_columns(Path(path), frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS)))
        return assemble_sources(replace(columns, release=release))


def read_ids_file(path: str | Path, *, release: DataRelease = DR3) -> SourceIds:
    """The source_ids in a file, in its order: one a line, or in the identifier's column of a table of any kind.

    One may also read as the archive's designation does, Gaia DR3 5853498713190525696; another release's is refused.

    Raises:
        DataError: The file cannot be opened, is damaged, or holds no identifiers.
    """
    path = Path(path)
    with located(path):
        ids = _listed_ids(path, release.name)
        if ids is None:
            columns = _read_columns(path, frozenset(SOURCE_ID_NAMES))
            ids = assemble_ids(replace(columns, release=release))
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
    except FileNotFoundError:
        raise DataError("does not exist; check the path") from None
    except PermissionError:
        raise DataError("may not be read; check its permissions") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError("is cut off or damaged; download it again") from error
    except _LIBRARY_ERRORS as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"cannot be read ({why}); it may be cut off, so download it again") from error
