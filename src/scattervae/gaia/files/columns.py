"""The rows of one file by the archive's column names and in its units, before anything about them is checked."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import astropy.units as u
import numpy as np
from jaxtyping import Int64

from scattervae.arrays import StarArray, StarMask, Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.basis import g_flux_of
from scattervae.gaia.facts import (
    BANDS,
    DR3,
    G_MAG_NAMES,
    JOINED_COLUMNS,
    LABEL_COLUMNS,
    MEDIAN_FLUX_NAME,
    OTHER_LABEL_NAMES,
    SNR_NAME,
    SOURCE_ID_NAMES,
)
from scattervae.gaia.files.cells import Arrays, Integers, arrays, floats, integers, shown
from scattervae.spectra.spectra import Basis
from scattervae.spectra.star_tables import G_FLUX_COLUMN, LABEL_UNITS, SOURCE_COLUMNS, DataRelease

_BAND_COLUMNS = (
    "coefficients",
    "coefficient_errors",
    "n_parameters",
    "basis_function_id",
    "n_relevant_bases",
)
FIT_COLUMNS = tuple(
    tuple(f"{band}_{name}" for name in ("standard_deviation", "chi_squared", "degrees_of_freedom"))
    for band in BANDS
)
"""For each band, three columns of which each follows from the others."""
_SCALARS = (*G_MAG_NAMES, MEDIAN_FLUX_NAME, SNR_NAME, "flux", "flux_error", "wavelength", "xp")


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be used, and why."""

    row: int  # the line of a text file; elsewhere counted from 1, through all groups or tables of the file
    reason: str
    basis: Basis | None = None  # of a row that could be used alone, but not with the file's other rows


@dataclass(frozen=True)
class Columns:
    """What a reader of one kind hands over: cells as the file has them.

    The cells of a column are one entry a row, numbers, text or arrays, masked or not, or a row of a two-dimensional
    array.
    """

    form: str  # name of the kind of file, for people
    cells: Mapping[str, np.ndarray]  # wanted columns by their name in lower case
    names: tuple[str, ...]  # all columns as the file calls them, wanted or not
    row_numbers: Int64[np.ndarray, " row"]  # what `SkippedRow.row` says of each row
    skipped: tuple[SkippedRow, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)  # that the file states, by names in lower case
    grid_nm: Wavelengths | None = None  # of sampled spectra, where the file states it beside its columns [nm]
    release: DataRelease = DR3  # that its identifiers and magnitudes are of

    @classmethod
    def of(
        cls,
        form: str,
        cells: Mapping[str, np.ndarray],
        names: Sequence[str],
        *,
        row_numbers: Int64[np.ndarray, " row"] | None = None,
        skipped: Sequence[SkippedRow] = (),
    ) -> "Columns":
        """Columns as `pick` names them, arrays that have a column a number put together; rows are counted from 1."""
        if row_numbers is None:
            n = len(next(iter(cells.values()))) if cells else 0
            row_numbers = np.arange(1, n + 1, dtype=np.int64)
        return cls(form, _gathered(cells), tuple(str(name) for name in names), row_numbers, tuple(skipped))

    def with_stated(
        self, own_units: Mapping[str, object], picked: Mapping[str, str], grid_nm: Wavelengths | None = None
    ) -> "Columns":
        """The same columns with what the file states of them: units by its own names, and wavelengths."""
        units: dict[str, str] = {}
        for name, own in picked.items():
            if own_units.get(own) not in (None, ""):
                units.setdefault(name.partition("[")[0], str(own_units[own]))
        return replace(self, units=units, grid_nm=grid_nm)

    def __len__(self) -> int:
        return len(self.row_numbers)

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    def numbers(self, name: str) -> StarArray:
        """A column as float64, NaN throughout where the file lacks it."""
        return floats(self.cells[name]) if name in self else np.full(len(self), np.nan)

    def integers(self, name: str) -> Integers:
        """A column as integers, none of them known where the file lacks it."""
        n = len(self)
        return (
            integers(self.cells[name]) if name in self else Integers(np.zeros(n, np.int64), np.zeros(n, bool))
        )

    @property
    def source_id_name(self) -> str | None:
        """The column with Gaia's identifier."""
        return next((name for name in SOURCE_ID_NAMES if name in self.cells), None)

    @property
    def holds_coeffs(self) -> bool:
        """True where no column of a continuous spectrum is absent, be its bands apart or in one array."""
        joined = any(a in self.cells and b in self.cells for a, b in JOINED_COLUMNS.items())
        return joined or all(name in self.cells for name in CONTINUOUS_COLUMNS)

    @property
    def holds_flux(self) -> bool:
        """True where no column of a sampled spectrum is absent."""
        return all(name in self.cells for name in SAMPLED_COLUMNS)


