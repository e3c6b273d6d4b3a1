"""Rows of a file: whose they are, which of them are skipped, and what their tables say of stars beside spectra."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray, StarFlags, StarMask
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import g_flux_of
from scattervae.gaia.facts import G_FLUX_NAME, G_MAG_NAMES, LABEL_COLUMNS, NO_LABEL, SOURCE_ID_NAMES
from scattervae.gaia.files.cells import Arrays, Integers, integers, is_missing, shown, text_of, unmasked
from scattervae.gaia.files.columns import Columns, SkippedRow
from scattervae.spectra.spectra import Basis, Flag
from scattervae.spectra.star_tables import POSITION_COLUMNS, SOURCE_COLUMNS, SourceColumns, StellarLabels

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


logger = logging.getLogger(__name__)

_ANY_BIT = -1
_POSITION_LIMITS = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0)}


def read_g_flux(columns: Columns) -> StarArray:
    """Mean G flux [electron/s]: the column of it, else from a magnitude, else NaN; never from coefficients.

    Magnitudes are not used where the release's zero point is not known.
    """
    flux, zero_point = columns.numbers(G_FLUX_NAME), columns.release.g_zero_point
    for name in G_MAG_NAMES:
        if name in columns and zero_point is not None:
            from_mag = g_flux_of(columns.numbers(name), zero_point=zero_point)
            flux = np.where(np.isfinite(flux) & (flux > 0), flux, from_mag)
    return flux


def read_labels(columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]) -> StellarLabels:
    """Labels of these rows, no row where the file has no column of labels."""
    if not any(name in columns for name, _ in LABEL_COLUMNS):
        rows = rows[:0]
    values, errors = (
        np.stack([_label(columns, name)[rows] for name in names], axis=1)
        for names in zip(*LABEL_COLUMNS, strict=True)
    )
    missing = np.isnan(values)
    return StellarLabels(source_id[rows], values, np.where(missing, np.nan, errors))


def _label(columns: Columns, name: str) -> StarArray:
    values = columns.numbers(name)
    return np.where(np.isfinite(values) & (values > NO_LABEL), values, np.nan)


def read_source_columns(
    columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]
) -> SourceColumns:
    """What the file has of ``gaia_source`` for these rows, nothing where it lacks ra or dec."""
    if not all(name in columns for name in POSITION_COLUMNS):
        return SourceColumns.empty()
    values = {name: columns.numbers(name)[rows] for name in SOURCE_COLUMNS if name in columns}
    for name, (low, high) in _POSITION_LIMITS.items():
        values[name] = np.where((values[name] >= low) & (values[name] <= high), values[name], np.nan)
    return SourceColumns(source_id[rows], values)


def joined_sources(tables: Sequence[SourceColumns]) -> SourceColumns:
    """The rows of all tables, NaN where one lacks a column that another has."""
    if not tables:
        return SourceColumns.empty()
    values = {
        name: np.concatenate([table.values.get(name, np.full(len(table), np.nan)) for table in tables])
        for name in SOURCE_COLUMNS
        if any(name in table.values for table in tables)
    }
    return SourceColumns(np.concatenate([table.source_id for table in tables]), values)


def filled_sources(tables: Sequence[SourceColumns]) -> SourceColumns:
    """A row of each star that any of the tables has; each value from the first that has it."""
    if not tables:
        return SourceColumns.empty()
    stars = np.unique(np.concatenate([table.source_id for table in tables]))
    rows = [joined_sources([table.aligned_to(stars)]).values for table in tables]
    values = {
        name: reduce(lambda first, other: np.where(np.isnan(first), other, first), columns)
        for name in SOURCE_COLUMNS
        if (columns := [row[name] for row in rows if name in row])
    }
    return SourceColumns(stars, values)


@dataclass(frozen=True)
class Cut:
    """A reason not to trust a row's labels: bits that are set, or an error that is too large or missing."""

    name: str  # what the log calls it
    column: str  # the column it looks at, in lower case
    bits: int = 0  # bits of which none may be set
    limit: float | None = None  # what the value may not exceed; without one where `bits` are given

    def drops(self, columns: Columns) -> StarMask:
        """True for the rows that it drops; none where the table lacks the column."""
        if self.column not in columns:
            return np.zeros(len(columns), dtype=bool)
        if self.limit is not None:
            return ~(columns.numbers(self.column) <= self.limit)
        return np.asarray((integers(columns.cells[self.column]).values & self.bits) != 0)


