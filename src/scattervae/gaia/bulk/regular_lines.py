"""Regular lines to stars, without a Python object a number."""

from typing import Any

import numpy as np
import simdjson

from scattervae.gaia.bulk.blocks import Lines, getter
from scattervae.gaia.bulk.table import ARRAYS, CORRELATIONS, N_RELEVANT, STATED, BulkTable
from scattervae.gaia.facts import BANDS
from scattervae.gaia.files.assemble import ReadRows
from scattervae.gaia.files.bands import fit_disagrees
from scattervae.gaia.files.columns import FIT_COLUMNS
from scattervae.spectra.spectra import Correlations, Spectra

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
