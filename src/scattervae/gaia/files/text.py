"""Kinds of files by their first bytes; csv, ECSV and their like: one star a line, arrays as quoted text."""

import codecs
import csv
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from io import BufferedIOBase, BytesIO, StringIO, TextIOWrapper
from typing import IO, NamedTuple, cast

import numpy as np
from astropy.table.meta import YamlParseError, get_header_from_yaml

from scattervae.arrays import Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.files.columns import Columns, SkippedRow, object_array, pick
from scattervae.gaia.files.sampled import stated_grid
from scattervae.opening import BROKEN_LINE_BYTES, CELL_BYTES, LINE_BYTES, LONGEST_LINE, budget_of

_LONGEST_NAMES = 2**18  # characters
_LONGEST_HEADER = 20_000  # lines; the archive's headers have a few hundred
_KIND_BYTES = 65536


class Kind(Enum):
    """The forms that spectra are published in."""

    TEXT = "csv or ecsv"
    FITS = "FITS"
    VOTABLE = "VOTable"
    AVRO = "avro"
    HDF5 = "HDF5"
    PARQUET = "parquet"
    FEATHER = "feather"
    NUMPY = "npz"
    JSON = "JSON"


_SIGNATURES = {
    b"SIMPLE  =": Kind.FITS,
    b"\x89HDF\r\n\x1a\n": Kind.HDF5,
    b"PAR1": Kind.PARQUET,
    b"Obj\x01": Kind.AVRO,
    b"ARROW1": Kind.FEATHER,
    b"\x93NUMPY": Kind.NUMPY,
}
_REFUSED = {
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard; unpack it first",
    b"\x80\x04\x95": "a pickle, which may run anything when it is opened; write the table to parquet",
    b"\x80\x05\x95": "a pickle, which may run anything when it is opened; write the table to parquet",
}
_ZIP = b"PK\x03\x04"
_EXPECTED = "expected csv, ecsv, FITS, VOTable, avro, HDF5, parquet, feather, npz or JSON"


def recognise(stream: BufferedIOBase) -> Kind:
    """The kind of a file; the stream is left at its start."""
    head = stream.read(_KIND_BYTES)
    stream.seek(0)
    for signature, kind in _SIGNATURES.items():
        if head.startswith(signature):
            return kind
    for signature, found in _REFUSED.items():
        if head.startswith(signature):
            raise DataError(f"is {found}")
    if head.startswith(_ZIP):
        return _recognise_zip(head)
    return _recognise_text(head)


def _recognise_text(head: bytes) -> Kind:
    start = head.decode(encoding_of(head), errors="replace").lstrip()
    if not start:
        raise DataError("is empty; download it again")
    if start.startswith("<"):
        return _recognise_markup(start.lower())
    if start.startswith(("{", "[")):
        return Kind.JSON
    if "\x00" in start:
        raise DataError(f"is of an unknown binary kind; {_EXPECTED}")
    return Kind.TEXT