@dataclass(frozen=True)
class AllStar:
    """A kind of table with a row for each star that APOGEE observed, some stars more than once."""

    name: str
    own_columns: frozenset[str]  # in lower case, which no other table of labels has together
    cuts: tuple[Cut, ...]  # what its makers leave out
    best: str  # of a star's rows that with the highest value of this column is used; the lowest after a minus

    def trusted(self, columns: Columns) -> StarMask:
        """True for rows that pass all cuts and have a label; how many others there are goes to the log."""
        trusted = np.ones(len(columns), dtype=bool)
        counts = []
        for cut in self.cuts:
            dropped = cut.drops(columns) & trusted
            counts.append(f"{cut.name} {int(dropped.sum()):,}")
            trusted &= ~dropped
        labelled = np.any([columns.numbers(name) > NO_LABEL for name, _ in LABEL_COLUMNS], axis=0)
        counts.append(f"no label {int((trusted & ~labelled).sum()):,}")
        logger.info("%s: %s rows; left out: %s", self.name, f"{len(columns):,}", ", ".join(counts))
        return np.asarray(trusted & labelled)

    def worth(self, columns: Columns) -> StarArray:
        """How good each row is beside others of the same star."""
        name = self.best.removeprefix("-")
        values = columns.numbers(name)
        return np.asarray(np.nan_to_num(-values if self.best.startswith("-") else values, nan=-np.inf))


ALLSTARS = (
    AllStar(
        name="APOGEE allStar",
        own_columns=frozenset({"aspcapflag", "starflag", "teff"}),
        cuts=(
            Cut("STAR_BAD", "aspcapflag", bits=2**23),
            Cut("M_H_BAD", "aspcapflag", bits=2**19),
            Cut("STARFLAG", "starflag", bits=_ANY_BIT),
        ),
        best="snr",
    ),
    AllStar(
        name="astroNN's APOGEE catalogue",
        own_columns=frozenset({"apogee_id", "nn_parallax", "teff"}),
        cuts=(
            Cut("TEFF_ERR above 100 K", "teff_err", limit=100.0),
            Cut("LOGG_ERR above 0.2 dex", "logg_err", limit=0.2),
            Cut("FE_H_ERR above 0.2 dex", "fe_h_err", limit=0.2),
        ),
        best="-logg_err",
    ),
)
"""SDSS DR17's ``allStar`` (also ``allStarLite``) and astroNN's value-added catalogue ``apogee_astroNN-DR17.fits``.

The rows that allStar marks as repeats of a star (bit 4 of ``EXTRATARG``) are not left out by that mark: it spares
the row with the highest SNR, which may be the one that a cut drops.

Source:
    allStar: the cuts are those of Leung & Bovy (2024), arXiv:2308.10944, github.com/henrysky/astroNN_stars_foundation,
    Dataset_Reduction.ipynb; the bits those of sdss4.org/dr17/irspec/apogee-bitmasks; the mark that of
    github.com/sdss/apogee, ``add_extratarg``. astroNN: the cuts of its makers' own diagnostic figures,
    github.com/henrysky/astroNN_APOGEE_VAC, 6_diagnostic_plots.py; columns by 5_compile_vac.py there.
"""


def allstar_of(names: Sequence[str]) -> AllStar | None:
    """Which of APOGEE's tables has these columns, if any."""
    lower = {name.strip().lower() for name in names}
    return next((table for table in ALLSTARS if table.own_columns <= lower), None)


def label_flags() -> frozenset[str]:
    """The columns, in lower case, that any cut looks at."""
    return frozenset(cut.column for table in ALLSTARS for cut in table.cuts)
