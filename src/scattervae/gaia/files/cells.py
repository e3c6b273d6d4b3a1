"""One column of cells of any make, as numbers: floats, integers, or arrays of one length a row."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import SupportsFloat

import numpy as np
from jaxtyping import Float64, Int64

from scattervae.arrays import StarArray, StarMask

MISSING_TEXT = frozenset(("", "null", "nan", "none", "--", "masked", "<na>"))
UNREADABLE = -1
_SCALAR = re.compile(r"\b(?:np|numpy)\.\w+\(([^()]*)\)")  # np.float64(1.5)
_CALL = re.compile(  # array([1.0, 2.0], dtype=float32), masked_array(data=[1.0, --], mask=...), tensor([1.0])
    r"(?:\w+\.)?\w+\(\s*(?:data=)?(?P<values>\[.*?\])\s*(?:,\s*[a-z_]+=.*)?\)", re.DOTALL
)
_BRACKETS = str.maketrans("(){}", "[][]")
_GAP = re.compile(r"(?<=[^\s\[])\s+(?=[^\s\]])")  # between two values, or two rows, that no comma divides
_VALUE = re.compile(r"[^\s,\[\]]+")
_DOTS = ("...", "\N{HORIZONTAL ELLIPSIS}")


@dataclass(frozen=True)
class Integers:
    """A column of integers."""

    values: Int64[np.ndarray, " star"]  # the integers, 0 where there is none
    known: StarMask  # true where the cell holds an integer
    why: Mapping[int, str] = field(default_factory=dict)  # by row, what is wrong with a cell

    @classmethod
    def of(cls, read: Sequence[int | str | None]) -> "Integers":
        """From an integer a row, a text that says what is wrong with it, or None where the cell is empty."""
        known = np.array([isinstance(value, int) for value in read], dtype=bool)
        values = np.array([value if isinstance(value, int) else 0 for value in read], dtype=np.int64)
        return cls(values, known, {row: value for row, value in enumerate(read) if isinstance(value, str)})


@dataclass(frozen=True)
class Arrays:
    """A column of arrays.

    The length of a row's array is 0 where it is missing or holds no number, `UNREADABLE` where it is none of numbers.
    """

    lengths: Int64[np.ndarray, " star"]
    rows: Sequence[np.ndarray | None] | Float64[np.ndarray, "star element"]  # None where there is none
    why: Mapping[int, str] = field(default_factory=dict)  # by row, what is wrong with a cell

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
    cells = unmasked(cells)
    if cells.dtype.kind in "fiub" and cells.ndim == 1:
        with np.errstate(invalid="ignore"):
            return cells.astype(np.float64)
    return np.array([_float(cell) for cell in cells], dtype=np.float64)


def integers(cells: np.ndarray) -> Integers:
    """The cells as integers: such, their text, or floats without a fraction and their text, as in ``55.0``."""
    cells = unmasked(cells)
    if cells.dtype.kind in "iu" and cells.ndim == 1:
        return Integers(cells.astype(np.int64), np.ones(len(cells), dtype=bool))
    return Integers.of([_integer(cell) for cell in cells])


def arrays(cells: np.ndarray) -> Arrays:
    """The cells as arrays of float64: arrays, lists, or the text that some library prints of one."""
    cells = unmasked(cells)
    if cells.ndim == 2 and cells.dtype.kind in "fiu":
        with np.errstate(invalid="ignore"):
            matrix = cells.astype(np.float64)
        present = ~np.isnan(matrix).all(axis=1)
        return Arrays(np.where(present, matrix.shape[1], 0).astype(np.int64), matrix)
    rows: list[np.ndarray | None] = []
    lengths = np.zeros(len(cells), dtype=np.int64)
    for row, cell in enumerate(cells):
        array = _array(cell)
        rows.append(array)
        if array is None:
            lengths[row] = 0 if is_missing(cell) else UNREADABLE
        elif not np.isnan(array).all():
            lengths[row] = len(array)
    why = {int(row): _why_no_array(cells[row]) for row in np.flatnonzero(lengths == UNREADABLE)}
    return Arrays(lengths, rows, why)


def unmasked(cells: np.ndarray) -> np.ndarray:
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


def text_of(cell: object) -> str | None:
    """The text in a cell, whether it is stored as text or as bytes; None in any other cell."""
    if isinstance(cell, bytes):
        return cell.decode(errors="replace").strip()
    return cell.strip() if isinstance(cell, str) else None


def is_missing(cell: object) -> bool:
    """True where a cell holds nothing, or a word for nothing."""
    if cell is None or cell is np.ma.masked:
        return True
    text = text_of(cell)
    if text is not None:
        return text.lower() in MISSING_TEXT
    return isinstance(cell, float | np.floating) and bool(np.isnan(cell))


def shown(value: object) -> str:
    """A cell as messages show it."""
    text = " ".join(str(value).split())
    return text if len(text) <= 30 else f"{text[:27]}..."


def _float(cell: object) -> float:
    if is_missing(cell) or not isinstance(cell, str | bytes | SupportsFloat):
        return float("nan")
    try:
        return float(cell)
    except (ValueError, TypeError, OverflowError):
        return float("nan")


def _integer(cell: object) -> int | str | None:
    """The integer in a cell, None where it is empty, and where it holds none that int64 does, what it holds."""
    if is_missing(cell):
        return None
    value = text_of(cell) or cell
    try:
        if isinstance(value, str):
            value = int(value) if value.lstrip("+-").isdigit() else float(value)
        whole = int(value) if isinstance(value, int | float | np.integer | np.floating) else None
    except (ValueError, OverflowError):
        whole = None
    if whole is None or whole != value or not -(2**63) <= whole < 2**63:
        return f"is no integer: {shown(cell)}"
    return whole


def _array(cell: object) -> np.ndarray | None:
    """The array in a cell, None where it is missing or cannot be read as one."""
    if is_missing(cell):
        return None
    try:
        text = text_of(cell)
        if text is not None:
            cell = _parsed(text)
        with np.errstate(invalid="ignore"):  # a damaged float32 may be a NaN that signals
            if isinstance(cell, np.ma.MaskedArray):
                values = np.ma.filled(np.ma.asarray(cell, dtype=np.float64), np.nan)
            else:
                values = np.asarray(cell, dtype=np.float64)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    return values if values.ndim == 1 else None


def _parsed(text: str) -> object:
    """The lists in a text: as the archive writes them, ``[1.5,nan]`` and ``(1.5, nan)``, or as others print them."""
    try:
        return json.loads(_as_json(text))
    except ValueError:
        return json.loads(_as_json(_regular(text)))


def _as_json(text: str) -> str:
    if text[:1] == "(" and text[-1:] == ")":
        text = f"[{text[1:-1]}]"
    return text.lower().replace("nan", "NaN").replace("infinity", "inf").replace("inf", "Infinity")


def _regular(text: str) -> str:
    """What Python, numpy, pandas, astropy or a database print of an array, in brackets and with commas.

    Raises:
        ValueError: It is not the text of a whole array.
    """
    if _is_open(text):
        raise ValueError("is cut off")
    text = _SCALAR.sub(r"\1", text)
    if call := _CALL.fullmatch(text):
        text = call["values"]
    text = text.translate(_BRACKETS)
    if "," not in text:
        text = _GAP.sub(",", text)
    if "[" not in text and "," in text:
        text = f"[{text}]"
    return _VALUE.sub(_number, re.sub(r",\s*\]", "]", text))


def _number(value: re.Match[str]) -> str:
    if value[0].lower() in MISSING_TEXT:
        return "nan"
    return repr(float(value[0]))


def _why_no_array(cell: object) -> str:
    text = text_of(cell) or ""
    if any(dots in text for dots in _DOTS):
        why = " (it was shortened when it was printed; write arrays whole, as to parquet, ECSV or FITS)"
    else:
        why = " (it is cut off before its end)" if _is_open(text) else ""
    return f"is no list of numbers: {shown(cell)}{why}"


def _is_open(text: str) -> bool:
    return any(text.count(left) != text.count(right) for left, right in ("[]", "()", "{}"))


_DESIGNATION = re.compile(r"Gaia\s+(?P<release>E?DR\d+)\s+(?P<id>\d{1,19})", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,20}")
_AS_FLOAT = re.compile(r"(?P<id>\d{1,19})\.0*")
_ROUNDED = re.compile(r"\d*\.?\d+e[+-]?\d+", re.IGNORECASE)
_EXACT = 2**53  # float64 holds every integer up to here


def identifiers(cells: np.ndarray, *, release: str = "DR3") -> Integers:
    """The source_ids in a column: integers, their text, or the archive's designation (``Gaia DR3 38655544960``).

    The text of a float, such as ``38655544960.0``, is read below 2**53; above, only where that of some row is no
    number that a float64 holds, which shows that none was printed.

    Args:
        release: The data release that the source_ids are of (EDR3's are DR3's); another's designation is not read.
    """
    cells = unmasked(cells)
    if cells.dtype.kind in "iu" and cells.ndim == 1:
        return Integers(cells.astype(np.int64), np.ones(len(cells), dtype=bool))
    never_float = any(map(_is_no_float, cells))
    return Integers.of([_identifier(cell, release, never_float=never_float) for cell in cells])


def looks_like_identifier(text: str) -> bool:
    """True of the text of an integer, or of the archive's designation of any release."""
    return bool(_INTEGER.fullmatch(text) or _DESIGNATION.fullmatch(text))


