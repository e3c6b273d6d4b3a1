"""What Gaia's source table says of stars: where they are, how bright, how trustworthy."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from scattervae.arrays import SourceIds, StarMask
from scattervae.spectra.matching import rows_of

SOURCE_COLUMNS: dict[str, tuple[pa.DataType, str, str]] = {
    "ra": (pa.float64(), "deg", "right ascension, ICRS, epoch 2016.0"),
    "dec": (pa.float64(), "deg", "declination, ICRS, epoch 2016.0"),
    "phot_g_mean_flux": (pa.float64(), "electron/s", "mean flux in the G band"),
    "phot_g_mean_flux_error": (pa.float32(), "electron/s", "one standard deviation of the mean G flux"),
    "phot_g_mean_mag": (pa.float32(), "mag", "mean magnitude in the G band"),
    "bp_rp": (pa.float32(), "mag", "colour BP - RP"),
    "phot_bp_rp_excess_factor": (pa.float32(), "", "flux in BP and RP over flux in G"),
    "ruwe": (pa.float32(), "", "renormalised unit weight error of the astrometry"),
    "parallax": (pa.float64(), "mas", "parallax at epoch 2016.0"),
    "parallax_error": (pa.float32(), "mas", "one standard deviation of the parallax"),
}
"""Columns of ``gaia_source`` that a store can keep: arrow type, unit, description.

Source:
    Gaia DR3 documentation, table ``gaiadr3.gaia_source``.
"""

POSITION_COLUMNS = ("ra", "dec")
G_FLUX_COLUMN = "phot_g_mean_flux"
G_FLUX_ERROR_COLUMN = "phot_g_mean_flux_error"


@dataclass(frozen=True)
class SourceColumns:
    """Columns of ``gaia_source`` for some stars, NaN where null.

    Attributes:
        source_id: Gaia's identifier.
        values: By the archive's names, a subset of `SOURCE_COLUMNS`, in float64; ra and dec among them, unless
            nothing is known of any star (`empty`).
    """

    source_id: SourceIds
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.source_id)

    @staticmethod
    def empty() -> "SourceColumns":
        """Nothing known of any star: the store writes the centres of pixels as positions."""
        return SourceColumns(source_id=np.empty(0, dtype=np.int64), values={})

    @property
    def located(self) -> StarMask:
        """True for stars with a position."""
        located = np.ones(len(self), dtype=bool)
        for name in POSITION_COLUMNS:
            located &= np.isfinite(self.values[name])
        return located

    def aligned_to(self, source_id: SourceIds) -> "SourceColumns":
        """The columns of these stars in this order, NaN for stars that are not among these.

        Where a source_id has several rows here, the first is taken.
        """
        if len(self) == 0:
            values = {name: np.full(len(source_id), np.nan) for name in self.values}
            return SourceColumns(source_id=source_id, values=values)
        row, known = rows_of(source_id, among=self.source_id)
        values = {name: np.where(known, column[row], np.nan) for name, column in self.values.items()}
        return SourceColumns(source_id=source_id, values=values)

    def take(self, rows: np.ndarray | slice) -> "SourceColumns":
        """The columns of these rows: a mask, indices or a slice."""
        values = {name: column[rows] for name, column in self.values.items()}
        return SourceColumns(source_id=self.source_id[rows], values=values)