CONTINUOUS_COLUMNS = tuple(f"{band}_{name}" for band in BANDS for name in _BAND_COLUMNS[:2])
SAMPLED_COLUMNS = ("flux", "flux_error")


def wanted_columns(*, correlations: bool) -> frozenset[str]:
    """Names, in lower case, of all columns that any kind of file may hold and that we use."""
    of_bands = _BAND_COLUMNS + (("coefficient_correlations",) if correlations else ())
    labels = (name for pair in LABEL_COLUMNS for name in pair)
    joined = (name for pair in JOINED_COLUMNS.items() for name in pair)
    bands = (f"{band}_{name}" for band in BANDS for name in of_bands)
    fits = (name for names in FIT_COLUMNS for name in names)
    return frozenset((*SOURCE_ID_NAMES, *SOURCE_COLUMNS, *bands, *fits, *joined, *labels, *_SCALARS))


# A band's coefficients and their errors under other names, and with a number in columns of their own.
# Source: bp_coefficients_0 as pandas makes it of arrays; bp_coeff_0, e_bp_coeff_0 as in public FITS files.
_OTHER_NAME = re.compile(
    r"(?P<before>e_)?(?P<band>bp|rp)_(?:coeff?|coefficient)s?(?P<behind>_(?:err|error)s?)?(?P<number>_?\d+)?"
)
_NUMBERED = re.compile(r"(?P<name>.*[a-z])_?(?P<number>\d{1,4})")
_ARRAYS = (*CONTINUOUS_COLUMNS, *SAMPLED_COLUMNS, *JOINED_COLUMNS, *JOINED_COLUMNS.values())


def pick(names: Sequence[str], wanted: frozenset[str]) -> dict[str, str]:
    """Which of a file's columns to read: name in lower case to the file's own name, the first of equals.

    A column with one number of an array has the array's name and its number in brackets: ``bp_coefficients[0]``.
    """
    picked: dict[str, str] = {}
    for own in names:
        name = _usual(own.strip().lower())
        if name in wanted:
            picked.setdefault(name, own)
        elif (
            (numbered := _NUMBERED.fullmatch(name))
            and numbered["name"] in _ARRAYS
            and numbered["name"] in wanted
        ):
            picked.setdefault(f"{numbered['name']}[{int(numbered['number'])}]", own)
    return picked


def _usual(name: str) -> str:
    """The archive's name of a column of coefficients or their errors, and ours of a label."""
    found = _OTHER_NAME.fullmatch(name)
    if found is None:
        return OTHER_LABEL_NAMES.get(name, name)
    what = "coefficient_errors" if found["before"] or found["behind"] else "coefficients"
    return f"{found['band']}_{what}{found['number'] or ''}"


