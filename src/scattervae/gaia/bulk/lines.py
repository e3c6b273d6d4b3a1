"""The text of a bulk file of any size: unpacked as it is read, in whole lines, below a header, cut into cells."""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from isal import igzip_lib

from scattervae.errors import DataError, located
from scattervae.gaia.facts import BANDS, SOURCE_ID_NAMES
from scattervae.gaia.files.columns import FIT_COLUMNS
from scattervae.gaia.files.text import Kind, read_text, recognise
from scattervae.opening import BROKEN_LINE_BYTES, GZIP, LINE_BYTES, LONGEST_LINE, Budget, require_file
from scattervae.spectra.spectra import Basis

ARRAYS = tuple(f"{band}_{name}" for name in ("coefficients", "coefficient_errors") for band in BANDS)
CORRELATIONS = tuple(f"{band}_coefficient_correlations" for band in BANDS)
STATED = tuple(f"{band}_{name}" for name in ("n_parameters", "basis_function_id") for band in BANDS)
N_RELEVANT = tuple(f"{band}_n_relevant_bases" for band in BANDS)

_UNPACKING_ERROR: type[Exception] = igzip_lib.error  # type: ignore[assignment]  # isal's stub has it wrong
_PACKED_BYTES = 2**18
_TEXT_BYTES = 2**20  # about 25 stars: small enough to stay in a processor's cache while it is cut and parsed


class BrokenFileError(DataError):
    """A file ends before its end, or is damaged; what was read before that, `n_rows`, has been handed over.

    These rows are to be `trusted` where the file is cut off. Where it is damaged, any of them may be wrong: a checksum
    comes only after what it vouches for.
    """

    def __init__(self, path: Path, what: str, trusted: bool, n_rows: int = 0) -> None:  # noqa: FBT001 - as pickle calls it
        super().__init__(path, what, trusted, n_rows)
        self.path, self.what, self.trusted, self.n_rows = path, what, trusted, n_rows

    def __str__(self) -> str:
        worth = "" if self.trusted else ", of which any may be wrong"
        return f"{self.path}: {self.what}, after {self.n_rows} whole rows{worth}; download it again"

    def after(self, n_rows: int) -> "BrokenFileError":
        """The same, once it is known how many rows had been read."""
        return BrokenFileError(self.path, self.what, self.trusted, n_rows)


@dataclass(frozen=True)
class Lines:
    """Lines that follow each other."""

    text: bytes  # a text that holds them
    spans: list[tuple[int, int]]  # where each begins and ends in it, its line end left out
    first: int  # number of the first in the file, counted from 1

    def __getitem__(self, rows: slice) -> "Lines":
        return Lines(self.text, self.spans[rows], self.first + (rows.start or 0))

    def line(self, row: int) -> bytes:
        """One of them, counted from 0."""
        start, end = self.spans[row]
        return self.text[start:end]


def read_lines(path: Path) -> Iterator[Lines]:
    """All lines of a file, gzipped or not, a few dozen at a time.

    Raises:
        DataError: The file cannot be opened, or has a line that no table has.
        BrokenFileError: It is cut off or damaged; all whole lines before that have been given.
    """
    number = 1
    for text, start, end in _whole_lines(path):
        spans = _spans(text, start, end)
        yield Lines(text, spans, number)
        number += len(spans)


def _spans(text: bytes, start: int, stop: int) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    find = text.find
    while start < stop:
        end = find(b"\n", start, stop)
        if end < 0:
            end = stop
        spans.append((start, end - 1 if text[end - 1 : end] == b"\r" and end > start else end))
        start = end + 1
    return spans


