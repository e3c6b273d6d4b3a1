"""Gaia DR3's basis functions: coefficients to flux on a wavelength grid, and to the G flux.

Everything here is linear in the coefficients. The matrices are GaiaXPy's, read from the tables that it ships;
a basis that GaiaXPy does not know cannot be turned into flux.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import matplotlib
import numpy as np
from jaxtyping import Float, Float64

from scattervae.arrays import CoeffArray, CoeffVector, FluxArray, StarArray, Wavelengths
from scattervae.errors import DataError
from scattervae.gaia.facts import DR3_BASIS, G_ZERO_POINT
from scattervae.spectra.spectra import Basis, Correlations, Spectra

FluxMatrix = Float64[np.ndarray, "wavelength coeff"]

_CHUNK = 2048  # stars whose 2 x 1485 correlations are in float64 at once: 49 MB


@dataclass(frozen=True)
class Design:
    """What turns coefficients into flux, ``flux = matrix @ coeffs`` [W m^-2 nm^-1].

    Attributes:
        grid_nm: Wavelengths, 336 to 1020 nm in steps of 2 nm.
        matrix: Both bands' functions, each weighted by its share where BP and RP overlap (636 to 642 nm).
        alone: The functions unweighted, NaN outside the band: for a star that has only one band.
    """

    grid_nm: Wavelengths
    matrix: FluxMatrix
    alone: FluxMatrix


@dataclass(frozen=True)
class SampledFlux:
    """Stars as flux on a wavelength grid [W m^-2 nm^-1], NaN where a star has no spectrum.

    Attributes:
        grid_nm: Wavelengths.
        flux: Externally calibrated flux.
        errors: One standard deviation of each, always positive or NaN; neighbours are strongly correlated.
    """

    grid_nm: Wavelengths
    flux: FluxArray
    errors: FluxArray


def require_known(basis: Basis) -> None:
    """Refuse a basis whose functions GaiaXPy does not ship.

    Raises:
        DataError: Not 55 + 55 coefficients, or another basis than 56 (BP) and 57 (RP).
    """
    if not basis.agrees_with(DR3_BASIS):
        raise DataError(f"no flux or G flux from {basis}: GaiaXPy knows only {DR3_BASIS}")


@cache
def design() -> Design:
    """The merged design matrix of GaiaXPy's ``calibrate`` at its default sampling.

    Source:
        GaiaXPy, ``calibrator.calibrate``, and ``CalibrationAbsoluteSampledSpectrum`` for the limits of a band
        whose partner is missing (643 nm of BP, 635 nm of RP); file ``XpFilter_v375wiv142r.xml``.
    """
    grid_nm, weights, functions = _tables(None)
    limits = (grid_nm < 643)[:, None], (grid_nm > 635)[:, None]
    pairs = list(zip(functions, weights, limits, strict=True))
    return Design(
        grid_nm=grid_nm,
        matrix=np.hstack([f * w[:, None] for f, w, _ in pairs]),
        alone=np.hstack([np.where(inside, f, np.nan) for f, _, inside in pairs]),
    )


def sample_flux(spectra: Spectra) -> SampledFlux:
    r"""Flux of stars with errors propagated from their covariance.

    .. math:: f = A c, \qquad \sigma_f^2 = \mathrm{diag}(A\, D R D\, A^T), \quad D = \mathrm{diag}(e)

    A star with one band has flux in that band's range only. Where a star has no correlations, R is the
    identity: its flux errors are then **without correlations** and can be wrong by a factor of a few.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.

    Source:
        GaiaXPy, ``AbsoluteSampledSpectrum._sample_error`` (it divides the errors by the standard deviation of
        the solution and multiplies the result by it again).
    """
    require_known(spectra.basis)
    return _flux(spectra.coeffs, spectra.errors, spectra.correlations)


def flux_from_coeffs(coeffs: CoeffArray, errors: CoeffArray) -> SampledFlux:
    r"""Flux of plain coefficients of the DR3 basis, with independent errors (or scatter) propagated.

    .. math:: \sigma_f^2 = \sum_j A_{wj}^2 \sigma_j^2

    Args:
        coeffs: BP then RP, in archive units; a band that is all NaN is missing.
        errors: One sigma of each, measurement or intrinsic scatter; their signs do not matter.

    Raises:
        DataError: Not 110 coefficients.
    """
    if coeffs.shape[1] != DR3_BASIS.n_coeffs:
        raise DataError(f"{coeffs.shape[1]} coefficients a star; GaiaXPy knows only {DR3_BASIS}")
    return _flux(coeffs, errors, None)


def g_flux_from_coeffs(spectra: Spectra) -> StarArray:
    """Mean G flux computed from the coefficients [electron/s], NaN where a coefficient is missing.

    On real stars G agrees with the catalogue to 0.02 mag. A faint star's value may be negative.

    Raises:
        DataError: The basis is not one that GaiaXPy knows.

    Source:
        GaiaXPy's system ``Gaia_DR3_Vega``; Gaia Collaboration, Montegriffo et al. (2023), arXiv:2206.06215.
    """
    require_known(spectra.basis)
    # a sum for each star: BLAS adds in an order that depends on where among others the star stands
    return np.asarray((spectra.coeffs * _g_weights()).sum(axis=1))


@cache
def _g_weights() -> CoeffVector:
    """What each coefficient adds to the G flux [electron/s]."""
    system = "GaiaDr3Vega"
    _, weights, functions = _tables(system)
    energy = np.concatenate([f[0] * w[0] for f, w in zip(functions, weights, strict=True)])  # G is band 0
    return np.asarray(energy * 10 ** (0.4 * (G_ZERO_POINT - _zero_point(system))))


def _flux(coeffs: CoeffArray, errors: CoeffArray, correlations: Correlations | None) -> SampledFlux:
    grid = design()
    missing_bp, missing_rp = (np.isnan(coeffs[:, band]).all(axis=1) for band in (DR3_BASIS.bp, DR3_BASIS.rp))
    flux = np.full((len(coeffs), len(grid.grid_nm)), np.nan)
    variance = flux.copy()
    for stars, matrix, bands in (
        (~missing_bp & ~missing_rp, grid.matrix, (DR3_BASIS.bp, DR3_BASIS.rp)),
        (~missing_bp & missing_rp, grid.alone, (DR3_BASIS.bp,)),
        (missing_bp & ~missing_rp, grid.alone, (DR3_BASIS.rp,)),
    ):
        for rows in _chunks(np.flatnonzero(stars)):
            flux[rows] = sum(coeffs[rows, band] @ matrix[:, band].T for band in bands)
            variance[rows] = sum(
                _variance(errors[rows, band], matrix[:, band], _pairs(correlations, band, rows))
                for band in bands
            )
    return SampledFlux(grid_nm=grid.grid_nm, flux=flux, errors=np.sqrt(variance))


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]


def _pairs(
    correlations: Correlations | None, band: slice, rows: np.ndarray
) -> Float64[np.ndarray, "star pair"] | None:
    if correlations is None:
        return None
    pairs = (correlations.bp if band == DR3_BASIS.bp else correlations.rp)[rows].astype(np.float64)
    return np.where(np.isnan(pairs).any(axis=1, keepdims=True), 0.0, pairs)


def _variance(
    errors: Float64[np.ndarray, "star n"],
    matrix: Float64[np.ndarray, "wavelength n"],
    pairs: Float64[np.ndarray, "star pair"] | None,
) -> FluxArray:
    """The diagonal of A D R D A^T: one product with the squares of A and one with its columns' products."""
    variance: FluxArray = errors**2 @ (matrix**2).T
    if pairs is not None:
        i, j = np.tril_indices(errors.shape[1], -1)
        variance += (pairs * errors[:, i] * errors[:, j]) @ (2 * matrix[:, i] * matrix[:, j]).T
    return variance


@contextmanager
def as_if_not_imported() -> Iterator[None]:
    """Importing GaiaXPy changes warning filters and matplotlib's text for the whole process: undo it."""
    with warnings.catch_warnings(action="ignore"), matplotlib.rc_context():
        yield


def _tables(system: str | None) -> tuple[np.ndarray, list[np.ndarray], list[Float[np.ndarray, "row 55"]]]:
    """GaiaXPy's grid, and the weights and functions of BP and RP, of the sampling grid or of a system."""
    with as_if_not_imported():
        from gaiaxpy.core.config import load_xpmerge_from_xml, load_xpsampling_from_xml

        grid, weights = load_xpmerge_from_xml(system=system, bp_model=None if system is None else "v375wi")
        functions = load_xpsampling_from_xml(system=system)
    return grid, [weights["bp"], weights["rp"]], [functions["bp"].T, functions["rp"].T]


def _zero_point(system: str) -> float:
    with as_if_not_imported():
        from gaiaxpy.core.config import get_file
        from gaiaxpy.core.xml_utils import get_file_root, parse_array

        root = get_file_root(get_file("filter", "filter", system, "v375wi", "v142r"))
        return float(parse_array(root, "zeropoints")[0])
