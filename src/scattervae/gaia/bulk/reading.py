"""A bulk file in, its stars chunk by chunk out; lines laid out as the file's others are read without a csv parser."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simdjson

from scattervae.errors import DataError, located
from scattervae.gaia.bulk.blocks import BrokenFileError, Lines, getter
from scattervae.gaia.bulk.table import (
    ARRAYS,
    CORRELATIONS,
    N_RELEVANT,
    STATED,
    BulkTable,
    bulk_columns,
    open_table,
    read_header,
    read_rows,
)
from scattervae.gaia.facts import BANDS, SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import ReadRows, bases_of, no_stars
from scattervae.gaia.files.bands import fit_disagrees
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, FIT_COLUMNS, SkippedRow, pick, wanted_columns
from scattervae.gaia.files.rows import SeenStars, flag_duplicates
from scattervae.spectra.bases import BasisIds, check_taken, warn_if_unnamed
from scattervae.spectra.spectra import Basis, Correlations, Flag, Spectra

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
    chunk, so_far = _GrowingChunk(table, rows), _SoFar()
    broken: BrokenFileError | None = None
    try:
        for lines in _cut_for_chunks(blocks, rows):
            chunk.add(lines)
            if chunk.is_full:
                yield so_far.noted(chunk.finished())
                chunk = _GrowingChunk(table, rows)
    except BrokenFileError as error:
        broken = error
    last = so_far.noted(chunk.finished())
    if len(last.spectra) or last.skipped:
        yield last
    if broken is not None:
        raise broken.after(so_far.n_rows) from broken.__cause__
    so_far.require_stars(path, table.basis, basis)


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


class _GrowingChunk:
    """A chunk while its lines come in."""

    def __init__(self, table: BulkTable, rows: int) -> None:
        self._table = table
        self._room = rows
        self._regular = RegularRows(table, capacity=rows)
        self._others: list[ReadRows] = []

    @property
    def is_full(self) -> bool:
        return self._room == 0

    def add(self, lines: Lines) -> None:
        """Take all stars of these lines, for which there must be room."""
        self._room -= len(lines.spans)
        others = self._regular.add(lines)
        if others:
            read = read_rows(
                self._table.header.line,
                [lines.line(row) for row in others],
                [lines.first + row for row in others],
                wanted=self._table.wanted,
                basis=self._table.basis,
            )
            self._others.append(read)

    def finished(self) -> BulkChunk:
        """All stars in the order of the file; of several rows of one star all but the best are flagged."""
        read = [self._regular.read(), *self._others]
        spectra = Spectra.concatenate([rows.spectra for rows in read])
        if self._others:
            spectra = spectra.take(np.argsort(np.concatenate([rows.row_numbers for rows in read])))
        flags = flag_duplicates(spectra.source_id, spectra.flags, np.zeros(len(spectra)))
        skipped = sorted((row for rows in read for row in rows.skipped), key=lambda row: row.row)
        return BulkChunk(replace(spectra, flags=flags), tuple(skipped))


class _SoFar:
    """What has been read of a file: how many rows, and which stars."""

    def __init__(self) -> None:
        self.n_rows = 0
        self._n_stars = 0
        self._first_skipped: SkippedRow | None = None
        self._others: Counter[Basis] = Counter()
        self._seen = SeenStars()

    def noted(self, chunk: BulkChunk) -> BulkChunk:
        """The same chunk, the stars that an earlier one had flagged as duplicates."""
        self.n_rows += len(chunk.spectra) + len(chunk.skipped)
        self._n_stars += len(chunk.spectra)
        if self._first_skipped is None and chunk.skipped:
            self._first_skipped = chunk.skipped[0]
        self._others += bases_of(chunk.skipped)
        repeated = self._seen.repeated(chunk.spectra.source_id)
        bits = np.where(repeated, Flag.DUPLICATE, 0).astype(np.uint16)
        return replace(chunk, spectra=chunk.spectra.with_flags(bits))

    def require_stars(self, path: Path, taken: Basis, wanted: Basis | BasisIds | None) -> None:
        """Refuse a file that has been read to its end without a star, or with more stars of another basis."""
        with located(path):
            check_taken(taken, self._n_stars, self._others, wanted)
            if not self._n_stars:
                raise no_stars(self.n_rows, self._first_skipped)


_ITEM_BYTES = np.dtype(np.float64).itemsize
_ZEROS = (np.array(0.0).tobytes(), np.array(-0.0).tobytes())
_LONGEST_ID = 19  # digits of the largest int64
_SMALL_INTEGERS = {str(number).encode(): number for number in range(1000)}


class RegularRows:
    """Collects the stars of lines that have everything in its place."""

    def __init__(self, table: BulkTable, *, capacity: int) -> None:
        """Take up to `capacity` stars of this table."""
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
        if None in numbers or any(map(_may_be_padded, numbers[: len(ARRAYS)])):
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


def _may_be_padded(numbers: Any) -> bool:
    """True where an array ends in zero, as one does that fills a column of fixed width."""
    return bytes(memoryview(numbers)[-_ITEM_BYTES:]) in _ZEROS


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
