"""One column of cells of any make, as numbers: floats, integers, or arrays of one length a row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float64, Int64

from scattervae.arrays import StarArray, StarMask

MISSING_TEXT = frozenset(("", "null", "nan", "none", "--"))
UNREADABLE = -1


@dataclass(frozen=True)
class Integers:
    """A column of integers.

    Attributes:
        values: The integers, 0 where there is none.
        known: True where the cell holds an integer.
        unreadable: True where the cell holds something else, False where it is empty.
    """

    values: Int64[np.ndarray, " star"]
    known: StarMask
    unreadable: StarMask


@dataclass(frozen=True)
class Arrays:
    """A column of arrays.

    Attributes:
        lengths: Length of each row's array: 0 where it is missing or holds no number, `UNREADABLE` where the
            cell is not a list of numbers.
        rows: The arrays, None where there is none; or all of them as one matrix.
    """

    lengths: Int64[np.ndarray, " star"]
    rows: Sequence[np.ndarray | None] | Float64[np.ndarray, "star element"]

    def matrix(self, size: int) -> Float64[np.ndarray, "star element"]:
        """All arrays of this length as one matrix, NaN in the rows of other lengths."""
        if isinstance(self.rows, np.ndarray) and self.rows.shape[1] == size:
            return self.rows
        matrix = np.full((len(self.lengths), size), np.nan)
        for row in np.flatnonzero(self.lengths == size).tolist():
            matrix[row] = self.rows[row]
        return matrix


def floats(cells: np.ndarray) -> StarArray:
    """The cells as float64, NaN where they are empty, masked or no number."""
    cells = _unmasked(cells)
    if cells.dtype.kind in "fiub" and cells.ndim == 1:
        with np.errstate(invalid="ignore"):
            return cells.astype(np.float64)
    return np.array([_float(cell) for cell in cells], dtype=np.float64)


def integers(cells: np.ndarray, *, exact: bool = False) -> Integers:
    """The cells as integers that have never been floats, where the file does not make them floats.

    Args:
        cells: Integers, their text, or floats without a fraction.
        exact: Take no floats: above 2**53 they are not the integers they were.
    """
    cells = _unmasked(cells)
    if cells.dtype.kind in "iu" and cells.ndim == 1:
        n = len(cells)
        return Integers(cells.astype(np.int64), np.ones(n, dtype=bool), np.zeros(n, dtype=bool))
    values = np.zeros(len(cells), dtype=np.int64)
    known, unreadable = np.zeros((2, len(cells)), dtype=bool)
    for row, cell in enumerate(cells):
        if not _is_missing(cell):
            value = _integer(cell, exact=exact)
            known[row] = value is not None
            unreadable[row] = value is None
            values[row] = value or 0
    return Integers(values, known, unreadable)


def arrays(cells: np.ndarray) -> Arrays:
    """The cells as arrays of float64."""
    cells = _unmasked(cells)
    if cells.ndim == 2 and cells.dtype.kind in "fiu":
        with np.errstate(invalid="ignore"):
            matrix = cells.astype(np.float64)
        present = ~np.isnan(matrix).all(axis=1)
        return Arrays(np.where(present, matrix.shape[1], 0).astype(np.int64), matrix)
    rows: list[np.ndarray | None] = []
    lengths = np.zeros(len(cells), dtype=np.int64)
    for row, cell in enumerate(cells):
        rows.append(_array(cell))
        lengths[row] = _length(cell, rows[row])
    return Arrays(lengths, rows)


def _unmasked(cells: np.ndarray) -> np.ndarray:
    """The cells in the machine's byte order, with NaN or None for those that are masked."""
    mask = np.ma.getmaskarray(cells) if isinstance(cells, np.ma.MaskedArray) else None
    plain = np.asarray(cells)
    if plain.dtype.kind in "fiu":
        plain = plain.astype(plain.dtype.newbyteorder("="), copy=False)
    if mask is None or not mask.any():
        return plain
    if plain.dtype.kind == "f" or plain.ndim > 1:
        return np.where(mask, np.nan, plain)
    plain = plain.astype(object)
    plain[mask] = None
    return plain


def _is_missing(cell: object) -> bool:
    if cell is None or cell is np.ma.masked:
        return True
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING_TEXT
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def _float(cell: object) -> float:
    if _is_missing(cell) or not isinstance(cell, str | SupportsFloat):
        return float("nan")
    try:
        return float(cell)
    except (ValueError, TypeError):
        return float("nan")


def _integer(cell: object, *, exact: bool) -> int | None:
    """The integer in a cell that is not missing, None where there is none that int64 holds."""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="replace")
    if isinstance(cell, float | np.floating) and not exact and float(cell).is_integer():
        return int(cell)
    if not isinstance(cell, int | str | np.integer):
        return None
    try:
        value = int(cell)
    except ValueError:
        return None
    return value if -(2**63) <= value < 2**63 else None


def _array(cell: object) -> np.ndarray | None:
    """The array in a cell, None where it is missing or cannot be read as one."""
    if _is_missing(cell):
        return None
    try:
        if isinstance(cell, str):
            cell = json.loads(_as_json(cell))
        with np.errstate(invalid="ignore"):  # a damaged float32 may be a NaN that signals
            if isinstance(cell, np.ma.MaskedArray):
                values = np.ma.filled(np.ma.asarray(cell, dtype=np.float64), np.nan)
            else:
                values = np.asarray(cell, dtype=np.float64)
    except (ValueError, TypeError, RecursionError):
        return None
    return values if values.ndim == 1 else None


def _as_json(cell: str) -> str:
    """JSON for the archive's two ways to write an array: ``[1.5,nan]`` and ``(1.5, nan)``."""
    text = cell.strip()
    if text[:1] == "(" and text[-1:] == ")":
        text = f"[{text[1:-1]}]"
    return text.lower().replace("nan", "NaN").replace("infinity", "inf").replace("inf", "Infinity")


def _length(cell: object, array: np.ndarray | None) -> int:
    if array is None:
        return 0 if _is_missing(cell) else UNREADABLE
    return 0 if np.isnan(array).all() else len(array)
