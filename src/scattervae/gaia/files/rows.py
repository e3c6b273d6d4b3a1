"""Which rows of a file can be used and which stars they are: what is skipped, identifiers, who is a duplicate."""

import logging
import re

import numpy as np

from scattervae.arrays import SourceIds, StarArray, StarFlags, StarMask
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import SOURCE_ID_NAMES
from scattervae.gaia.files.cells import Arrays, Integers, is_missing, shown, text_of, unmasked
from scattervae.gaia.files.columns import Columns, SkippedRow
from scattervae.spectra.spectra import Basis, Flag

logger = logging.getLogger(__name__)

_ROUNDED_BITS = 40  # one of 1e12 tables would be refused by chance
_BROKEN = np.uint16(Flag.MISSING_BP | Flag.MISSING_RP | Flag.BAD_COEFFS | Flag.BAD_ERRORS)
_DESIGNATION = re.compile(r"Gaia\s+(?P<release>E?DR\d+)\s+(?P<id>\d{1,19})", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,20}")
_AS_FLOAT = re.compile(r"(?P<id>\d{1,19})\.0*")
_ROUNDED = re.compile(r"\d*\.?\d+e[+-]?\d+", re.IGNORECASE)
_EXACT = 2**53  # float64 holds every integer up to here


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


def read_source_ids(columns: Columns, skips: Skips) -> SourceIds:
    """The source_id of each row; rows without one are skipped."""
    name = columns.source_id_name
    assert name is not None, "checked before"
    cells = columns.cells[name]
    if cells.dtype.kind == "f" and len(cells):
        raise DataError(
            f"column {name} is {cells.dtype.name}, which cannot hold Gaia's identifiers; read it as int64"
        )
    if cells.dtype.kind in "iu" and cells.dtype.itemsize < 8 and len(cells):
        raise DataError(
            f"column {name} is {cells.dtype.name}, which cannot hold Gaia's identifiers (they begin above 2**32): they "
            "were cut to 32 bits; read it as int64"
        )
    read = identifiers(cells, release=columns.release.name)
    _require_whole(name, read.values[read.known])
    _check_join(columns, name, read.values)
    skips.add_unreadable(name, read)
    if read.why and not (columns.holds_coeffs or columns.holds_flux):  # of spectra every skipped row is named
        row, why = next(iter(read.why.items()))
        where = f"{columns.form}: {len(read.why)} of {counted(len(columns), 'row')} left out"
        logger.warning("%s; row %d: %s %s", where, columns.row_numbers[row], name, why)
    skips.add(~read.known, f"no {name}")
    skips.add(read.values <= 0, f"{name} is {{}}, not an identifier", read.values)
    return read.values


def _require_whole(name: str, ids: SourceIds) -> None:
    """Refuse identifiers that were cut to 32 bits, or went through a float64, before they became integers again.

    Source:
        Gaia DR3 documentation, sect. 20.1.1, source_id: bits 36 to 63 a HEALPix pixel, 33 to 35 a code from 1, 8 to 32
        a number that counts, 1 to 7 zero but for a few. Above 2**60 a float64 holds every second multiple of 128,
        above 2**61 every fourth, above 2**62 every eighth: so are not all of many identifiers by chance.
    """
    if len(ids) and (np.abs(ids) < 2**32).all() and np.abs(ids).max() >= 2**24:
        raise DataError(
            f"{name} is below 2**32 in all rows, where Gaia has no identifiers: they were cut to 32 bits; "
            "read it as int64"
        )
    large = ids[ids >= 2**60]
    halvings = np.floor(np.log2(large.astype(np.float64))) - 59
    if halvings.sum() >= _ROUNDED_BITS and (large.astype(np.float64).astype(np.int64) == large).all():
        raise DataError(
            f"{name} was rounded: all {len(large)} identifiers above 2**60 are numbers that a float64 holds; read "
            "it as int64 from the start"
        )


def _check_join(columns: Columns, name: str, ids: SourceIds) -> None:
    """Refuse a join whose two tables name different stars: nothing says which of them a spectrum is of."""
    stem, _, side = name.rpartition("_")
    for other in (f"{stem}_{end}" for end in "12xy" if stem == SOURCE_ID_NAMES[0] and end != side):
        if other in columns and (
            n := int((identifiers(columns.cells[other], release=columns.release.name).values != ids).sum())
        ):
            raise DataError(
                f"{name} and {other} differ in {counted(n, 'row')}; rename that of the spectra to {SOURCE_ID_NAMES[0]}"
            )


def flag_duplicates(source_id: SourceIds, flags: StarFlags, snr: StarArray) -> StarFlags:
    """The flags with `Flag.DUPLICATE` for all rows of a star but its best.

    That is, of rows that are not broken, the one with the highest signal to noise, among equals the first.
    """
    repeated = duplicates(source_id, np.where((flags & _BROKEN) > 0, -np.inf, snr))
    bit = np.uint16(Flag.DUPLICATE)
    return np.where(repeated, flags | bit, flags & ~bit).astype(np.uint16)


def duplicates(source_id: SourceIds, worth: StarArray | None = None) -> StarMask:
    """True for rows of a star that has a better one: of higher worth, among equals the first."""
    best_first = np.lexsort((np.zeros(len(source_id)) if worth is None else -worth, source_id))
    duplicate = np.zeros(len(source_id), dtype=bool)
    duplicate[best_first[1:]] = source_id[best_first[1:]] == source_id[best_first[:-1]]
    return duplicate


class SeenStars:
    """The stars of a file that is read in chunks; in Gaia's files, which are sorted, no two chunks overlap."""

    def __init__(self) -> None:
        self._chunks: list[SourceIds] = []

    def repeated(self, source_id: SourceIds) -> StarMask:
        """True for those of a new chunk that an earlier one had."""
        repeated = np.zeros(len(source_id), dtype=bool)
        if len(source_id):
            own = np.unique(source_id)
            for earlier in self._chunks:
                if earlier[0] <= own[-1] and own[0] <= earlier[-1]:
                    repeated |= np.isin(source_id, earlier)
            self._chunks.append(own)
        return repeated
