"""Row groups of a store as training and encoding read them: float32, without copies in float64."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from scattervae.arrays import CoeffArray32, SourceIds, StarArray, StarFlags, StarMask
from scattervae.spectra.spectra import usable_stars


class RowGroup(NamedTuple):
    """One row group of one file of a store."""

    path: Path
    group: int
    n_rows: int


@dataclass(frozen=True)
class StoredSpectra:
    """Stars of one row group, in its order.

    Attributes:
        source_id: Gaia's identifier.
        coeffs: Coefficients as published, BP then RP, NaN where missing [electron/s in the store's basis].
        errors: One standard deviation of each, same units.
        g_flux: Mean flux in the G band [electron/s], NaN where unknown.
        g_flux_source: `scattervae.spectra.spectra.GFluxSource` of each star.
        flags: Bits of `scattervae.spectra.spectra.Flag`.
    """

    source_id: SourceIds
    coeffs: CoeffArray32
    errors: CoeffArray32
    g_flux: StarArray
    g_flux_source: StarFlags
    flags: StarFlags

    def __len__(self) -> int:
        return len(self.source_id)

    @property
    def usable(self) -> StarMask:
        return usable_stars(self.flags)

    @property
    def usable_with_one_band(self) -> StarMask:
        return usable_stars(self.flags, one_band=True)

    def take(self, rows: Int64[np.ndarray, " row"]) -> "StoredSpectra":
        """The stars of these rows."""
        return StoredSpectra(*(np.take(getattr(self, field.name), rows, axis=0) for field in fields(self)))
