"""What files and tables state of stars beside their coefficients: labels, Gaia's columns, a release, the basis."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from scattervae.arrays import LabelArray, SourceIds, StarArray, StarMask
from scattervae.errors import DataError, counted
from scattervae.spectra.spectra import Basis

SOURCE_COLUMNS: dict[str, tuple[pa.DataType, str, str]] = {
    "ra": (pa.float64(), "deg", "right ascension, ICRS, at the reference epoch"),
    "dec": (pa.float64(), "deg", "declination, ICRS, at the reference epoch"),
    "phot_g_mean_flux": (pa.float64(), "electron/s", "mean flux in the G band"),
    "phot_g_mean_flux_error": (pa.float32(), "electron/s", "one standard deviation of the mean G flux"),
    "phot_g_mean_mag": (pa.float32(), "mag", "mean magnitude in the G band"),
    "bp_rp": (pa.float32(), "mag", "colour BP - RP"),
    "phot_bp_rp_excess_factor": (pa.float32(), "", "flux in BP and RP over flux in G"),
    "ruwe": (pa.float32(), "", "renormalised unit weight error of the astrometry"),
    "parallax": (pa.float64(), "mas", "parallax at the reference epoch"),
    "parallax_error": (pa.float32(), "mas", "one standard deviation of the parallax"),
}
"""Columns of ``gaia_source`` that a store can keep: arrow type, unit, description.

Source:
    Gaia DR3 documentation, table ``gaiadr3.gaia_source``.
"""
LABEL_NAMES = ("teff", "logg", "fe_h", "alpha_m", "a_k")
LABEL_UNITS = {"teff": "K", "logg": "dex(cm s-2)", "fe_h": "dex", "alpha_m": "dex", "a_k": "mag"}
A_K_RANGE = (-0.1, 5.0)
"""Outside lie marks for a missing value and failures: APOGEE's targeting A_K reaches -86 mag."""
POSITION_COLUMNS = ("ra", "dec")
G_FLUX_COLUMN = "phot_g_mean_flux"
G_FLUX_ERROR_COLUMN = "phot_g_mean_flux_error"
_PROPERTY = "scattervae_{}"
Table = TypeVar("Table", bound="StarTable")


@dataclass(frozen=True)
class DataRelease:
    """What one data release means by its identifiers, positions and magnitudes."""

    name: str  # as in designations: DR3
    epoch: float  # reference epoch of its positions [Julian year]
    # true where a source_id is documented to begin with an order-12 nested HEALPix pixel
    ids_hold_pixels: bool
    # VEGAMAG zero point of G: flux [electron/s] = 10**(0.4 (zero point - G)); None where not known
    g_zero_point: float | None = None

    def __str__(self) -> str:
        return f"{self.name} (epoch J{self.epoch:.1f})"

    @property
    def properties(self) -> dict[str, str]:
        """It as properties of a catalogue."""
        values = {"release": self.name, "epoch": self.epoch, "ids_hold_pixels": self.ids_hold_pixels}
        return {_PROPERTY.format(name): str(value) for name, value in values.items()}


def ids_hold_pixels(properties: Mapping[str, str]) -> bool:
    """False where the properties of a catalogue say that its source_ids hold no pixel."""
    return properties.get(_PROPERTY.format("ids_hold_pixels")) != str(False)


@dataclass(frozen=True)
class StarTable:
    """What is known of some stars, found by source_id.

    In the fields, and dictionaries, of arrays of numbers each row is a star, NaN where nothing is known.
    """

    source_id: SourceIds

    def __len__(self) -> int:
        return len(self.source_id)

    def take(self: Table, rows: np.ndarray | slice) -> Table:
        """These rows: a mask, indices or a slice."""
        return self._changed(self.source_id[rows], lambda values: values[rows])

    @classmethod
    def concatenate(cls: type[Table], tables: Sequence[Table]) -> Table:
        """The rows of all tables, one at least, in their order."""
        names = [name for name, values in vars(tables[0]).items() if isinstance(values, np.ndarray)]
        return replace(
            tables[0], **{name: np.concatenate([vars(one)[name] for one in tables]) for name in names}
        )

    def aligned_to(self: Table, source_id: SourceIds) -> Table:
        """The rows of these stars in this order: the first of several, NaN where there is none."""
        if len(self) == 0:
            return self._changed(source_id, lambda v: np.full((len(source_id), *v.shape[1:]), np.nan))
        row, known = rows_of(source_id, among=self.source_id)

        def aligned(values: np.ndarray) -> np.ndarray:
            values = values[row]
            values[~known] = np.nan
            return values

        return self._changed(source_id, aligned)

    def _changed(self: Table, source_id: SourceIds, change: Callable[[np.ndarray], np.ndarray]) -> Table:
        changed: dict[str, Any] = {"source_id": source_id}
        for one in fields(self)[1:]:
            values = getattr(self, one.name)
            if isinstance(values, np.ndarray):
                changed[one.name] = change(values)
            elif isinstance(values, dict):
                changed[one.name] = {name: change(column) for name, column in values.items()}
        return replace(self, **changed)


