"""Errors of coefficients from the errors of a sampled spectrum: a smooth, positive answer."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import CoeffArray, CoeffVector, FluxArray
from scattervae.gaia.basis import FluxMatrix
from scattervae.gaia.facts import DR3_BASIS

Matrix = Float64[np.ndarray, "coeff wavelength"]

CURVE = 1.4
"""Prior mean: ln variance falls by this much from the first order of a band to the last, with the square of
the order, as it does on average in 999 field stars with published errors."""
LEVEL, BEND, LENGTH = 3.0, 0.2, 20.0
"""Prior: one sigma of a band's level and of the smooth departure from `CURVE` in ln variance, and the number
of orders over which that departure changes."""
TOLERANCE = 0.3
"""How far ln flux variance may lie from independent coefficients: what their real correlations do to it."""
_STEPS = 8
_CHUNK = 4096


def coeff_errors(
    flux_errors: FluxArray, matrix: FluxMatrix, *, progress: Callable[[int], None] | None = None
) -> CoeffArray:
    r"""One error a coefficient, such that independent errors would give about these flux errors.

    With :math:`v = \exp(t + d)` the coefficients' variances, the posterior mode of

    .. math:: \ln \sigma_w^2 = \ln \sum_j A_{wj}^2 v_j + \epsilon_w, \qquad d \sim N(0, K)

    where t is a template shared by all stars (found the same way from their median) and K lets each band's
    level go free but holds it smooth along the orders. No error is zero or negative. Real errors are
    correlated, which flux errors alone cannot show: expect single errors good to about 20 %.

    Args:
        flux_errors: One sigma on the grid of `matrix`; a row with a value that is not positive gives NaN.
    """
    errors = np.full((len(flux_errors), matrix.shape[1]), np.nan)
    good = np.flatnonzero((flux_errors > 0).all(axis=1) & np.isfinite(flux_errors).all(axis=1))
    if len(good) == 0:
        return errors
    squares = matrix**2 / np.square(matrix).mean()
    sample = good[:: max(1, len(good) // 4000)]
    scale = np.square(flux_errors).mean(axis=1)
    target = np.median(2 * np.log(flux_errors[sample]) - np.log(scale[sample])[:, None], axis=0)
    template = _mode(target[None], _start(target, squares), squares)[0]
    for start in range(0, len(good), _CHUNK):
        rows = good[start : start + _CHUNK]
        target = 2 * np.log(flux_errors[rows]) - np.log(scale[rows])[:, None]
        log_variance = _mode(target, template, squares)
        errors[rows] = np.exp(0.5 * log_variance) * np.sqrt(scale[rows] / np.square(matrix).mean())[:, None]
        if progress is not None:
            progress(start + len(rows))
    return errors


def _mode(target: FluxArray, template: CoeffVector, squares: FluxMatrix) -> CoeffArray:
    """ln variances by Gauss-Newton steps with the slope at the template, which serves all stars."""
    slope = squares * np.exp(template)
    slope /= slope.sum(axis=1, keepdims=True)
    prior = _prior()
    spread = slope @ prior @ slope.T + TOLERANCE**2 * np.eye(len(slope))
    gain: Matrix = np.linalg.solve(spread, slope @ prior).T
    departure = np.zeros((len(target), len(template)))
    for _ in range(_STEPS):
        residual = target - np.log(np.exp(template + departure) @ squares.T)
        departure = (residual + departure @ slope.T) @ gain.T
    return np.asarray(template + departure)


def _prior() -> Float64[np.ndarray, "coeff coeff"]:
    covariance = np.zeros((DR3_BASIS.n_coeffs, DR3_BASIS.n_coeffs))
    for band in (DR3_BASIS.bp, DR3_BASIS.rp):
        order = np.arange(band.stop - band.start)
        smooth = np.exp(-0.5 * ((order[:, None] - order) / LENGTH) ** 2)
        covariance[band, band] = LEVEL**2 + BEND**2 * smooth
    return covariance


def _start(target: Float64[np.ndarray, " wavelength"], squares: FluxMatrix) -> CoeffVector:
    """The prior mean with each band's level set where the band is alone."""
    start = np.zeros(DR3_BASIS.n_coeffs)
    for band in (DR3_BASIS.bp, DR3_BASIS.rp):
        order = np.linspace(0, 1, band.stop - band.start)
        start[band] = -CURVE * order**2
        flux = squares[:, band] @ np.exp(start[band])
        alone = flux > 0
        alone &= np.delete(squares, np.arange(band.start, band.stop), axis=1).sum(axis=1) == 0
        alone = alone if alone.any() else flux > 0
        if alone.any():
            start[band] += (target[alone] - np.log(flux[alone])).mean()
    return start