def _gathered(cells: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same cells, columns with one number of an array each put together; left out where one is missing."""
    whole = {name: column for name, column in cells.items() if not name.endswith("]")}
    arrays: dict[str, dict[int, np.ndarray]] = {}
    for key in cells.keys() - whole.keys():
        name, _, number = key.removesuffix("]").partition("[")
        arrays.setdefault(name, {})[int(number)] = cells[key]
    for name, columns in arrays.items():
        numbers = range(min(columns), max(columns) + 1)
        if name not in whole and len(numbers) == len(columns) > 1:
            whole[name] = np.stack([floats(columns[number]) for number in numbers], axis=1)
    return whole


def with_spectra(tables: Sequence[Columns]) -> Sequence[Columns]:
    """Those of a file's tables that hold coefficients, else those with sampled flux, else the first."""
    named = [table for table in tables if table.source_id_name]
    continuous = [table for table in named if table.holds_coeffs]
    sampled = [table for table in named if table.holds_flux]
    return continuous or sampled or tables[:1]


def join(form: str, tables: Sequence[Columns]) -> Columns:
    """One `Columns` from the tables or groups of a file, with the columns that all of them have."""
    if len(tables) == 1:
        return tables[0]
    shared = [name for name in tables[0].cells if all(name in table for table in tables)]
    cells = {name: _stack([table.cells[name] for table in tables]) for name in shared}
    for table in tables[1:]:
        _require_alike(tables[0], table)
    return replace(Columns.of(form, cells, tables[0].names), units=tables[0].units, grid_nm=tables[0].grid_nm)


def _require_alike(first: Columns, other: Columns) -> None:
    """Refuse to join tables whose numbers mean other things."""
    for name in first.cells:
        if name in other and first.units.get(name) != other.units.get(name):
            units = " and in ".join(str(table.units.get(name, "no unit")) for table in (first, other))
            raise DataError(f"has tables with column {name} in {units}; pass them as files of their own")
    grids = [() if table.grid_nm is None else tuple(table.grid_nm.tolist()) for table in (first, other)]
    if grids[0] != grids[1]:
        raise DataError("has tables of spectra on different wavelengths; pass them as files of their own")


def _stack(cells: Sequence[np.ndarray]) -> np.ndarray:
    masked = any(isinstance(table, np.ma.MaskedArray) for table in cells)
    if not masked and len({table.shape[1:] for table in cells}) == 1:
        return np.concatenate(cells)
    return object_array([cell for table in cells for cell in table])


def object_array(cells: Sequence[object]) -> np.ndarray:
    """A one-dimensional array of these cells, whatever they are."""
    array = np.empty(len(cells), dtype=object)
    for row, cell in enumerate(cells):
        array[row] = cell
    return array


ARCHIVE_UNITS: Mapping[str, str] = {
    **dict.fromkeys(("flux", "flux_error"), "W nm-1 m-2"),  # Gaia DR3 data model, xp_sampled_mean_spectrum
    "wavelength": "nm",
    **dict.fromkeys(G_MAG_NAMES, "mag"),
    **{name: unit for name, (_, unit, _) in SOURCE_COLUMNS.items() if unit},
    **LABEL_UNITS,
    **{f"{name}_err": unit.partition("(")[0] for name, unit in LABEL_UNITS.items()},
}
_FLUX_ARRAYS = ("flux", "flux_error", "wavelength")
_FORMATS = ("generic", "vounit", "fits", "cds", "ogip")
_SPELLINGS = {
    "log(cm.s**-2)": "dex(cm s-2)",
    "log(cgs)": "dex(cm s-2)",
    "[cm/s2]": "dex(cm s-2)",
    "log(cm/s**2)": "dex(cm s-2)",
}


def in_archive_units(columns: Columns) -> Columns:
    """The same columns in the archive's units, from those that the file states; one without is taken as it is."""
    stated = {name: unit for name, unit in columns.units.items() if name in columns and name in ARCHIVE_UNITS}
    converted = {name: _converted(columns.cells[name], name, unit) for name, unit in stated.items()}
    return replace(columns, cells={**columns.cells, **converted}, units={})


def _converted(cells: np.ndarray, name: str, stated: str) -> np.ndarray:
    target: Any = u.Unit(ARCHIVE_UNITS[name])
    unit = parse_unit(stated)
    if unit is None or not _fits(unit, target):
        raise DataError(
            f"column {name} is in {' '.join(stated.split())[:60]!r}, which cannot be converted to {target}; "
            "convert the column, or correct its unit"
        )
    if unit in (target, u.dimensionless_unscaled):
        return cells
    if name not in _FLUX_ARRAYS or (cells.ndim == 1 and cells.dtype.kind in "fiu"):
        return np.asarray((floats(cells) * unit).to_value(target))
    factor = unit.to(target)
    read = arrays(cells)
    if isinstance(read.rows, np.ndarray):
        return np.asarray(read.rows * factor)
    single = floats(
        object_array([cell if row is None else None for cell, row in zip(cells, read.rows, strict=True)])
    )
    rows = zip(cells, read.rows, single * factor, strict=True)
    scaled = [(cell if np.isnan(one) else one) if row is None else row * factor for cell, row, one in rows]
    return object_array(scaled)


def parse_unit(stated: str) -> Any:
    """The unit, None where astropy knows no such unit in any way to write units."""
    stated = stated.strip().replace("'", "")  # VOUnit's, around units of its user's own, such as electron
    stated = _SPELLINGS.get(stated.lower().replace(" ", ""), stated)
    for form in _FORMATS:
        try:
            with warnings.catch_warnings(action="ignore", category=u.UnitsWarning):  # of deprecated units
                return u.Unit(stated, format=form, parse_strict="raise")
        except (ValueError, TypeError):
            continue
    return None


def _fits(unit: Any, target: Any) -> bool:
    try:
        return unit == u.dimensionless_unscaled or (np.ones(1) * unit).to(target) is not None
    except (u.UnitConversionError, u.UnitTypeError, TypeError):
        return False


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


def read_g_flux(columns: Columns) -> StarArray:
    """Mean G flux [electron/s]: the column of it, else from a magnitude, else NaN; never from coefficients.

    Magnitudes are not used where the release's zero point is not known.
    """
    flux, zero_point = columns.numbers(G_FLUX_COLUMN), columns.release.g_zero_point
    for name in G_MAG_NAMES:
        if name in columns and zero_point is not None:
            from_mag = g_flux_of(columns.numbers(name), zero_point=zero_point)
            flux = np.where(np.isfinite(flux) & (flux > 0), flux, from_mag)
    return flux
