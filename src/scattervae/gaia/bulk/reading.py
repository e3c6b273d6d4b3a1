"""A bulk file in, its stars chunk by chunk out; lines laid out as the file's others are read without a csv parser."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simdjson

from scattervae.errors import DataError, located
from scattervae.gaia.bulk.lines import (
    ARRAYS,
    CORRELATIONS,
    N_RELEVANT,
    STATED,
    BrokenFileError,
    BulkTable,
    Header,
    Layout,
    Lines,
    bulk_columns,
    getter,
    read_header,
)
from scattervae.gaia.facts import BANDS, DR3_BASIS, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import ReadRows, assemble_rows, bases_of, flag_duplicates, no_stars
from scattervae.gaia.files.bands import fit_disagrees
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, FIT_COLUMNS, SkippedRow, pick, wanted_columns
from scattervae.gaia.files.text import read_text
from scattervae.spectra.spectra import Basis, Correlations, Flag, Spectra
from scattervae.spectra.staging import SeenIds
from scattervae.spectra.star_tables import BasisIds, check_taken, warn_if_unnamed

CHUNK_ROWS = 8192


@dataclass(frozen=True)
class BulkChunk:
    """Stars of lines that follow each other in a bulk file."""

    spectra: Spectra  # the stars, in archive units, without G flux
    skipped: tuple[SkippedRow, ...]  # rows that could not be used, each by its line in the file


def is_bulk(path: str | Path) -> bool:
    """True where `read_bulk` reads all that a file holds: an ECSV with the archive's columns of coefficients.

    False for a file with labels, positions or magnitudes beside them, and for one that cannot be opened:
    `scattervae.gaia.files` reads the one, and says what is wrong with the other.
    """
    try:
        header, _ = read_header(Path(path))
    except DataError:
        return False
    useful = set(pick(header.names, wanted_columns(correlations=True)))
    return (
        header.form in ("bulk csv", "archive ecsv")
        and useful >= set(CONTINUOUS_COLUMNS)
        and not useful.isdisjoint(SOURCE_ID_NAMES)
        and useful <= bulk_columns(correlations=True)
    )


def read_bulk(
    path: str | Path,
    *,
    correlations: bool = False,
    rows: int = CHUNK_ROWS,
    basis: Basis | BasisIds | None = None,
) -> Iterator[BulkChunk]:
    """The stars of a bulk file of any size, csv or csv.gz, in the order of the file.

    They are those that `scattervae.gaia.files.read_file` gives, to the last bit, with two differences of
    reading only once: the basis of the file is that of its first lines, and of several rows of one star in
    different chunks the first is the one that is not flagged as a duplicate.

    Args:
        path: The file; its columns may stand in any order, and others between them.
        rows: Lines of a chunk; the last has what is left.
        basis: The basis to take, also for stars that name none; where None, that of the first lines.

    Raises:
        DataError: The file cannot be opened, has no columns of spectra, or no row that can be used; or, of
            the kind `BrokenFileError`, it is cut off or damaged, after the chunks of all rows before that.
        SeveralBasesError: No star is of the basis that was asked for; or, where none was, most are of another than
            the first lines, after all chunks.
    """
    if rows < 1:
        raise ValueError(f"chunks of {rows} rows; expected 1 or more")
    path = Path(path)
    table, blocks = open_table(path, correlations=correlations, basis=basis)
    if basis is not None:
        warn_if_unnamed(str(path), table.basis, is_named=table.is_named)
    reading = _Reading(table, rows)
    broken: BrokenFileError | None = None
    try:
        for lines in _cut_for_chunks(blocks, rows):
            reading.add(lines)
            if reading.room == 0:
                yield reading.finished()
    except BrokenFileError as error:
        broken = error
    last = reading.finished()
    if len(last.spectra) or last.skipped:
        yield last
    if broken is not None:
        raise broken.after(reading.n_rows) from broken.__cause__
    with located(path):
        reading.require_stars(basis)


def _cut_for_chunks(blocks: Iterable[Lines], rows: int) -> Iterator[Lines]:
    """The same lines, divided where a chunk ends."""
    room = rows
    for block in blocks:
        left = block
        while left.spans:
            first = left[:room]
            yield first
            left = left[room:]
            room = room - len(first.spans) or rows


class _Reading:
    """A file on its way: the chunk that its lines fill, and what earlier ones held."""

    def __init__(self, table: BulkTable, rows: int) -> None:
        self.n_rows = self._n_stars = 0
        self._table, self._rows = table, rows
        self._first_skipped: SkippedRow | None = None
        self._of_others: Counter[Basis] = Counter()
        self._seen = SeenIds()
        self._begin()

    def _begin(self) -> None:
        self.room = self._rows
        self._regular = RegularRows(self._table, capacity=self._rows)
        self._irregular: list[ReadRows] = []

    def add(self, lines: Lines) -> None:
        """Take all stars of these lines, for which there must be room."""
        self.room -= len(lines.spans)
        others = self._regular.add(lines)
        if others:
            read = read_rows(
                self._table.header.line,
                [lines.line(row) for row in others],
                [lines.first + row for row in others],
                wanted=self._table.wanted,
                basis=self._table.basis,
            )
            self._irregular.append(read)

    def finished(self) -> BulkChunk:
        """The chunk in the order of the file, and another begun; of several rows of a star all but one are flagged."""
        read = [self._regular.read(), *self._irregular]
        spectra = Spectra.concatenate([rows.spectra for rows in read])
        if self._irregular:
            spectra = spectra.take(np.argsort(np.concatenate([rows.row_numbers for rows in read])))
        skipped = sorted((row for rows in read for row in rows.skipped), key=lambda row: row.row)
        flags = flag_duplicates(spectra.source_id, spectra.flags, np.zeros(len(spectra)))
        flags[self._seen.holds(spectra.source_id)] |= np.uint16(Flag.DUPLICATE)
        self._seen.add(spectra.source_id)
        self.n_rows += len(spectra) + len(skipped)
        self._n_stars += len(spectra)
        self._first_skipped = self._first_skipped or next(iter(skipped), None)
        self._of_others += bases_of(skipped)
        self._begin()
        return BulkChunk(replace(spectra, flags=flags), tuple(skipped))

    def require_stars(self, wanted: Basis | BasisIds | None) -> None:
        """Refuse a file that has been read to its end without a star, or with more stars of another basis."""
        check_taken(self._table.basis, self._n_stars, self._of_others, wanted)
        if not self._n_stars:
            raise no_stars(self.n_rows, self._first_skipped)


_ITEM_BYTES = np.dtype(np.float64).itemsize

_ZEROS = (np.array(0.0).tobytes(), np.array(-0.0).tobytes())  # the end of what is padded to a fixed width

_LONGEST_ID = 19  # digits of the largest int64

_SMALL_INTEGERS = {str(number).encode(): number for number in range(1000)}


class RegularRows:
    """Collects the stars of lines that have everything in its place."""

    def __init__(self, table: BulkTable, *, capacity: int) -> None:
        self._table = table
        self._cut = table.layout.cutter()
        self._source_id = table.index(table.source_id_name)
        self._n_relevant_columns = [table.index(name) for name in N_RELEVANT if name in table.columns]
        self._fits = [
            [table.index(name) for name in names] for names in FIT_COLUMNS if set(names) <= table.wanted
        ]
        stated = _stated(table)
        self._stated_of = getter([table.index(name) for name in stated])
        self._expected = getter(range(len(stated)))(list(stated.values()))
        wanted = table.layout.wanted
        self._arrays = [(wanted.index(table.index(name)), size) for name, size in table.arrays.items()]
        self._coeffs, self._errors = np.empty((2, capacity, table.basis.n_coeffs))
        self._pairs = {
            name: np.empty((capacity, size), dtype=np.float32)
            for name, size in table.arrays.items()
            if name in CORRELATIONS
        }
        self._lines: list[int] = []
        self._source_ids: list[int] = []
        self._n_relevant: list[int] = []
        self._numbers: list[Any] = []
        self._parse = simdjson.Parser().parse

    def add(self, lines: Lines) -> list[int]:
        """Take the stars of these lines; those that are not regular come back, blank ones left out."""
        before, others = len(self._lines), []
        with np.errstate(over="ignore"):  # a correlation beyond float32 becomes infinite
            for row, (start, end) in enumerate(lines.spans):
                if start == end:
                    continue
                if self._add(lines.text, start, end):
                    self._lines.append(lines.first + row)
                else:
                    others.append(row)
        taken = slice(before, len(self._lines))
        numbers = np.frombuffer(b"".join(self._numbers)).reshape(-1, 2, self._table.basis.n_coeffs)
        self._coeffs[taken], self._errors[taken] = numbers[:, 0], numbers[:, 1]
        self._numbers.clear()
        return others

    def _add(self, text: bytes, start: int, end: int) -> bool:
        """Take the star of a line; False where the line is not regular, and nothing was taken."""
        cells = self._cut(text, start, end)
        if cells is None:
            return False
        plain, quoted = cells
        identifier = plain[self._source_id]
        source_id = int(identifier) if identifier.isdigit() and len(identifier) <= _LONGEST_ID else 0
        n_relevant = [_SMALL_INTEGERS.get(plain[column]) for column in self._n_relevant_columns]
        if self._stated_of(plain) != self._expected or not 0 < source_id < 2**63 or None in n_relevant:
            return False
        if not all(_agrees([plain[index] for index in fit]) for fit in self._fits):
            return False
        numbers = [self._read(quoted[index], size) for index, size in self._arrays]
        if None in numbers or any(
            bytes(memoryview(n)[-_ITEM_BYTES:]) in _ZEROS for n in numbers[: len(ARRAYS)]
        ):
            return False
        for matrix in reversed(self._pairs.values()):
            matrix[len(self._source_ids)] = np.frombuffer(numbers.pop())
        self._source_ids.append(source_id)
        self._n_relevant += n_relevant  # type: ignore[arg-type]  # not None, as looked for above
        self._numbers += numbers
        return True

    def _read(self, cell: bytes, size: int) -> Any:
        """A buffer of the float64 numbers of an array, None where it is not one array of so many numbers."""
        if cell.rfind(b"["):  # the parser would flatten an array of arrays
            return None
        try:
            numbers: Any = self._parse(cell).as_buffer(of_type="d")  # type: ignore[union-attr]
        except (ValueError, TypeError, RuntimeError):
            return None
        return numbers if numbers.size == size * _ITEM_BYTES else None

    def read(self) -> ReadRows:
        """The stars in the order in which they were taken."""
        n = len(self._lines)
        n_relevant = np.full((n, len(BANDS)), -1, dtype=np.int16)
        given = [index for index, name in enumerate(N_RELEVANT) if name in self._table.columns]
        n_relevant[:, given] = np.array(self._n_relevant, dtype=np.int16).reshape(n, len(given))
        spectra = Spectra.of(
            np.array(self._source_ids, dtype=np.int64),
            self._coeffs[:n],
            self._errors[:n],
            basis=self._table.basis,
            n_relevant_bases=n_relevant,
            correlations=self._correlations(n) if self._pairs else None,
        )
        return ReadRows(spectra, np.array(self._lines, dtype=np.int64), ())

    def _correlations(self, n: int) -> Correlations:
        """Those of the stars taken, NaN for a band of which the file has none."""
        basis = self._table.basis
        read = []
        for name, size in zip(CORRELATIONS, (basis.n_bp, basis.n_rp), strict=True):
            absent = np.full((n, size * (size - 1) // 2), np.nan, dtype=np.float32)
            read.append(self._pairs[name][:n] if name in self._pairs else absent)
        return Correlations(bp=read[0], rp=read[1])


def _agrees(cells: list[bytes]) -> bool:
    """True where these are numbers of one fit."""
    try:
        return not fit_disagrees(*(float(cell) for cell in cells))
    except ValueError:
        return False


def _stated(table: BulkTable) -> dict[str, bytes]:
    """What each line says of its basis where it is that of the file."""
    basis = table.basis
    values = (basis.n_bp, basis.n_rp, basis.bp_id, basis.rp_id)
    return {
        name: b"" if value is None else str(value).encode()
        for name, value in zip(STATED, values, strict=True)
        if name in table.columns
    }


_VOTERS = 32


def open_table(
    path: Path, *, correlations: bool, basis: Basis | BasisIds | None = None
) -> tuple[BulkTable, Iterator[Lines]]:
    """What a file is, and the lines after its header, yet to be read.

    The basis is the one asked for, else that of most of the first 32 lines, or of those of the first lines after
    them that have the band at all.
    """
    header, lines = read_header(path)
    columns = pick(header.names, bulk_columns(correlations=correlations))
    header.require(columns, CONTINUOUS_COLUMNS, f"{path}: is no bulk file")
    vote = _vote(lines, header, columns, basis)
    arrays = pick(header.names, frozenset((*ARRAYS, *CORRELATIONS)))
    indices = {name: header.names.index(own) for name, own in arrays.items()}
    wanted = [index for name, index in indices.items() if name in columns]
    layout = Layout.of_lines(len(header.names), indices.values(), wanted, vote.lines)
    return BulkTable(header, columns, vote.basis, layout, vote.is_named), read_header(path)[1]


class _Vote(NamedTuple):
    """The basis of a file, the lines that it was found from, and whether they name it."""

    basis: Basis
    lines: list[bytes]
    is_named: bool


def _vote(
    lines: Iterable[Lines], header: Header, columns: Mapping[str, str], wanted: Basis | BasisIds | None
) -> _Vote:
    """The vote of the first lines that have both bands and name their ids, or else of the best before."""
    rows = _rows(lines)
    names = frozenset(columns) - frozenset(CORRELATIONS)
    ids_given = any(f"{band}_basis_function_id" in columns for band in BANDS)
    found = wanted if isinstance(wanted, Basis) else Basis(DR3_BASIS.n_bp, DR3_BASIS.n_rp)
    voters: list[bytes] = []
    best = (-1, False)
    while group := list(islice(rows, _VOTERS)):
        read = read_rows(header.line, group, [0] * len(group), wanted=names, basis=wanted)
        if (read.n_known_bands, read.is_named) > best:
            best = (read.n_known_bands, read.is_named)
            found, voters = read.spectra.basis, group
        if isinstance(wanted, Basis) or best == (len(BANDS), ids_given):
            break
    return _Vote(found, voters, best[1])


def _rows(lines: Iterable[Lines]) -> Iterator[bytes]:
    with suppress(BrokenFileError):  # whoever reads the lines to their end will meet it
        for block in lines:
            for start, end in block.spans:
                yield block.text[start:end]


_COMMENTS = b"# %ECSV 1.0\n# delimiter: ','\n"

_LINES_AHEAD = _COMMENTS.count(b"\n") + 1


def read_rows(
    header: bytes,
    lines: list[bytes],
    numbers: list[int],
    *,
    wanted: frozenset[str],
    basis: Basis | BasisIds | None,
) -> ReadRows:
    """The stars of some lines of a file in this basis, else in that of most, and why the others cannot be used."""
    text = BytesIO(_COMMENTS + b"\n".join((header, *lines)))
    read = assemble_rows(read_text(text, wanted), basis)
    line_of = np.concatenate([np.zeros(_LINES_AHEAD + 1, dtype=np.int64), np.array(numbers, dtype=np.int64)])
    return replace(
        read,
        row_numbers=line_of[read.row_numbers],
        skipped=tuple(replace(skipped, row=int(line_of[skipped.row])) for skipped in read.skipped),
    )
