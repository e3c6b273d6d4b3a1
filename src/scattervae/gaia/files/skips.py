"""Rows of a file that cannot be used, each with its first reason."""

import numpy as np

from scattervae.arrays import StarMask
from scattervae.gaia.files.cells import Arrays, Integers, shown
from scattervae.gaia.files.columns import Columns, SkippedRow
from scattervae.spectra.spectra import Basis


class Skips:
    """Collects why rows cannot be used; what is found first is what is said."""

    def __init__(self, n: int) -> None:
        self._reasons: dict[int, str] = {}
        self._bases: dict[int, Basis | None] = {}
        self._kept = np.ones(n, dtype=bool)

    def add(
        self, rows: StarMask, reason: str, values: np.ndarray | None = None, *, basis: Basis | None = None
    ) -> None:
        """Skip these rows; a ``{}`` in the reason stands for the row's own value, `basis` is that of them all."""
        for row in np.flatnonzero(rows & self._kept):
            self._reasons[int(row)] = reason if values is None else reason.format(shown(values[row]))
            self._bases[int(row)] = basis
            self._kept[row] = False

    def add_unreadable(self, name: str, read: Arrays | Integers, *, among: StarMask | None = None) -> None:
        """Skip the rows in which a column holds something else, each with what is wrong with it."""
        for row, why in read.why.items():
            if self._kept[row] and (among is None or among[row]):
                self._reasons[row] = f"{name} {why}"
                self._kept[row] = False

    @property
    def kept(self) -> StarMask:
        """True for the rows that nothing speaks against so far."""
        return self._kept.copy()

    def named(self, columns: Columns) -> tuple[SkippedRow, ...]:
        """All skipped rows of the file in order, those that its reader skipped included."""
        here = (
            SkippedRow(int(columns.row_numbers[row]), why, self._bases.get(row))
            for row, why in self._reasons.items()
        )
        return tuple(sorted((*columns.skipped, *here), key=lambda skipped: skipped.row))
