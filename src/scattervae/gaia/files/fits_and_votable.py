"""FITS and VOTable: tables of astropy's, in files or in memory, and a few columns of a FITS larger than memory.

Before astropy makes tables of a file, sizes and checksums are checked, and that nothing lies elsewhere.
"""

import math
import re
import warnings
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import SEEK_END, BufferedIOBase, BytesIO
from mmap import ACCESS_READ, mmap
from xml.parsers import expat

import numpy as np
from astropy.io import fits
from astropy.io.votable import tree
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from astropy.utils.xml.iterparser import get_xml_iterator

from scattervae.errors import DataError
from scattervae.gaia.files.columns import Columns, join, pick, with_spectra
from scattervae.gaia.files.sampled import stated_grid
from scattervae.opening import Budget, InMemory, budget_of

_FITS_IN_VOTABLE = re.compile(
    rb"<FITS\b[^>]*>\s*<STREAM\b[^>]*\bencoding\s*=\s*[\"']base64[\"'][^>]*>([^<]*)</STREAM>"
)


def read_fits(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """The first table extension that holds an identifier and spectra, else the first."""
    with _tables_of_fits(stream) as tables:
        read = [columns_of_table(_table_of(hdu, stream), wanted, form="archive FITS") for hdu in tables]
    return with_spectra(read)[0]


@contextmanager
def _tables_of_fits(stream: BufferedIOBase) -> Iterator[list[fits.BinTableHDU]]:
    """The binary tables of a file, checked; one at least."""
    _require_end(stream)
    with quiet(), fits.open(stream, memmap=False, disable_image_compression=True) as hdus:
        tables = _checked_tables(hdus, stream)
        if not tables:
            raise DataError(
                "is FITS without a table extension; expected a binary table with a row for each star"
            )
        yield tables


def read_votable(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All tables of the file that hold spectra, joined; binary, plain, or FITS in base64."""
    inside = _fits_inside(stream)
    if inside:
        return join(
            "archive VOTable", [read_fits(InMemory(content, budget_of(stream)), wanted) for content in inside]
        )
    with quiet():
        parsed = _parse_votable(stream)
        tables = [_columns_of_votable(table, wanted) for table in parsed.iter_tables() if len(table.fields)]
    if not tables:
        raise DataError(
            "is a VOTable without a table; the archive's answer in it says why the download failed"
        )
    return join("archive VOTable", with_spectra(tables))


def first_table(stream: BufferedIOBase, form: str) -> Table:
    """The first table of a file of this form, ``FITS`` or ``VOTable``, whatever it holds, as astropy has it."""
    if form == "FITS":
        with _tables_of_fits(stream) as tables:
            return _table_of(tables[0], stream)
    with quiet():
        for table in _parse_votable(stream).iter_tables():
            if len(table.fields):
                return table.to_table(use_names_over_ids=True)
    raise DataError("is VOTable without a table")


def _fits_inside(stream: BufferedIOBase) -> list[bytes]:
    """The FITS files in a VOTable, which astropy takes from other addresses only.

    Source:
        VOTable 1.4, section 5.3, FITS serialization; STILTS writes it as ``votable-fits-inline``.
    """
    content = stream.read()
    stream.seek(0)
    return [b64decode(found[1]) for found in _FITS_IN_VOTABLE.finditer(content)]


def _columns_of_votable(table: tree.TableElement, wanted: frozenset[str]) -> Columns:
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
    with _tables_of_fits(stream) as tables:
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


_HDU_BYTES = 100_000  # what astropy makes of a header
_LIST_BYTES = 250  # and of a list in a row
_SUMMED_BYTES = 2**22
_CARD = 80
_LONGEST_HEADER = 2880 * 500  # 18,000 cards; that of APOGEE's allStar has 1,000
_ALL_ONES = 2**32 - 1


def _checked_tables(hdus: fits.HDUList, stream: BufferedIOBase) -> list[fits.BinTableHDU]:
    """The binary tables of a file, their sizes within its budget, their checksums verified where they have any."""
    budget, tables = budget_of(stream), []
    for number, hdu in enumerate(hdus):
        budget.spend(_HDU_BYTES)
        if isinstance(hdu, fits.BinTableHDU):
            n, width = hdu.header["NAXIS2"], hdu.header["NAXIS1"]
            budget.spend(n * (max(width, 1) + _LIST_BYTES * len(_lists(hdu))))
            tables.append(hdu)
        _verify(hdu, number, stream)
        found = hdu.fileinfo()
        # astropy would parse gigabytes of the next header
        _require_end(stream, found["datLoc"] + found["datSpan"])
    return tables


def _require_end(stream: BufferedIOBase, start: int = 0) -> None:
    """Refuse a header without an end in its first megabytes; the stream is left at its start."""
    stream.seek(start)
    header = stream.read(_LONGEST_HEADER)
    stream.seek(start)
    cards = (header[start : start + _CARD] for start in range(0, len(header), _CARD))
    if len(header) == _LONGEST_HEADER and not any(card.rstrip() == b"END" for card in cards):
        raise DataError(f"has a header of more than {_LONGEST_HEADER} bytes; expected columns of spectra")


def _table_of(table: fits.BinTableHDU, stream: BufferedIOBase) -> Table:
    """The table as astropy has it, its lists of variable length counted: many may share a place in the heap.

    Source:
        FITS standard 4.0, section 7.3.5: a descriptor has the length of the list, then its place in the heap.
    """
    lists = _lists(table)
    if not lists:
        return Table.read(table)
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
    return Table.read(table)


def _lists(table: fits.BinTableHDU) -> list[str]:
    """Columns of lists of variable length."""
    return [column.name for column in table.columns if re.match(r"\d*[PQ]", str(column.format))]


def _verify(hdu: fits.PrimaryHDU | fits.BinTableHDU, number: int, stream: BufferedIOBase) -> None:
    """Compare the sums of an HDU with those that its header states.

    Source:
        FITS standard 4.0, section 4.4.2.7 and appendix J: ones' complement sums of 32-bit words; that of a whole
        HDU with CHECKSUM is all ones, that of its data is DATASUM.
    """
    checksum, datasum = (str(hdu.header.get(name, "")).strip() for name in ("CHECKSUM", "DATASUM"))
    if not checksum and not datasum:
        return
    found = hdu.fileinfo()
    data = _sum(stream, found["datLoc"], found["datSpan"])
    whole = _folded(_sum(stream, found["hdrLoc"], found["datLoc"] - found["hdrLoc"]) + data)
    wrong = ["DATASUM"] * (datasum not in ("", str(data))) + ["CHECKSUM"] * (
        checksum != "" and whole != _ALL_ONES
    )
    if wrong:
        raise DataError(f"HDU {number} is not as it was written: its {wrong[0]} disagrees; download it again")


def _sum(stream: BufferedIOBase, start: int, size: int) -> int:
    stream.seek(start)
    total = 0
    while size > 0:
        block = stream.read(min(size, _SUMMED_BYTES))
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


Event = tuple[bool, str, dict[str, str] | str, tuple[int, int]]

_ELEMENT_BYTES, _ROW_BYTES, _CELL_BYTES = 1000, 200, 100  # what astropy makes of each, measured
_NUMBER_BYTES = 16
_LENGTH_BYTES = 4
_FIRST_ROWS = 512  # for which astropy makes room before it has seen one
_BLOCK = 2**16
_GROWTH = 5  # of the text of one element


def _parse_votable(stream: BufferedIOBase) -> tree.VOTableFile:
    """The file as astropy parses it, within its budget."""
    size = stream.seek(0, SEEK_END)
    stream.seek(0)
    budget_of(stream).spend(_GROWTH * size)
    _refuse_entities(stream)
    config: dict[str, object] = dict.fromkeys(
        ("filename", "columns", "table_number", "table_id", "unit_format")
    )
    config |= {"invalid": "exception", "verify": "ignore", "datatype_mapping": {}}
    config["chunk_size"] = tree.DEFAULT_CHUNK_SIZE
    with get_xml_iterator(stream) as events:
        watched = _Watch(budget_of(stream)).all(events)
        return tree.VOTableFile(config=config, pos=(1, 1)).parse(watched, config)


def _refuse_entities(stream: BufferedIOBase) -> None:
    """Entities may name files, and stand for each other; no VOTable needs them.

    Source:
        XML 1.0, section 4.2: they are declared before the root element.
    """
    parser, at_root = expat.ParserCreate(), False

    def refuse(*_: object) -> None:
        raise DataError("is XML that defines entities, which is not done here; write it without <!ENTITY")

    def stop(*_: object) -> None:
        nonlocal at_root
        at_root = True

    parser.EntityDeclHandler, parser.StartElementHandler = refuse, stop
    while not at_root and (block := stream.read(_BLOCK)):
        parser.Parse(block)
    stream.seek(0)


class _Watch:
    """Counts what astropy is about to make of each element."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._new_table(0)

    def all(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events, each looked at before it is handed on."""
        for event in events:
            start, tag, data, _ = event
            if isinstance(data, dict):
                self._begin(tag, data)
            elif tag in ("TD", "STREAM"):
                self._budget.spend(self._content_bytes(tag, len(data)))
            assert start == isinstance(data, dict), "as astropy's parser has it"
            yield event

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        if "href" in attributes and tag != "LINK":
            raise DataError(
                f"has its data elsewhere ({tag} href={attributes['href'][:80]!r}), which is not opened; "
                "write the table with its data inside, as BINARY2"
            )
        if tag == "TABLE":
            self._new_table(int(attributes.get("nrows", "0")))
        elif tag == "FIELD":
            self._add_field(attributes.get("arraysize", "1"))
        elif tag == "DATA":
            self._budget.spend(max(self._n_rows, _FIRST_ROWS) * self._width)
        sizes = {"TR": _ROW_BYTES + 2 * self._width, "TD": _CELL_BYTES}
        self._budget.spend(sizes.get(tag, _ELEMENT_BYTES))

    def _new_table(self, n_rows: int) -> None:
        self._n_rows = n_rows
        self._width = 0  # of a row in memory
        self._least = 0  # bytes that a row takes in a binary stream
        self._n_lists = 0

    def _add_field(self, arraysize: str) -> None:
        """Count a column, of which a row takes no less than one byte.

        Source:
            VOTable 1.4, section 2.2: ``arraysize="64x10*"``; the last dimension may vary.
        """
        n_values = math.prod(int(size) for size in re.findall(r"\d+(?!\d*\*)", arraysize))
        if n_values == 0:
            raise DataError(f"has a FIELD with arraysize {arraysize[:20]!r}; expected a size above 0")
        varies = "*" in arraysize
        self._budget.spend(n_values * _NUMBER_BYTES)
        self._n_lists += varies
        self._width += _NUMBER_BYTES if varies else n_values * _NUMBER_BYTES
        self._least += _LENGTH_BYTES if varies else n_values

    def _content_bytes(self, tag: str, n_characters: int) -> int:
        if tag == "TD":
            return n_characters
        row = _ROW_BYTES + _CELL_BYTES * self._n_lists
        return 3 * n_characters + n_characters * row // max(self._least, 1)