def _recognise_zip(head: bytes) -> Kind:
    """By the name of its first member. Source: PKWARE's APPNOTE.TXT 6.3, section 4.3.7."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")].decode(errors="replace")
    if name.endswith(".npy"):
        return Kind.NUMPY
    if name.startswith(("[Content_Types]", "xl/", "docProps/", "_rels/")):
        raise DataError("is a workbook of Excel's; save the sheet as csv")
    raise DataError("is a zip archive; unpack it and pass the files inside")


def _recognise_markup(start: str) -> Kind:
    root = re.search(r"<([a-z][\w.:-]*)", start)
    if root and root[1].endswith("votable"):
        return Kind.VOTABLE
    if (root and root[1] == "html") or start.startswith("<!doctype html"):
        raise DataError("is a web page, not spectra; the download failed, so open the page to see why")
    raise DataError(f"is XML but no VOTable; {_EXPECTED}")


_HEAD_BYTES = 2**16  # of which the line ends are taken
_SEPARATORS = (",", "\t", ";", "|", " ")
_MOST_LINES = 2000  # of one row: its arrays as numpy prints them, four numbers a line
_ARRAY_TEXT = re.compile(r"[\w\s.,+=<>()\[\]{}-]*")

_ENCODINGS = {  # by the mark that text may begin with, the longer first
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(head: bytes) -> str:
    """The encoding of a text by its first bytes."""
    return next((name for mark, name in _ENCODINGS.items() if head.startswith(mark)), "utf-8")


@dataclass
class _Comments:
    """What the lines starting with ``#`` say."""

    ecsv: bool = False
    separator: str = " "  # ECSV's, unless it names another
    published: bool = False
    last: str = ""
    lines: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        text = line.lstrip("#").strip()
        if len(self.lines) < _LONGEST_HEADER:
            self.lines.append(line.removeprefix("#").removeprefix(" "))
        if text.startswith("%ECSV"):
            self.ecsv = True
        elif text.startswith("delimiter:"):
            self.separator = text.removeprefix("delimiter:").strip().strip("'\"") or " "
        elif "TABLE: xp_" in text:
            self.published = True
        self.last = text

    def stated(self) -> tuple[dict[str, object], Wavelengths | None]:
        """Units by column, and wavelengths, as far as an ECSV header states them."""
        if not self.ecsv:
            return {}, None
        try:
            header = get_header_from_yaml([line for line in self.lines if not line.startswith("%ECSV")]) or {}
        except (YamlParseError, ValueError, TypeError, LookupError, RecursionError):
            return {}, None
        try:
            units = {str(column["name"]): column.get("unit") for column in header.get("datatype") or ()}
            return units, stated_grid(dict(header["meta"])) if header.get("meta") else None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            why = "states columns or wavelengths in no form that ECSV has"
            raise DataError(
                f"its header {why} ({type(error).__name__}: {error}); write the file again"
            ) from error

    @property
    def form(self) -> str:
        if self.ecsv:
            return "bulk csv" if self.published else "archive ecsv"
        return "archive csv"


class TextTable(NamedTuple):
    """How a text file is laid out."""

    form: str  # name of the kind of file, for people
    ecsv: bool  # true where it says so; such a row is one line
    separator: str  # what stands between cells; a space stands for any number of spaces and tabs
    header: tuple[str, ...]  # names of the columns
    n_ahead: int  # lines before the first row
    units: Mapping[str, object]  # units of the columns that the file states
    grid_nm: Wavelengths | None  # wavelengths of sampled spectra that it states [nm]


@dataclass
class _Lines:
    """Lines with their numbers, of which some can be put back."""

    new: Iterator[tuple[int, str]]
    again: deque[tuple[int, str]] = field(default_factory=deque)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> tuple[int, str]:
        return self.again.popleft() if self.again else next(self.new)

    def put_back(self, lines: list[tuple[int, str]]) -> None:
        self.again.extendleft(reversed(lines))


def read_text(stream: BufferedIOBase, wanted: frozenset[str]) -> Columns:
    """All lines that have as many cells as the header; the others are named.

    Arrays stay text here. Outside ECSV a quoted cell goes on in the next lines where these are an array as numpy
    prints it, and end as a cell does; any other stray quote costs one line.

    Source:
        ECSV: Astropy Proposal for Enhancement 6, version 1.0. Bulk files: their own header.
    """
    csv.field_size_limit(LONGEST_LINE)
    budget, lines = budget_of(stream), _Lines(text_lines(stream))
    table = _layout(lines, wanted)
    picked = pick(table.header, wanted)
    index = [table.header.index(name) for name in picked.values()]
    rows: list[list[str]] = []
    numbers: list[int] = []
    skipped: list[SkippedRow] = []
    for number, line in lines:
        if line.startswith("#"):
            continue
        cells = _split(line, table.separator)
        if cells is None and not table.ecsv:
            cells = _split_across(line, lines, table.separator)
        budget.spend(BROKEN_LINE_BYTES if cells is None or len(cells) != len(table.header) else len(line))
        if cells is None:
            skipped.append(SkippedRow(number, "a quote is opened and not closed"))
        elif len(cells) != len(table.header):
            skipped.append(
                SkippedRow(number, f"{counted(len(cells), 'cell')} where the header has {len(table.header)}")
            )
        else:
            budget.spend(CELL_BYTES * len(index))
            rows.append([cells[i] for i in index])
            numbers.append(number)
    cells_of = {name: object_array([row[i] for row in rows]) for i, name in enumerate(picked)}
    columns = Columns.of(
        table.form, cells_of, table.header, row_numbers=np.array(numbers, dtype=np.int64), skipped=skipped
    )
    return columns.with_stated(table.units, picked, table.grid_nm)


