"""Sampled spectra: flux on the archive's wavelengths, or on those that the file states."""

import numpy as np

from scattervae.arrays import FluxArray, SourceIds, Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.facts import MEDIAN_FLUX_NAME, SAMPLED_GRID_NM
from scattervae.gaia.files.cells import arrays, floats
from scattervae.gaia.files.columns import Columns
from scattervae.gaia.files.companions import read_g_flux
from scattervae.gaia.files.sampling import column_grid
from scattervae.gaia.files.skips import Skips
from scattervae.spectra.flags import Flag
from scattervae.spectra.spectra import SampledSpectra


def read_sampled(columns: Columns, source_id: SourceIds, skips: Skips) -> SampledSpectra:
    """Sampled spectra of all rows that can be used.

    Where the table gives the median flux by which flux and errors were divided, it is multiplied back.

    Raises:
        DataError: The spectra are not externally calibrated, or have not as many values as there are wavelengths.
    """
    if "xp" in columns:
        raise DataError(
            "holds internally calibrated sampled spectra (column xp, pseudo-wavelengths), which have no "
            "wavelengths; pass the continuous spectra that they were made from"
        )
    grid_nm = _grid(columns)
    flux, errors = (_on_grid(columns, name, skips, grid_nm) for name in ("flux", "flux_error"))
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
        grid_nm=grid_nm,
        g_flux=np.where((g_flux := read_g_flux(columns)) > 0, g_flux, np.nan),
        flags=flags,
    )
    return stars.take(skips.kept)


def _grid(columns: Columns) -> Wavelengths:
    """The wavelengths that the file states, else the archive's, whose files state none."""
    stated = column_grid(columns)
    stated = columns.grid_nm if stated is None else stated
    if stated is None or (stated.shape == SAMPLED_GRID_NM.shape and np.allclose(stated, SAMPLED_GRID_NM)):
        return SAMPLED_GRID_NM
    return stated


def _on_grid(columns: Columns, name: str, skips: Skips, grid_nm: Wavelengths) -> FluxArray:
    read = arrays(columns.cells[name])
    skips.add_unreadable(name, read)
    lengths = read.lengths[read.lengths > 0]
    n_grid = len(grid_nm)
    if len(lengths) and not (lengths == n_grid).any():
        raise DataError(
            f"column {name} holds {lengths[0]} values per star; expected {n_grid} "
            f"({grid_nm[0]:g} to {grid_nm[-1]:g} nm); give the wavelengths of another grid in a column wavelength, in "
            "the metadata as sampling, or in NAME_sampling.csv beside the file"
        )
    return read.matrix(n_grid)