@dataclass(frozen=True)
class SourceColumns(StarTable):
    """Columns of ``gaia_source``, by the archive's names: a subset of `SOURCE_COLUMNS`, in float64.

    Ra and dec are among them, unless nothing is known of any star (`empty`).
    """

    values: dict[str, np.ndarray]

    @staticmethod
    def empty() -> "SourceColumns":
        """Nothing known of any star: the store writes the centres of pixels as positions."""
        return SourceColumns(source_id=np.empty(0, dtype=np.int64), values={})

    @property
    def located(self) -> StarMask:
        """True for stars with a position."""
        ra, dec = (np.isfinite(self.values[name]) for name in POSITION_COLUMNS)
        located: StarMask = ra & dec
        return located


@dataclass(frozen=True)
class StellarLabels(StarTable):
    """Teff [K], log g [dex(cm s^-2)], [Fe/H], [alpha/M] [dex] and A_K [mag] with errors, ordered as `LABEL_NAMES`."""

    values: LabelArray
    errors: LabelArray

    def __getitem__(self, name: str) -> StarArray:
        """One label of all stars, by name."""
        return self.values[:, LABEL_NAMES.index(name)]

    def counts(self) -> dict[str, int]:
        """How many stars have each label."""
        return {name: int(np.isfinite(self[name]).sum()) for name in LABEL_NAMES}


def rows_of(
    source_id: SourceIds, *, among: Int64[np.ndarray, " row"]
) -> tuple[Int64[np.ndarray, " star"], StarMask]:
    """The row of each star, the first of several, and whether there is one at all.

    There is at least one row. Rows in the order of their source_ids, as the archive's files are, are not sorted again.
    """
    if (among[1:] >= among[:-1]).all():
        row = np.searchsorted(among, source_id).clip(max=len(among) - 1)
    else:
        order = np.argsort(among, kind="stable")
        row = order[np.searchsorted(among[order], source_id).clip(max=len(among) - 1)]
    return row, among[row] == source_id


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


logger = logging.getLogger(__name__)
BasisIds: TypeAlias = tuple[int, int]
"""The ids of the basis functions of BP and RP."""
_Rows: TypeAlias = Int64[np.ndarray, "star 4"]
_MOST_BASES = 16  # looked for in one file; a damaged one may seem to have thousands


class StatedBand(NamedTuple):
    """What each row of a file names as the basis of one band."""

    sizes: Int64[np.ndarray, " star"]  # number of coefficients, 0 where the band is missing
    ids: Int64[np.ndarray, " star"]  # Identifier of the basis functions, -1 where the row names none


class OfBasis(NamedTuple):
    """The rows of one basis; a size is 0 where none of them has the band."""

    basis: Basis
    rows: StarMask


class SeveralBasesError(DataError):
    """A file holds stars of other bases than the one to take."""

    def __init__(self, message: str, counts: dict[str, int]) -> None:
        super().__init__(message)
        self.counts = counts  # stars of each basis, by its ids

    def located(self, where: object) -> "SeveralBasesError":
        """The same error of a file or table of this name."""
        return SeveralBasesError(f"{where}: {self}", self.counts)


def parse_ids(text: str) -> BasisIds:
    """The ids that ``56+57`` names."""
    parts = text.split("+")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise DataError(f"--basis {text!r}: expected the ids of BP and RP, as in 56+57 of Gaia DR3")
    return int(parts[0]), int(parts[1])


def sort_by_basis(bp: StatedBand, rp: StatedBand, wanted: Basis | BasisIds | None = None) -> list[OfBasis]:
    """The bases of a file's rows: first the one that is wanted, or else that of most rows; each with its rows.

    A row without ids is taken for one of any basis of its sizes that is wanted or that others name, and a row with one
    band for one of any whose band it has. Rows without coefficients are of none.

    Args:
        wanted: The basis to take, though no row may be of it; where only its ids are given, the rows give its sizes.
    """
    rows = np.stack([bp.sizes, bp.ids, rp.sizes, rp.ids], axis=1)
    left = (bp.sizes > 0) | (rp.sizes > 0)
    found: list[OfBasis] = []
    if wanted is not None:
        basis = wanted
        if not isinstance(basis, Basis):
            basis = replace(_common_basis(rows[left & _fits(rows, basis)]), bp_id=basis[0], rp_id=basis[1])
        found.append(OfBasis(basis, left & _fits(rows, basis)))
        left &= ~found[0].rows
    while left.any():
        basis = _common_basis(rows[left])
        found.append(OfBasis(basis, left & _fits(rows, basis) if len(found) < _MOST_BASES else left))
        left &= ~found[-1].rows
    return found


