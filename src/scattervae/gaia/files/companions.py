"""What tables give beside the spectra: the G flux, the stellar labels, and what Gaia's source table says."""

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import SourceIds, StarArray
from scattervae.gaia.facts import G_FLUX_NAME, G_MAG_NAMES, LABEL_COLUMNS, NO_LABEL, g_flux_of
from scattervae.gaia.files.cells import floats
from scattervae.gaia.files.columns import Columns
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.sources import POSITION_COLUMNS, SOURCE_COLUMNS, SourceColumns

_POSITION_LIMITS = {"ra": (0.0, 360.0), "dec": (-90.0, 90.0)}


def read_g_flux(columns: Columns) -> StarArray:
    """Mean G flux [electron/s]: the column of it, else from a magnitude, else NaN; never from coefficients.

    Magnitudes are not used where the release's zero point is not known.

    Source:
        `scattervae.gaia.facts.g_flux_of`.
    """
    flux, zero_point = np.full(len(columns), np.nan), columns.release.g_zero_point
    if G_FLUX_NAME in columns:
        flux = floats(columns.cells[G_FLUX_NAME])
    for name in G_MAG_NAMES:
        if name in columns and zero_point is not None:
            from_mag = g_flux_of(floats(columns.cells[name]), zero_point=zero_point)
            flux = np.where(np.isfinite(flux) & (flux > 0), flux, from_mag)
    return flux


def read_labels(columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]) -> StellarLabels:
    """Labels of these rows, no row where the file has no column of labels.

    Source:
        `scattervae.gaia.facts.LABEL_COLUMNS`.
    """
    if not any(name in columns for name, _ in LABEL_COLUMNS):
        rows = rows[:0]
    values, errors = (
        np.stack([_label(columns, name)[rows] for name in names], axis=1)
        for names in zip(*LABEL_COLUMNS, strict=True)
    )
    missing = np.isnan(values)
    return StellarLabels(source_id[rows], values, np.where(missing, np.nan, errors))


def _label(columns: Columns, name: str) -> StarArray:
    if name not in columns:
        return np.full(len(columns), np.nan)
    values = floats(columns.cells[name])
    return np.where(np.isfinite(values) & (values > NO_LABEL), values, np.nan)


def read_source_columns(
    columns: Columns, source_id: SourceIds, *, rows: Int64[np.ndarray, " used"]
) -> SourceColumns:
    """What the file has of ``gaia_source`` for these rows, nothing where it lacks ra or dec.

    Source:
        `scattervae.spectra.sources.SOURCE_COLUMNS`.
    """
    if not all(name in columns for name in POSITION_COLUMNS):
        return SourceColumns.empty()
    values = {name: floats(columns.cells[name])[rows] for name in SOURCE_COLUMNS if name in columns}
    for name, (low, high) in _POSITION_LIMITS.items():
        values[name] = np.where((values[name] >= low) & (values[name] <= high), values[name], np.nan)
    return SourceColumns(source_id[rows], values)
