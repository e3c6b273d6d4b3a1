"""Sampled spectra: flux on the archive's wavelength grid."""

import numpy as np

from scattervae.arrays import FluxArray, SourceIds
from scattervae.errors import DataError
from scattervae.gaia.facts import MEDIAN_FLUX_NAME, SAMPLED_GRID_NM
from scattervae.gaia.files.cells import arrays, floats
from scattervae.gaia.files.columns import Columns
from scattervae.gaia.files.companions import read_g_flux
from scattervae.gaia.files.skips import Skips
from scattervae.spectra.flags import Flag
from scattervae.spectra.spectra import SampledSpectra


def read_sampled(columns: Columns, source_id: SourceIds, skips: Skips) -> SampledSpectra:
    """Sampled spectra of all rows that can be used.

    Where the table gives the median flux by which flux and errors were divided, it is multiplied back.

    Raises:
        DataError: The spectra are not externally calibrated, or on another grid than the archive's.
    """
    if "xp" in columns:
        raise DataError(
            "holds internally calibrated sampled spectra (column xp, pseudo-wavelengths), which have no "
            "wavelengths; pass the continuous spectra that they were made from"
        )
    flux, errors = (_on_grid(columns, name, skips) for name in ("flux", "flux_error"))
    if MEDIAN_FLUX_NAME in columns:
        median = floats(columns.cells[MEDIAN_FLUX_NAME])[:, None]
        median = np.where(median > 0, median, np.nan)
        with np.errstate(over="ignore", invalid="ignore"):
            flux, errors = flux * median, errors * median
    good = np.isfinite(flux) & np.isfinite(errors) & (errors > 0)
    flags = np.where(good.all(axis=1), 0, Flag.BAD_COEFFS).astype(np.uint16)
    stars = SampledSpectra(
        source_id=source_id,
        flux=flux,
        errors=errors,
        grid_nm=SAMPLED_GRID_NM,
        g_flux=np.where((g_flux := read_g_flux(columns)) > 0, g_flux, np.nan),
        flags=flags,
    )
    return stars.take(skips.kept)


def _on_grid(columns: Columns, name: str, skips: Skips) -> FluxArray:
    read = arrays(columns.cells[name])
    skips.add_unreadable(name, read)
    lengths = read.lengths[read.lengths > 0]
    n_grid = len(SAMPLED_GRID_NM)
    if len(lengths) and not (lengths == n_grid).any():
        raise DataError(
            f"column {name} holds {lengths[0]} values a star; expected {n_grid} "
            f"({SAMPLED_GRID_NM[0]:.0f} to {SAMPLED_GRID_NM[-1]:.0f} nm in steps of 2 nm)"
        )
    return read.matrix(n_grid)