def check_taken(
    taken: Basis, n_taken: int, others: Counter[Basis], wanted: Basis | BasisIds | None = None
) -> None:
    """Refuse a file of which no star is of the basis that was asked for, or, where none was, of which not most are."""
    if wanted is not None and n_taken == 0 and others:
        most, n_most = others.most_common(1)[0]
        asked = f"basis {wanted[0]}+{wanted[1]}" if isinstance(wanted, tuple) else str(wanted)
        raise SeveralBasesError(
            f"holds {n_most:,} stars of {most}, none of {asked}; `encode --transport` expresses them in a model's",
            by_ids(others, taken),
        )
    counts = by_ids(others, taken)
    if wanted is None and max(counts.values(), default=0) >= max(n_taken, 1):
        counts = {taken.ids: n_taken, **counts}
        found = " and ".join(f"{counted(n, 'star')} of basis {ids}" for ids, n in counts.items())
        options = " or ".join(f"--basis {ids}" for ids in counts if "?" not in ids)
        raise SeveralBasesError(
            f"holds {found}, and none has most of them; choose with {options} of `ingest`", counts
        )


def is_of(basis: Basis, wanted: Basis | BasisIds) -> bool:
    """True where nothing speaks against the one basis being the other."""
    return bool(_fits(np.array([_row_of(basis)]), wanted)[0])


def by_ids(others: Counter[Basis], taken: Basis) -> dict[str, int]:
    """Stars of other bases by their ids, those that only differ in size left out: no id separates them."""
    return dict(sum((Counter({one.ids: n}) for one, n in others.items() if one.ids != taken.ids), Counter()))


def warn_if_unnamed(where: str, basis: Basis, *, is_named: bool) -> None:
    """Say that stars are taken for this basis though they name none, or though it names none and they do."""
    if basis.is_named and not is_named:
        logger.warning("%s: names no basis functions; its stars are taken for %s", where, basis)
    elif is_named and not basis.is_named:
        logger.warning("%s: its stars are taken for %s, of which no ids are known", where, basis)


def _fits(rows: _Rows, basis: Basis | BasisIds) -> StarMask:
    """True for rows of which nothing speaks against their being of this basis."""
    expected = (0, basis[0], 0, basis[1]) if isinstance(basis, tuple) else _row_of(basis)
    fits = np.ones(len(rows), dtype=bool)
    for first in (0, 2):
        size, basis_id = expected[first : first + 2]
        sizes, ids = rows[:, first], rows[:, first + 1]
        fits &= (sizes == 0) | (
            ((size == 0) | (sizes == size)) & ((ids < 0) | (basis_id < 0) | (ids == basis_id))
        )
    return fits


def _row_of(basis: Basis) -> tuple[int, int, int, int]:
    bp_id, rp_id = (-1 if one is None else one for one in (basis.bp_id, basis.rp_id))
    return basis.n_bp, bp_id, basis.n_rp, rp_id


def _common_basis(rows: _Rows) -> Basis:
    """The basis that most of these rows may be of; of equals the one that comes first."""
    named = (rows[:, 1] >= 0) | (rows[:, 3] >= 0)

    def n_rows(basis: Basis) -> int:
        return int((_fits(rows, basis) & (basis.is_named | ~named)).sum())

    return max(_candidates(rows), key=n_rows)


def _candidates(rows: _Rows) -> Iterator[Basis]:
    """The bases of rows with both bands, the most frequent first; else that of each band by itself."""
    complete = rows[(rows[:, 0] > 0) & (rows[:, 2] > 0)]
    if not len(complete):
        nothing = np.array([[0, -1]])
        bands = [_most_common(rows[rows[:, first] > 0, first : first + 2]) for first in (0, 2)]
        complete = np.hstack([nothing if band is None else band[None] for band in bands])
    distinct, first, counts = np.unique(complete, axis=0, return_index=True, return_counts=True)
    for index in np.lexsort((first, -counts))[:_MOST_BASES]:
        n_bp, bp_id, n_rp, rp_id = distinct[index].tolist()
        yield Basis(n_bp, n_rp, None if bp_id < 0 else bp_id, None if rp_id < 0 else rp_id)


def _most_common(rows: Int64[np.ndarray, "star 2"]) -> Int64[np.ndarray, " 2"] | None:
    if not len(rows):
        return None
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return np.asarray(distinct[counts.argmax()])
