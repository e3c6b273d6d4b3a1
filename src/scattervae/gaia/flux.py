"""From coefficients to flux on wavelengths, errors propagated, as GaiaXPy's ``calibrate`` has it."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from jaxtyping import Float, Float32, Float64

from scattervae.arrays import CoeffArray, FluxArray, StarArray, Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.basis import catalogue_g_flux, is_known, known_bases, require_known, tables_of_gaiaxpy
from scattervae.gaia.facts import DR3_BASIS
from scattervae.spectra.spectra import Basis, Correlations, Spectra

FluxMatrix = Float64[np.ndarray, "wavelength coeff"]
_CHUNK = 2048  # stars whose 2 x 1485 correlations are in float64 at once: 49 MB


@dataclass(frozen=True)
class Design:
    """What turns coefficients into flux, ``flux = matrix @ coeffs`` [W m^-2 nm^-1]."""

    grid_nm: Wavelengths  # wavelengths, 336 to 1020 nm in steps of 2 nm
    # both bands' functions, each weighted by its share where BP and RP overlap (636 to 642 nm)
    matrix: FluxMatrix
    alone: FluxMatrix  # the functions unweighted, NaN outside the band: for a star that has only one band


@dataclass(frozen=True)
class SampledFlux:
    """Stars as flux on a wavelength grid [W m^-2 nm^-1], NaN where a star has no spectrum."""

    grid_nm: Wavelengths
    flux: FluxArray  # externally calibrated
    errors: FluxArray  # one standard deviation of each, positive or NaN; neighbours are strongly correlated


def design(basis: Basis = DR3_BASIS) -> Design:
    """The merged design matrix of GaiaXPy's ``calibrate`` at its default sampling.

    Source:
        GaiaXPy, ``calibrator.calibrate``, and ``CalibrationAbsoluteSampledSpectrum`` for the limits of a band
        whose partner is missing (643 nm of BP, 635 nm of RP); for DR3, file ``XpFilter_v375wiv142r.xml``.
    """
    return _design(known_bases()[require_known(basis)])


@cache
def _design(model: str) -> Design:
    grid_nm, weights, functions = tables_of_gaiaxpy(model, None)
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

    Source:
        GaiaXPy, ``AbsoluteSampledSpectrum._sample_error`` (it divides the errors by the standard deviation of
        the solution and multiplies the result by it again).
    """
    return _flux(spectra.coeffs, spectra.errors, spectra.correlations, spectra.basis)


def flux_from_coeffs(coeffs: CoeffArray, errors: CoeffArray, basis: Basis = DR3_BASIS) -> SampledFlux:
    r"""Flux of plain coefficients, with independent errors (or scatter) propagated.

    .. math:: \sigma_f^2 = \sum_j A_{wj}^2 \sigma_j^2

    Args:
        coeffs: BP then RP, in archive units; a band that is all NaN is missing.
        errors: One sigma of each, measurement or intrinsic scatter; their signs do not matter.
    """
    if coeffs.shape[1] != basis.n_coeffs:
        raise DataError(f"{counted(coeffs.shape[1], 'coefficient')} per star; expected {basis}")
    return _flux(coeffs, errors, None, basis)


def _flux(
    coeffs: CoeffArray, errors: CoeffArray, correlations: Correlations | None, basis: Basis
) -> SampledFlux:
    grid = design(basis)
    pairs = (None, None) if correlations is None else (correlations.bp, correlations.rp)
    bp, rp = zip((basis.bp, basis.rp), pairs, strict=True)
    missing_bp, missing_rp = (np.isnan(coeffs[:, band]).all(axis=1) for band in (basis.bp, basis.rp))
    flux = np.full((len(coeffs), len(grid.grid_nm)), np.nan)
    variance = flux.copy()
    for stars, matrix, bands in (
        (~missing_bp & ~missing_rp, grid.matrix, (bp, rp)),
        (~missing_bp & missing_rp, grid.alone, (bp,)),
        (missing_bp & ~missing_rp, grid.alone, (rp,)),
    ):
        own = np.flatnonzero(stars)
        for rows in (own[start : start + _CHUNK] for start in range(0, len(own), _CHUNK)):
            flux[rows] = sum(coeffs[rows, band] @ matrix[:, band].T for band, _ in bands)
            variance[rows] = sum(
                _variance(errors[rows, band], matrix[:, band], _known_pairs(correlated, rows))
                for band, correlated in bands
            )
    return SampledFlux(grid_nm=grid.grid_nm, flux=flux, errors=np.sqrt(variance))


def _known_pairs(
    correlations: Float32[np.ndarray, "star pair"] | None, rows: np.ndarray
) -> Float64[np.ndarray, "row pair"] | None:
    if correlations is None:
        return None
    pairs = correlations[rows].astype(np.float64)
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


def scale_to(g_flux: StarArray, coeffs: CoeffArray, basis: Basis) -> Float[np.ndarray, "star 1"]:
    """What makes mean spectra integrate to their G flux; 1 where that cannot be computed."""
    if not is_known(basis):
        return np.ones((len(coeffs), 1))
    ids = np.arange(1, len(coeffs) + 1)
    scale, spectra = np.ones(len(coeffs)), Spectra.of(ids, coeffs, np.ones_like(coeffs), basis=basis)
    for _ in range(2):  # the correction depends a little on G
        scaled = replace(spectra, coeffs=scale[:, None] * coeffs)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = scale * g_flux / catalogue_g_flux(scaled)
        scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    return np.asarray(scale[:, None])