def _whole_lines(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Texts with a place at the start of a line and one after the end of a line."""
    rest = b""
    for text in read_texts(path, line_bytes=2 * BROKEN_LINE_BYTES):  # as if all were broken: others are long
        first, last = text.find(b"\n") + 1, text.rfind(b"\n") + 1
        if first:
            whole = rest + text[:first]
            yield whole, 0, len(whole)
            yield text, first, last
            rest = text[last:]
        else:
            rest += text
        if len(rest) > LONGEST_LINE:
            raise DataError(f"{path}: a line of more than {LONGEST_LINE} bytes; expected one for each star")
    yield rest, 0, len(rest)


def read_texts(path: Path, *, line_bytes: int = LINE_BYTES) -> Iterator[bytes]:
    """The content of a file, unpacked where it is gzipped, in texts that end anywhere.

    Args:
        line_bytes: What reading a line takes in memory beside its characters.

    Raises:
        DataError: The file cannot be opened, or grows out of proportion to its size.
        BrokenFileError: It is cut off or damaged; all before that has been given.
    """
    with located(path):
        budget = Budget(require_file(path))
    for text in _texts(path):
        with located(path):
            budget.spend(len(text) + line_bytes * text.count(b"\n"))
        yield text


def _texts(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            zipped = file.read(len(GZIP)) == GZIP
            file.seek(0)
            if zipped:
                yield from _unpacked(file, path)
            else:
                yield from iter(lambda: file.read(_TEXT_BYTES), b"")
    except PermissionError:
        raise DataError(f"{path}: may not be read; check its permissions") from None
    except OSError as error:
        raise BrokenFileError(path, f"cannot be read on ({error.strerror})", trusted=True) from error


def _unpacked(file: io.BufferedReader, path: Path) -> Iterator[bytes]:
    """The text of a gzip file of one or more members.

    Source:
        RFC 1952; zeros after a member are padding, as for ``gzip`` itself.
    """
    unpacker = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    packed = b""
    while True:
        try:
            text = unpacker.decompress(packed, _TEXT_BYTES)
        except _UNPACKING_ERROR as error:
            what = f"is damaged before byte {file.tell()} ({error})"
            raise BrokenFileError(path, what, trusted=False) from error
        if text:
            yield text
        packed = b""
        if unpacker.eof:
            packed = _next_stream(unpacker.unused_data, file)
            if not packed:
                return
            unpacker = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        elif unpacker.needs_input:
            packed = file.read(_PACKED_BYTES)
            if not packed:
                raise BrokenFileError(path, f"is cut off at byte {file.tell()}", trusted=True)


def _next_stream(unused: bytes, file: io.BufferedReader) -> bytes:
    """The first bytes of what follows a member and its padding, none at the end of the file."""
    packed = unused.lstrip(b"\0")
    while not packed:
        more = file.read(_PACKED_BYTES)
        if not more:
            return b""
        packed = more.lstrip(b"\0")
    return packed


_QUOTED = b"\r"  # stands for a quoted cell among the others: a line that holds it there is not regular


class Cells(NamedTuple):
    """The cells of a line."""

    plain: list[bytes]  # all cells in order, a mark in the place of those that are quoted
    quoted: list[bytes]  # those of the quoted cells that are wanted, without their quotes


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are quoted in its regular lines, and which of them are wanted."""

    n_columns: int
    quoted: tuple[int, ...]  # indices of the quoted columns
    wanted: tuple[int, ...]  # indices of those of them that are wanted

    @classmethod
    def of_lines(
        cls, n_columns: int, arrays: Iterable[int], wanted: Iterable[int], lines: Iterable[bytes]
    ) -> "Layout":
        """The layout of the first of these lines in which all arrays are quoted; where there is none, no others are."""
        quoted = tuple(sorted(arrays))
        needed = set(quoted)
        for line in lines:
            cut = line.split(b'"')
            plain = _QUOTED.join(cut[::2]).split(b",")
            found = tuple(column for column, cell in enumerate(plain) if cell == _QUOTED)
            if len(plain) == n_columns and needed <= set(found) and len(found) == len(cut) // 2:
                quoted = found
                break
        return cls(n_columns, quoted, tuple(sorted(wanted)))

    def cutter(self) -> "Callable[[bytes, int, int], Cells | None]":
        """A function that cuts the line between two places of a text, None where it is not of this layout.

        A regular line has two quotes for each quoted cell (twelve in Gaia's files), each quoted cell in its
        place between two commas, and as many cells as the file has columns. A line with a missing band, or
        with a quote too many or too few, has not.
        """
        n_columns, n_quoted = self.n_columns, len(self.quoted)
        is_wanted = [column in self.wanted for column in self.quoted]
        quoted_of = getter(self.quoted)
        marks = quoted_of([_QUOTED] * n_columns)

        def cut(text: bytes, start: int, end: int) -> Cells | None:
            find = text.find
            between: list[bytes] = []
            quoted: list[bytes] = []
            for keep in is_wanted:
                opening = find(b'"', start, end)
                closing = find(b'"', opening + 1, end)
                if opening < 0 or closing < 0:
                    return None
                between.append(text[start:opening])
                if keep:
                    quoted.append(text[opening + 1 : closing])
                start = closing + 1
            if find(b'"', start, end) >= 0:
                return None
            between.append(text[start:end])
            whole = _QUOTED.join(between)
            plain = whole.split(b",")
            if len(plain) != n_columns or quoted_of(plain) != marks or whole.count(_QUOTED) != n_quoted:
                return None
            return Cells(plain, quoted)

        return cut


def getter(indices: Sequence[int]) -> Callable[[Sequence[Any]], Any]:
    """A function that takes these items of a sequence; a tuple of them where there are several."""
    return itemgetter(*indices) if indices else lambda _: ()


class Header(NamedTuple):
    """The line that names the columns, and what stands before it."""

    line: bytes
    form: str  # the kind of text file, as `scattervae.gaia.files` calls it
    names: tuple[str, ...]  # the columns as the file calls them; none where they are not divided by commas
    n_before: int  # number of lines before it

    def require(self, there: Mapping[str, object], names: Sequence[str], refusal: str) -> None:
        """Refuse a file without an identifier or some other column."""
        if lacking := lacking_columns(there, names):
            found = ", ".join(self.names[:8])[:200] or "not divided by commas"
            raise DataError(f"{refusal}: columns {found}; lacks {', '.join(lacking)}")


def lacking_columns(there: Mapping[str, object], names: Sequence[str]) -> list[str]:
    """Which of these columns, and of one with Gaia's identifier, are not there."""
    lacking = [name for name in names if name not in there]
    return lacking if any(name in there for name in SOURCE_ID_NAMES) else [SOURCE_ID_NAMES[0], *lacking]


@dataclass(frozen=True)
class BulkTable:
    """Columns, basis and layout of a file."""

    header: Header
    columns: Mapping[str, str]  # columns to read: name in lower case to the file's own name
    basis: Basis  # sizes and ids of the coefficients
    layout: Layout  # how its regular lines are cut
    is_named: bool  # false where the first lines do not name the ids of the basis

    @property
    def wanted(self) -> frozenset[str]:
        return frozenset(self.columns)

    @property
    def source_id_name(self) -> str:
        """The column with Gaia's identifier, in lower case."""
        return next(name for name in SOURCE_ID_NAMES if name in self.columns)

    @property
    def arrays(self) -> dict[str, int]:
        """The columns of arrays to read, with the length of each: coefficients, errors, then correlations."""
        sizes = (self.basis.n_bp, self.basis.n_rp)
        pairs = (n * (n - 1) // 2 for n in sizes)
        lengths = zip((*ARRAYS, *CORRELATIONS), (*sizes, *sizes, *pairs), strict=True)
        return {name: length for name, length in lengths if name in self.columns}

    def index(self, name: str) -> int:
        """The place among the cells of a line of a column by its name in lower case."""
        return self.header.names.index(self.columns[name])


def bulk_columns(*, correlations: bool) -> frozenset[str]:
    """Names, in lower case, of the columns of a bulk file that are read."""
    names = SOURCE_ID_NAMES + ARRAYS + STATED + N_RELEVANT + FIT_COLUMNS[0] + FIT_COLUMNS[1]
    return frozenset(names + CORRELATIONS if correlations else names)


def read_header(path: Path) -> tuple[Header, Iterator[Lines]]:
    """The header of a text file, and the lines after it.

    Raises:
        DataError: The file cannot be opened or has no header.
        BrokenFileError: It is broken before the header ends.
    """
    _require_text(path)
    before: list[bytes] = []
    blocks = read_lines(path)
    for lines in blocks:
        for row, (start, end) in enumerate(lines.spans):
            line = lines.text[start:end]
            before.append(line)
            text = line.removeprefix(b"\xef\xbb\xbf").strip()
            if text and not text.startswith(b"#"):
                return _header(path, before), chain([lines[row + 1 :]], blocks)
    raise DataError(f"{path}: holds no header line; download it again")


def _require_text(path: Path) -> None:
    """Refuse what is no text, of which a line may never end."""
    head = next(read_texts(path), b"")
    with located(path):
        kind = recognise(BytesIO(head))
        if kind is not Kind.TEXT:
            raise DataError(f"is {kind.value}; expected {Kind.TEXT.value}")


def _header(path: Path, lines: list[bytes]) -> Header:
    with located(path):
        columns = read_text(BytesIO(b"\n".join(lines)), frozenset())
    divided = len(columns.names) == lines[-1].count(b",") + 1
    return Header(lines[-1], columns.form, columns.names if divided else (), len(lines) - 1)
