"""Units that a file states, and the archive's: the one place where columns are converted."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import astropy.units as u
import numpy as np

from scattervae.errors import DataError
from scattervae.gaia.facts import G_MAG_NAMES
from scattervae.gaia.files.cells import arrays, floats
from scattervae.gaia.files.columns import Columns, object_array
from scattervae.spectra.labels import LABEL_UNITS
from scattervae.spectra.sources import SOURCE_COLUMNS

ARCHIVE_UNITS: Mapping[str, str] = {
    **dict.fromkeys(("flux", "flux_error"), "W nm-1 m-2"),  # Gaia DR3 data model, xp_sampled_mean_spectrum
    "wavelength": "nm",
    **dict.fromkeys(G_MAG_NAMES, "mag"),
    **{name: unit for name, (_, unit, _) in SOURCE_COLUMNS.items() if unit},
    **LABEL_UNITS,
    **{f"{name}_err": "K" if unit == "K" else "dex" for name, unit in LABEL_UNITS.items()},
}
_ARRAYS = ("flux", "flux_error", "wavelength")
_FORMATS = ("generic", "vounit", "fits", "cds", "ogip")
_SPELLINGS = {
    "log(cm.s**-2)": "dex(cm s-2)",
    "log(cgs)": "dex(cm s-2)",
    "[cm/s2]": "dex(cm s-2)",
    "log(cm/s**2)": "dex(cm s-2)",
}


def in_archive_units(columns: Columns) -> Columns:
    """The same columns in the archive's units, from those that the file states; one without a unit is taken as it is.

    Raises:
        DataError: A unit is unknown, or cannot be converted into the archive's.
    """
    cells = dict(columns.cells)
    for name, stated in columns.units.items():
        if name in cells and name in ARCHIVE_UNITS:
            cells[name] = _converted(cells[name], name, stated)
    return replace(columns, cells=cells, units={})


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
    if name not in _ARRAYS or (cells.ndim == 1 and cells.dtype.kind in "fiu"):
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
    stated = stated.strip().replace(
        "'", ""
    )  # VOUnit's quotes around units of its user's own, the archive's electron
    stated = _SPELLINGS.get(stated.lower().replace(" ", ""), stated)
    for form in _FORMATS:
        try:
            with warnings.catch_warnings(action="ignore", category=u.UnitsWarning):  # of deprecated units
                return u.Unit(stated, format=form, parse_strict="raise")
        except (ValueError, TypeError):
            continue
    return None


def _fits(unit: Any, target: Any) -> bool:
    if unit == u.dimensionless_unscaled:
        return True
    try:
        (np.ones(1) * unit).to(target)
    except (u.UnitConversionError, u.UnitTypeError, TypeError):
        return False
    return True