def _identifier(cell: object, release: str, *, never_float: bool) -> int | str | None:
    """The source_id in a cell, None where it is empty, else what is wrong with it."""
    if is_missing(cell):
        return None
    text = str(cell) if isinstance(cell, int | np.integer) else text_of(cell) or ""
    designation, printed = _DESIGNATION.fullmatch(text), _AS_FLOAT.fullmatch(text)
    if designation and designation["release"].upper().removeprefix("E") != release:
        return f"is of another release: {text}; expected Gaia {release}, whose source_ids are others"
    if printed and int(printed["id"]) >= _EXACT and not never_float:
        return (
            f"may be no integer: {shown(text)} (a float, which rounds; expected integers that never were one)"
        )
    if _ROUNDED.fullmatch(text) or isinstance(cell, float | np.floating):
        return f"is no integer: {shown(cell)} (a float, which rounds; expected integers that never were one)"
    digits = next((found["id"] for found in (designation, printed) if found), text)
    if not _INTEGER.fullmatch(digits) or not -(2**63) <= int(digits) < 2**63:
        return f"is no integer: {shown(cell)}"
    return int(digits)


def _is_no_float(cell: object) -> bool:
    found = _AS_FLOAT.fullmatch(text_of(cell) or "")
    return found is not None and int(float(found["id"])) != int(found["id"])
