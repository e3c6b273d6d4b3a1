"""What a FITS file says of itself held against what it holds, before its tables are made: sizes and checksums."""

import re
from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np
from astropy.io import fits

from scattervae.errors import DataError
from scattervae.opening import Budget, budget_of

_HDU_BYTES = 100_000  # what astropy makes of a header
_LIST_BYTES = 250  # and of a list in a row
_NUMBER_BYTES = 16
_BLOCK = 2**22
_CARD = 80
_LONGEST_HEADER = 2880 * 500  # 18,000 cards; that of APOGEE's allStar has 1,000
_ALL_ONES = 2**32 - 1


def tables_of(hdus: fits.HDUList, stream: BufferedIOBase) -> list[fits.BinTableHDU]:
    """The binary tables of a file, their sizes within its budget, their checksums verified where they have any.

    Raises:
        DataError: A table is not as it was written, or claims more than the file can hold.
    """
    budget, tables = budget_of(stream), []
    for number, hdu in enumerate(_with_headers_that_end(hdus, stream)):
        budget.spend(_HDU_BYTES)
        if isinstance(hdu, fits.BinTableHDU):
            _spend(hdu, budget)
            tables.append(hdu)
        _verify(hdu, number, stream)
    return tables


def _with_headers_that_end(hdus: fits.HDUList, stream: BufferedIOBase) -> Iterator[fits.PrimaryHDU]:
    """The HDUs, each read when the header before it has been seen to end: astropy would parse gigabytes of it."""
    for hdu in hdus:
        yield hdu
        place = hdu.fileinfo()
        require_end(stream, place["datLoc"] + place["datSpan"])


def require_end(stream: BufferedIOBase, start: int = 0) -> None:
    """Refuse a header without an end in its first megabytes; the stream is left at its start."""
    stream.seek(start)
    header = stream.read(_LONGEST_HEADER)
    stream.seek(start)
    cards = (header[place : place + _CARD] for place in range(0, len(header), _CARD))
    if len(header) == _LONGEST_HEADER and not any(card.rstrip() == b"END" for card in cards):
        raise DataError(f"has a header of more than {_LONGEST_HEADER} bytes; expected columns of spectra")


def spend_lists(table: fits.BinTableHDU, stream: BufferedIOBase) -> None:
    """Count the lists of variable length, of which many may share a place in the heap.

    Source:
        FITS standard 4.0, section 7.3.5: a descriptor has the length of the list, then its place in the heap.
    """
    lists = _lists(table)
    if not lists:
        return
    n, width = table.header["NAXIS2"], table.header["NAXIS1"]
    stream.seek(table.fileinfo()["datLoc"])
    content = stream.read(n * width)
    if len(content) < n * width:
        raise DataError("is cut off: it is truncated in a table; download it again")
    rows = np.frombuffer(content, dtype=table.columns.dtype.newbyteorder(">"))
    for name in lists:
        lengths = rows[name][:, 0].astype(np.float64)
        if (lengths < 0).any():
            raise DataError(f"column {name} has a list of negative length; download the file again")
        budget_of(stream).spend(int(lengths.sum()) * _NUMBER_BYTES)


def _lists(table: fits.BinTableHDU) -> list[str]:
    """Columns of lists of variable length."""
    return [column.name for column in table.columns if re.match(r"\d*[PQ]", str(column.format))]


def _spend(table: fits.BinTableHDU, budget: Budget) -> None:
    n, width = table.header["NAXIS2"], table.header["NAXIS1"]
    budget.spend(n * (max(width, 1) + _LIST_BYTES * len(_lists(table))))


def _verify(hdu: fits.PrimaryHDU | fits.BinTableHDU, number: int, stream: BufferedIOBase) -> None:
    """Compare the sums of an HDU with those that its header states.

    Source:
        FITS standard 4.0, section 4.4.2.7 and appendix J: ones' complement sums of 32-bit words; that of a whole
        HDU with CHECKSUM is all ones, that of its data is DATASUM.
    """
    checksum, datasum = (str(hdu.header.get(name, "")).strip() for name in ("CHECKSUM", "DATASUM"))
    if not checksum and not datasum:
        return
    place = hdu.fileinfo()
    data = _sum(stream, place["datLoc"], place["datSpan"])
    whole = _folded(_sum(stream, place["hdrLoc"], place["datLoc"] - place["hdrLoc"]) + data)
    if (datasum and datasum != str(data)) or (checksum and whole != _ALL_ONES):
        name = "DATASUM" if datasum and datasum != str(data) else "CHECKSUM"
        raise DataError(f"HDU {number} is not as it was written: its {name} disagrees; download it again")


def _sum(stream: BufferedIOBase, start: int, size: int) -> int:
    stream.seek(start)
    total = 0
    while size > 0:
        block = stream.read(min(size, _BLOCK))
        if not block:
            raise DataError("is cut off: it is truncated in an HDU; download it again")
        size -= len(block)
        words = np.frombuffer(block + bytes(-len(block) % 4), dtype=">u4")
        total = _folded(total + int(words.sum(dtype=np.uint64)))
    return total


def _folded(total: int) -> int:
    while total >> 32:
        total = (total & _ALL_ONES) + (total >> 32)
    return total
