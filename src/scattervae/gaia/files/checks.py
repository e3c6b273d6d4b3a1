"""FITS and VOTable checked before astropy makes tables of them: sizes, checksums, nothing that lies elsewhere."""

import math
import re
from collections.abc import Iterator
from io import SEEK_END, BufferedIOBase
from xml.parsers import expat

import numpy as np
from astropy.io import fits
from astropy.io.votable import tree
from astropy.utils.xml.iterparser import get_xml_iterator

from scattervae.errors import DataError
from scattervae.opening import Budget, budget_of

_HDU_BYTES = 100_000  # what astropy makes of a header
_LIST_BYTES = 250  # and of a list in a row
_SUMMED_BYTES = 2**22
_CARD = 80
_LONGEST_HEADER = 2880 * 500  # 18,000 cards; that of APOGEE's allStar has 1,000
_ALL_ONES = 2**32 - 1


def tables_of(hdus: fits.HDUList, stream: BufferedIOBase) -> list[fits.BinTableHDU]:
    """The binary tables of a file, their sizes within its budget, their checksums verified where they have any."""
    budget, tables = budget_of(stream), []
    for number, hdu in enumerate(_with_headers_that_end(hdus, stream)):
        budget.spend(_HDU_BYTES)
        if isinstance(hdu, fits.BinTableHDU):
            n, width = hdu.header["NAXIS2"], hdu.header["NAXIS1"]
            budget.spend(n * (max(width, 1) + _LIST_BYTES * len(_lists(hdu))))
            tables.append(hdu)
        _verify(hdu, number, stream)
    return tables


def _with_headers_that_end(hdus: fits.HDUList, stream: BufferedIOBase) -> Iterator[fits.PrimaryHDU]:
    """The HDUs, each read when the header before it has been seen to end: astropy would parse gigabytes of it."""
    for hdu in hdus:
        yield hdu
        found = hdu.fileinfo()
        require_end(stream, found["datLoc"] + found["datSpan"])


def require_end(stream: BufferedIOBase, start: int = 0) -> None:
    """Refuse a header without an end in its first megabytes; the stream is left at its start."""
    stream.seek(start)
    header = stream.read(_LONGEST_HEADER)
    stream.seek(start)
    cards = (header[start : start + _CARD] for start in range(0, len(header), _CARD))
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


def parse_votable(stream: BufferedIOBase) -> tree.VOTableFile:
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
