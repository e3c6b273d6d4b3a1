"""What tables of other surveys and of Gaia's sources hold of stars, joined to them by source_id."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

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

LABEL_NAMES = ("teff", "logg", "fe_h", "alpha_m")
LABEL_UNITS = {"teff": "K", "logg": "dex(cm s-2)", "fe_h": "dex", "alpha_m": "dex"}
POSITION_COLUMNS = ("ra", "dec")
G_FLUX_COLUMN = "phot_g_mean_flux"
G_FLUX_ERROR_COLUMN = "phot_g_mean_flux_error"
_PROPERTY = "scattervae_{}"

Table = TypeVar("Table", bound="StarTable")


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
    """Teff [K], log g [dex(cm s^-2)], [Fe/H] and [alpha/M] [dex] with errors, in the order of `LABEL_NAMES`."""

    values: LabelArray
    errors: LabelArray

    @classmethod
    def concatenate(cls, tables: "Sequence[StellarLabels]") -> "StellarLabels":
        """The labels of all tables, in their order."""
        names = ("source_id", "values", "errors")
        return cls(*(np.concatenate([getattr(table, name) for table in tables]) for name in names))

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
