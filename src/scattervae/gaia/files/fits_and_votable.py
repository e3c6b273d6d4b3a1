"""FITS and VOTable: tables of astropy's, in files or in memory, and a few columns of a FITS larger than memory."""

import re
import warnings
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedIOBase, BytesIO
from mmap import ACCESS_READ, mmap

import numpy as np
from astropy.io import fits, votable
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning

from scattervae.errors import DataError
from scattervae.gaia.files.checks import parse_votable, require_end, spend_lists, tables_of
from scattervae.gaia.files.columns import Columns, join, pick, with_spectra
from scattervae.gaia.files.sampled import stated_grid
from scattervae.opening import InMemory, budget_of

_FITS_IN_VOTABLE = re.compile(
    rb"<FITS\b[^>]*>\s*<STREAM\b[^>]*\bencoding\s*=\s*[\"']base64[\"'][^>]*>([^<]*)</STREAM>"
)


def read_fits(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The first table extension that holds an identifier and spectra, else the first."""
    require_end(stream)
    with quiet(), fits.open(stream, memmap=False, disable_image_compression=True) as hdus:
        tables = []
        for hdu in tables_of(hdus, stream):
            spend_lists(hdu, stream)
            tables.append(columns_of_table(Table.read(hdu), wanted, form="archive FITS"))
    if not tables:
        raise DataError("is FITS without a table extension; expected a binary table with a row for each star")
    return with_spectra(tables)[0]


def read_votable(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All tables of the file that hold spectra, joined; binary, plain, or FITS in base64."""
    inside = _fits_inside(stream)
    if inside:
        return join(
            "archive VOTable", [read_fits(InMemory(content, budget_of(stream)), wanted) for content in inside]
        )
    with quiet():
        parsed = parse_votable(stream)
        tables = [_columns_of_votable(table, wanted) for table in parsed.iter_tables() if len(table.fields)]
    if not tables:
        raise DataError(
            "is a VOTable without a table; the archive's answer in it says why the download failed"
        )
    return join("archive VOTable", with_spectra(tables))


def first_table(stream: BufferedIOBase, form: str) -> Table:
    """The first table of a file of this form, ``FITS`` or ``VOTable``, whatever it holds, as astropy has it."""
    with quiet():
        if form == "VOTable":
            found = next((table for table in parse_votable(stream).iter_tables() if len(table.fields)), None)
            if found is not None:
                return found.to_table(use_names_over_ids=True)
        else:
            require_end(stream)
            with fits.open(stream, memmap=False, disable_image_compression=True) as hdus:
                for hdu in tables_of(hdus, stream)[:1]:
                    spend_lists(hdu, stream)
                    return Table.read(hdu)
    raise DataError(f"is {form} without a table")


def _fits_inside(stream: BufferedIOBase) -> list[bytes]:
    """The FITS files in a VOTable, which astropy takes from other addresses only.

    Source:
        VOTable 1.4, section 5.3, FITS serialization; STILTS writes it as ``votable-fits-inline``.
    """
    content = stream.read()
    stream.seek(0)
    return [b64decode(found[1]) for found in _FITS_IN_VOTABLE.finditer(content)]


def _columns_of_votable(table: votable.tree.TableElement, wanted: frozenset[str]) -> Columns:
    columns = columns_of_table(table.to_table(use_names_over_ids=True), wanted, form="archive VOTable")
    grid_nm = stated_grid({param.name: param.value for param in table.params})
    return columns if grid_nm is None else replace(columns, grid_nm=grid_nm)


def columns_of_table(table: Table, wanted: frozenset[str], *, form: str = "astropy Table") -> Columns:
    """The wanted columns of an astropy table, with their units and the wavelengths that its metadata give."""
    plain = Table(table, copy=False)
    picked = pick(plain.colnames, wanted)
    cells = {name: _masked_or_plain(plain[own]) for name, own in picked.items()}
    units = {own: plain[own].unit for own in picked.values()}
    columns = Columns.of(form, cells, plain.colnames)
    return columns.with_stated(units, picked, stated_grid(plain.meta))


def _masked_or_plain(column: np.ndarray) -> np.ndarray:
    if isinstance(column, np.ma.MaskedArray):
        return np.ma.MaskedArray(np.asarray(column), mask=np.ma.getmaskarray(column))
    return np.asarray(column)


@contextmanager
def quiet() -> Iterator[None]:
    """Units and standards that the archive bends are not our users' business; a cut-off file is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        warnings.filterwarnings("error", message=".*truncated.*")
        yield


_ROWS = 20_000  # read together: a hundred megabytes of the widest table there is, APOGEE's allStar


def read_mapped_fits(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The wanted columns of the table that has most of them, of equals the first; not those of arrays.

    The table is mapped into memory and walked through once, rows by rows: of its gigabytes only the wanted
    numbers stay. A gzipped file is unpacked in memory first. astropy says where the columns are; its own table
    of a mapped file copies every column when it is closed.
    """
    require_end(stream)
    with quiet(), fits.open(stream, memmap=False, disable_image_compression=True) as hdus:
        tables = tables_of(hdus, stream)
        if not tables:
            raise DataError(
                "is FITS without a table extension; expected a binary table with a row for each star"
            )
        picked = [pick(table.columns.names, wanted) for table in tables]
        best = max(range(len(tables)), key=lambda index: (len(picked[index]), -index))
        buffer = (
            stream.getbuffer()
            if isinstance(stream, BytesIO)
            else mmap(stream.fileno(), 0, access=ACCESS_READ)
        )
        with buffer:
            return _columns(tables[best], picked[best], buffer)


def _columns(table: fits.BinTableHDU, picked: dict[str, str], buffer: memoryview | mmap) -> Columns:
    columns = {name: table.columns[own] for name, own in picked.items()}
    cells = {
        name: _numbers(chunks, columns[name])
        for name, chunks in _stored(table, picked, buffer).items()
        if chunks[0].ndim == 1
    }
    return Columns.of("FITS", cells, table.columns.names)


def _stored(
    table: fits.BinTableHDU, picked: dict[str, str], buffer: memoryview | mmap
) -> dict[str, list[np.ndarray]]:
    """Copies of the columns as they are stored, some rows at a time; no view of the buffer is left."""
    n = table.header["NAXIS2"]
    kind = table.columns.dtype.newbyteorder(">")
    rows = np.ndarray(n, dtype=kind, buffer=buffer, offset=table.fileinfo()["datLoc"])
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in picked}
    for start in range(0, max(n, 1), _ROWS):
        for name, own in picked.items():
            chunks[name].append(np.array(rows[own][start : start + _ROWS]))
    return chunks


def _numbers(chunks: list[np.ndarray], column: fits.Column) -> np.ndarray:
    """One column, masked where its header says that a number stands for none, scaled where it says how.

    Source:
        FITS standard 4.0, section 7.3.2: TNULL, TSCAL, TZERO.
    """
    stored = np.concatenate(chunks)
    cells = stored
    if stored.dtype.kind in "iu" and column.bzero == 2**63:  # unsigned numbers, which no float64 holds
        cells = stored.astype(np.uint64) ^ np.uint64(2**63)
    elif stored.dtype.kind in "iuf" and (column.bzero or column.bscale):
        whole = stored.dtype.kind in "iu" and column.bscale in (None, "", 1)
        cells = stored.astype(np.int64 if whole else np.float64) * (column.bscale or 1) + (column.bzero or 0)
    if column.null is None or stored.dtype.kind not in "iu":
        return cells
    return np.ma.MaskedArray(cells, mask=stored == column.null)
