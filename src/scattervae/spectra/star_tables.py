"""What tables of other surveys and of Gaia's sources hold of stars, joined to them by source_id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int64

from scattervae.arrays import LabelArray, SourceIds, StarArray, StarMask

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

_PROPERTY = "scattervae_{}"


@dataclass(frozen=True)
class DataRelease:
    """What one data release means by its identifiers, positions and magnitudes.

    Attributes:
        name: As in designations: DR3.
        epoch: Reference epoch of its positions [Julian year].
        ids_hold_pixels: True where a source_id is documented to begin with an order-12 nested HEALPix pixel.
        g_zero_point: VEGAMAG zero point of G: flux [electron/s] = 10**(0.4 (zero point - G)); None where not known.
    """

    name: str
    epoch: float
    ids_hold_pixels: bool
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


LABEL_NAMES = ("teff", "logg", "fe_h", "alpha_m")
LABEL_UNITS = {"teff": "K", "logg": "dex(cm s-2)", "fe_h": "dex", "alpha_m": "dex"}


@dataclass(frozen=True)
class StellarLabels:
    """Teff [K], log g [dex(cm s^-2)], [Fe/H] and [alpha/M] [dex] with errors; NaN where a label is missing.

    Columns are in the order of `LABEL_NAMES`.
    """

    source_id: SourceIds
    values: LabelArray
    errors: LabelArray

    def __len__(self) -> int:
        return len(self.source_id)

    def aligned_to(self, source_id: SourceIds) -> "StellarLabels":
        """The labels of these stars in this order, NaN for stars that have none.

        Where a source_id has several rows here, the first is taken.
        """
        if len(self) == 0:
            missing = np.full((len(source_id), len(LABEL_NAMES)), np.nan)
            return StellarLabels(source_id=source_id, values=missing, errors=missing.copy())
        row, known = rows_of(source_id, among=self.source_id)
        return StellarLabels(
            source_id=source_id,
            values=np.where(known[:, None], self.values[row], np.nan),
            errors=np.where(known[:, None], self.errors[row], np.nan),
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[StellarLabels]") -> "StellarLabels":
        """The labels of all parts, in their order."""
        names = ("source_id", "values", "errors")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def take(self, rows: np.ndarray | slice) -> "StellarLabels":
        """The labels of these rows: a mask, indices or a slice."""
        return StellarLabels(self.source_id[rows], self.values[rows], self.errors[rows])

    def __getitem__(self, name: str) -> StarArray:
        """One label of all stars, by name."""
        return self.values[:, LABEL_NAMES.index(name)]

    def counts(self) -> dict[str, int]:
        """How many stars have each label."""
        return {name: int(np.isfinite(self[name]).sum()) for name in LABEL_NAMES}


def rows_of(
    source_id: SourceIds, *, among: Int64[np.ndarray, " row"]
) -> tuple[Int64[np.ndarray, " star"], StarMask]:
    """Where each star stands among the rows, the first of several, and whether it stands there at all.

    There is at least one row. Rows in the order of their source_ids, as the archive's files are, are not sorted again.
    """
    if (among[1:] >= among[:-1]).all():
        row = np.searchsorted(among, source_id).clip(max=len(among) - 1)
    else:
        order = np.argsort(among, kind="stable")
        row = order[np.searchsorted(among[order], source_id).clip(max=len(among) - 1)]
    return row, among[row] == source_id
