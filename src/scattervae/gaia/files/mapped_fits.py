"""A few columns of a FITS table that is larger than memory."""

from io import BufferedIOBase, BytesIO
from mmap import ACCESS_READ, mmap

import numpy as np
from astropy.io import fits

from scattervae.errors import DataError
from scattervae.gaia.files.astropy_tables import quiet
from scattervae.gaia.files.columns import Columns, pick
from scattervae.gaia.files.fits_checks import require_end, tables_of

_ROWS = 20_000  # read together: a hundred megabytes of the widest table there is, APOGEE's allStar


def read_mapped_fits(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The wanted columns of the table that has most of them, of equals the first; not those of arrays.

    The table is mapped into memory and walked through once, rows by rows: of its gigabytes only the wanted
    numbers stay. A gzipped file is unpacked in memory first. astropy says where the columns are; its own table
    of a mapped file copies every column when it is closed.

    Raises:
        DataError: The file has no table.
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
        name: _numbers(pieces, columns[name])
        for name, pieces in _pieces(table, picked, buffer).items()
        if pieces[0].ndim == 1
    }
    return Columns.of("FITS", cells, table.columns.names)


def _pieces(
    table: fits.BinTableHDU, picked: dict[str, str], buffer: memoryview | mmap
) -> dict[str, list[np.ndarray]]:
    """Copies of the columns as they are stored, cut into pieces of rows; no view of the buffer is left."""
    n = table.header["NAXIS2"]
    kind = table.columns.dtype.newbyteorder(">")
    rows = np.ndarray(n, dtype=kind, buffer=buffer, offset=table.fileinfo()["datLoc"])
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in picked}
    for start in range(0, max(n, 1), _ROWS):
        for name, own in picked.items():
            pieces[name].append(np.array(rows[own][start : start + _ROWS]))
    return pieces


def _numbers(pieces: list[np.ndarray], column: fits.Column) -> np.ndarray:
    """One column, masked where its header says that a number stands for none, scaled where it says how.

    Source:
        FITS standard 4.0, section 7.3.2: TNULL, TSCAL, TZERO.
    """
    stored = np.concatenate(pieces)
    cells = stored
    if stored.dtype.kind in "iu" and column.bzero == 2**63:  # unsigned numbers, which no float64 holds
        cells = stored.astype(np.uint64) ^ np.uint64(2**63)
    elif stored.dtype.kind in "iuf" and (column.bzero or column.bscale):
        whole = stored.dtype.kind in "iu" and column.bscale in (None, "", 1)
        cells = stored.astype(np.int64 if whole else np.float64) * (column.bscale or 1) + (column.bzero or 0)
    if column.null is None or stored.dtype.kind not in "iu":
        return cells
    return np.ma.MaskedArray(cells, mask=stored == column.null)