def as_plain_csv(stream: BufferedIOBase, wanted: frozenset[str]) -> BufferedIOBase | None:
    """The same table in UTF-8, separated by commas, below one line of names; None where it is ECSV, which says more."""
    encoding = encoding_of(stream.read(4))
    stream.seek(0)
    lines = _Lines(text_lines(stream))
    table = _layout(lines, wanted)
    if table.ecsv or (table.separator == "," and table.n_ahead == 1 and encoding == "utf-8"):
        stream.seek(0)
        return None if table.ecsv else stream
    text = StringIO()
    rows = csv.writer(text)
    rows.writerow(table.header)
    rows.writerows(_split(line, table.separator) or [line] for _, line in lines if not line.startswith("#"))
    return BytesIO(text.getvalue().encode())


def text_lines(stream: BufferedIOBase) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers from 1, whatever their encoding and line ends."""
    budget, head = budget_of(stream), stream.read(_HEAD_BYTES)
    stream.seek(0)
    encoding = encoding_of(head)
    end = "\n" if "\n" in head.decode(encoding, errors="replace") else "\r"
    text = TextIOWrapper(cast(IO[bytes], stream), encoding=encoding, errors="replace", newline=end)
    try:
        for number, line in enumerate(iter(lambda: text.readline(LONGEST_LINE), ""), start=1):
            budget.spend(LINE_BYTES)
            if len(line) == LONGEST_LINE:
                raise DataError(
                    f"has a line of more than {LONGEST_LINE} characters; expected one for each star"
                )
            if not line.isspace():
                yield number, line.rstrip("\r\n")
    finally:
        if not stream.closed:
            text.detach()


def _layout(lines: _Lines, wanted: frozenset[str]) -> TextTable:
    """The header is the first line that is no comment, or the last comment where that names more columns."""
    comments = _Comments()
    number, line = 0, ""
    for number, line in lines:  # noqa: B007 - the number is that of the header
        if not line.startswith("#"):
            break
        comments.read(line)
    else:
        line = ""
    if len(line) > _LONGEST_NAMES:
        raise DataError(f"has a first line of {len(line)} characters; expected the names of the columns")
    choices = [(line, mark) for mark in _SEPARATORS]
    choices += [(comments.last, mark) for mark in _SEPARATORS if _n_known(comments.last, mark, wanted)[0]]
    if comments.ecsv:
        choices = [(line, comments.separator)]
        if comments.separator not in (",", " "):
            raise DataError(f"names {comments.separator[:9]!r} as its delimiter; ECSV has a comma or a space")
    text, separator = max(choices, key=lambda choice: _n_known(choice[0], choice[1], wanted))
    header = _split(text, separator)
    if not header:
        raise DataError("holds no header line; expected the names of the columns in its first line")
    if text is not line and line:
        lines.put_back([(number, line)])
        number -= 1
    names = tuple(name.strip() for name in header)
    return TextTable(comments.form, comments.ecsv, separator, names, number, *comments.stated())


def _n_known(line: str, separator: str, wanted: frozenset[str]) -> tuple[int, bool, int]:
    """How much speaks for a header: columns that are wanted, then commas, then any marks but spaces."""
    names = _split(line, separator) or ()
    return len(pick(names, wanted)), separator == "," and separator in line, len(names) * (separator != " ")


def _split(line: str, separator: str) -> list[str] | None:
    """The cells of a line, None where its quotes do not match."""
    if separator == " ":
        line = line.replace("\t", " ").strip()
    try:
        cells = csv.reader([line], delimiter=separator, strict=True, skipinitialspace=separator == " ")
        return next(cells, [])
    except csv.Error:
        return None


def _split_across(line: str, lines: _Lines, separator: str) -> list[str] | None:
    """The cells of a line of which a quoted one goes on in the next lines; None, and no line taken, if none does."""
    taken: list[tuple[int, str]] = []
    for number, more in lines if line.count('"') % 2 else ():
        taken.append((number, more))
        inside, quote, after = more.partition('"')
        too_long = not _ARRAY_TEXT.fullmatch(inside) or len(taken) > _MOST_LINES
        if too_long or (quote and after[:1] not in ("", separator)):
            break
        if more.count('"') % 2:
            cells = _split(" ".join((line, *(text for _, text in taken))), separator)
            if cells is None:
                break
            return cells
    lines.put_back(taken)
    return None
