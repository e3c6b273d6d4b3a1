"""A bulk file in, its stars chunk by chunk out."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scattervae.errors import DataError, located
from scattervae.gaia.bulk.blocks import BrokenFileError, Lines
from scattervae.gaia.bulk.regular_lines import RegularRows
from scattervae.gaia.bulk.table import BulkTable, bulk_columns, open_table, read_header, read_rows
from scattervae.gaia.facts import SOURCE_ID_NAMES
from scattervae.gaia.files.assemble import ReadRows, bases_of, no_stars
from scattervae.gaia.files.columns import CONTINUOUS_COLUMNS, SkippedRow, pick, wanted_columns
from scattervae.gaia.files.rows import SeenStars, flag_duplicates
from scattervae.spectra.bases import BasisIds, check_taken, warn_if_unnamed
from scattervae.spectra.spectra import Basis, Flag, Spectra

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
