"""Gaia's identifiers, as numbers or text, in a column or one a line; none that a float may have rounded."""

import re
from pathlib import Path

import numpy as np

from scattervae.arrays import SourceIds
from scattervae.errors import DataError
from scattervae.gaia.files.cells import Integers, is_missing, shown, text_of, unmasked
from scattervae.gaia.files.kinds import Kind, recognise
from scattervae.gaia.files.text import text_lines
from scattervae.opening import open_file

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
        cells: The column.
        release: The data release that the source_ids are of (EDR3's are DR3's); another's designation is not read.
    """
    cells = unmasked(cells)
    if cells.dtype.kind in "iu" and cells.ndim == 1:
        return Integers(cells.astype(np.int64), np.ones(len(cells), dtype=bool))
    never_float = any(map(_is_no_float, cells))
    return Integers.of([_identifier(cell, release, never_float=never_float) for cell in cells])


def listed_ids(path: Path, *, release: str = "DR3") -> SourceIds | None:
    """The source_ids of a file with one a line, in its order; None where its first line is something else.

    Raises:
        DataError: A line further on is no source_id.
    """
    with open_file(path) as stream:
        if recognise(stream) is not Kind.TEXT:
            return None
        lines = [(number, line.strip()) for number, line in text_lines(stream) if not line.startswith("#")]
    texts = np.array([line for _, line in lines], dtype=object)
    if not any(form.fullmatch(text) for form in (_INTEGER, _DESIGNATION) for text in texts[:1]):
        return None
    read = identifiers(texts, release=release)
    for row in np.flatnonzero(read.values <= 0):
        why = read.why.get(int(row), "")
        found = f"{texts[row][:40]} is no source_id" if "no integer" in why or not why else why
        raise DataError(f"line {lines[row][0]}: {found}; expected one a line")
    return read.values


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
