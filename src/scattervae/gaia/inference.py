"""Coefficients inferred from sampled spectra: the inverse of `sample_flux`, as far as there is one.

A sampled spectrum holds about 97 of the 110 combinations of coefficients to useful precision. The others come
from a Gaussian prior fitted to the same spectra. Such coefficients are **inferred, not published**: every
star carries `Flag.INFERRED`, and `InferredCoeffs.provenance` says how they were made.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import CoeffArray, CoeffVector, FluxArray, StarArray, StarMask, Wavelengths
from scattervae.errors import DataError, counted
from scattervae.gaia.facts import DR3_BASIS
from scattervae.gaia.files.sampled import SampledSpectra
from scattervae.gaia.flux import Design, FluxMatrix, design
from scattervae.gaia.transport import archive_design, design_at, falling_sigma
from scattervae.spectra.spectra import UNUSABLE, Flag, Spectra

CoeffMatrix = Float64[np.ndarray, "coeff coeff"]
PixelVector = Float64[np.ndarray, " wavelength"]

NOISE_MARGIN = 3.0
"""Assumed noise over measured noise: rounding follows each star's own flux, and blue or red stars differ from the mean
spectrum that noise is shaped like. 3 recovers more than 1 or 10 (docs/measurements/inferred_coefficients.md)."""
NOISE_FLOOR = 6e-8
"""Relative noise below which float64 arithmetic no longer separates combinations: one float32 rounding."""
MEAN_COUNT, DIAGONAL_COUNT, FULL_COUNT = 1.0, 10.0, 100.0
"""How many stars the starting prior weighs against in the mean, the variances and the covariance."""
DIAGONAL_STEPS, FULL_STEPS = 60, 20
MOST_OUTSIDE = 1e-4
"""Largest share of a spectrum's norm that may lie outside what Gaia's basis functions can make: at most 2.5e-8 in the
archive's files, 1.3e-3 to 4e-3 on other wavelengths than stated, or with another instrument model."""
_ROUNDING = 1e-10  # of the largest singular value: what float64 leaves of combinations that make no flux
_SAMPLE = 2000  # stars that choose the matrix and measure the noise

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prior:
    """Gaussian of coefficients divided by their star's scale."""

    mean: CoeffVector
    root: CoeffMatrix  # lower factor of the covariance, whose own range of variances float64 does not hold

    @property
    def covariance(self) -> CoeffMatrix:
        return np.asarray(self.root @ self.root.T)


@dataclass(frozen=True)
class InferredCoeffs:
    """Stars whose coefficients were inferred from sampled spectra."""

    # the stars, with `Flag.INFERRED`; NaN where the sampled spectrum is incomplete. Their errors are those of the
    # flux brought back to coefficients, without the uncertainty of the inference
    spectra: Spectra
    scale: StarArray  # root mean square flux of each star [W m^-2 nm^-1]
    posterior_covariance: CoeffMatrix  # of the inference, the same for all stars in units of scale squared
    prior: Prior  # fitted to the spectra
    noise: float  # relative noise assumed, in units of the mean spectrum's shape
    n_determined: int  # combinations that the spectra determine better than the prior
    matrix_name: str  # which design matrix the spectra agree with
    n_teachers: int  # spectra that the prior was fitted to

    def covariance_of(self, row: int) -> CoeffMatrix:
        """Posterior covariance of one star's coefficients, in archive units."""
        return np.asarray(self.posterior_covariance * self.scale[row] ** 2)

    @property
    def provenance(self) -> str:
        """One sentence for files made from these coefficients."""
        return (
            f"coefficients inferred from sampled spectra, not published: {self.n_determined} of "
            f"{len(self.prior.mean)} combinations from the flux ({self.matrix_name}, relative noise "
            f"{self.noise:.1e}), the others from a Gaussian prior fitted to "
            f"{counted(self.n_teachers, 'spectrum', 'spectra')}"
        )


def infer_coeffs(sampled: SampledSpectra) -> InferredCoeffs:
    r"""Coefficients c of sampled spectra f by a Gaussian model whose prior is fitted to them by EM.

    .. math:: f / s = A c + \epsilon, \qquad \epsilon_w \sim N(0, \sigma^2 r_w^2), \qquad c \sim N(m, S)

    with s each star's root mean square flux and r the root mean square spectrum. A is the archive's matrix
    (`archive_design`, `design_at` on other wavelengths) or GaiaXPy's, whichever the spectra lie closer to; sigma is
    measured from what lies outside it. S is first diagonal, then full, each held by pseudo-counts: one star is enough.
    Where more than `MOST_OUTSIDE` of a spectrum lies outside, the star is flagged.

    Args:
        sampled: Spectra on any wavelengths, more than Gaia's basis functions can follow one by one; only stars without
            a flag teach the prior.

    Raises:
        DataError: Too few wavelengths, or no complete spectrum that Gaia's basis functions can make.

    Source:
        EM for a linear Gaussian model: Bishop (2006), sections 2.3.3 and 12.2; posterior covariances are kept
        as square roots since their eigenvalues span 14 decades.
    """
    candidates = _candidates(sampled.grid_nm)
    good = np.isfinite(sampled.flux).all(axis=1) & (sampled.flux != 0).any(axis=1)
    good &= (sampled.flags & np.uint16(Flag.BAD_COEFFS)) == 0
    good &= _inside(sampled, good, candidates)
    teachers = good & ((sampled.flags & np.uint16(UNUSABLE)) == 0)
    teachers = teachers if teachers.any() else good
    scale = np.sqrt(np.square(sampled.flux).mean(axis=1))
    shape = np.sqrt((np.square(sampled.flux[teachers]) / scale[teachers, None] ** 2).mean(axis=0) + 1e-4)
    sample = np.flatnonzero(teachers)[:: max(1, int(teachers.sum()) // _SAMPLE)]
    name, grid, noise = _closest_design(sampled.flux[sample] / scale[sample, None] / shape, shape, candidates)
    model = _Whitened.of(grid.matrix, noise * shape)
    z = model.compress(sampled.flux[good], scale[good])
    prior = _fitted_prior(model, z[teachers[good]], _starting_sigma(grid.matrix))
    posterior = model.posterior(prior)
    coeffs = np.full((len(sampled), DR3_BASIS.n_coeffs), np.nan)
    coeffs[good] = posterior.mean_of(z) * scale[good, None]
    errors = np.full_like(coeffs, np.nan)
    errors[good] = coeff_errors(sampled.errors[good], grid.matrix)
    _logger.info("%d spectra: %s, noise %.1e, %d determined", good.sum(), name, noise, posterior.n_determined)
    spectra = Spectra.of(sampled.source_id, coeffs, errors, basis=DR3_BASIS, g_flux=sampled.g_flux)
    bad = np.where(good, 0, Flag.BAD_COEFFS).astype(np.uint16)
    return InferredCoeffs(
        spectra=spectra.with_flags(sampled.flags | bad | np.uint16(Flag.INFERRED)),
        scale=scale,
        posterior_covariance=posterior.root @ posterior.root.T,
        prior=prior,
        noise=noise,
        n_determined=posterior.n_determined,
        matrix_name=name,
        n_teachers=int(teachers.sum()),
    )


@dataclass(frozen=True)
class _Posterior:
    """Of one star's scaled coefficients: mean ``offset + gain @ z``, covariance ``root @ root.T``."""

    offset: CoeffVector
    gain: CoeffMatrix
    root: CoeffMatrix
    n_determined: int

    def mean_of(self, z: CoeffArray) -> CoeffArray:
        return np.asarray(self.offset + z @ self.gain.T)


@dataclass(frozen=True)
class _Whitened:
    """The model ``z = R c + unit noise`` that holds all a spectrum says about its coefficients."""

    triangle: CoeffMatrix
    projection: FluxMatrix

    @classmethod
    def of(cls, matrix: FluxMatrix, sigma: PixelVector) -> "_Whitened":
        q, triangle = np.linalg.qr(matrix / sigma[:, None])
        return cls(triangle=triangle, projection=q / sigma[:, None])

    def compress(self, flux: FluxArray, scale: StarArray) -> CoeffArray:
        return np.asarray((flux @ self.projection) / scale[:, None])

    def posterior(self, prior: Prior) -> _Posterior:
        u, s, vt = np.linalg.svd(self.triangle @ prior.root)
        root = prior.root @ vt.T
        gain = (root * (s / (s**2 + 1))) @ u.T
        return _Posterior(
            offset=prior.mean - gain @ (self.triangle @ prior.mean),
            gain=gain,
            root=root / np.sqrt(s**2 + 1),
            n_determined=int((s > 1).sum()),
        )


def _fitted_prior(model: _Whitened, z: CoeffArray, start: CoeffVector) -> Prior:
    """EM on the spectra's first two moments; their number costs nothing."""
    n, centre = len(z), z.mean(axis=0)
    spread: CoeffArray = np.asarray(np.linalg.qr((z - centre) / np.sqrt(n), mode="r"))
    prior = Prior(mean=np.zeros_like(start), root=np.diag(start))
    sigma = start
    for step in range(DIAGONAL_STEPS + FULL_STEPS):
        posterior = model.posterior(prior)
        mean = (n / (n + MEAN_COUNT)) * posterior.mean_of(centre[None])[0]
        miss = (posterior.mean_of(centre[None])[0] - mean)[None]
        parts = np.vstack([spread @ posterior.gain.T, miss, posterior.root.T]) * np.sqrt(n)
        if step < DIAGONAL_STEPS:
            total = (parts**2).sum(axis=0) + MEAN_COUNT * mean**2 + DIAGONAL_COUNT * start**2
            sigma = np.sqrt(total / (n + MEAN_COUNT + DIAGONAL_COUNT))
            root = np.diag(sigma)
        else:
            stack = np.vstack([parts, np.sqrt(FULL_COUNT) * np.diag(sigma)])
            root = np.asarray(np.linalg.qr(stack / np.sqrt(n + FULL_COUNT), mode="r")).T
        prior = replace(prior, mean=mean, root=root)
    return prior


def _starting_sigma(matrix: FluxMatrix) -> CoeffVector:
    """Standard deviations that fall fast over the first orders and slowly after, as real coefficients do.

    The first is what makes a spectrum of unit root mean square by itself.
    """
    sigma = np.zeros(DR3_BASIS.n_coeffs)
    for band in (DR3_BASIS.bp, DR3_BASIS.rp):
        sigma[band] = falling_sigma(band.stop - band.start)
        sigma[band] /= np.sqrt(np.square(matrix[:, band.start]).mean())
    return sigma


def _candidates(grid_nm: Wavelengths) -> dict[str, Design]:
    """The matrices that spectra on these wavelengths may have been made with."""
    default = design().grid_nm
    if grid_nm.shape == default.shape and np.allclose(grid_nm, default):
        return {"the archive's matrix": archive_design(), "GaiaXPy's matrix": design()}
    return {
        "the archive's matrix on other wavelengths": design_at(grid_nm),
        "GaiaXPy's matrix on other wavelengths": design_at(grid_nm, ends="not-a-knot"),
    }


def _inside(sampled: SampledSpectra, good: StarMask, candidates: dict[str, Design]) -> StarMask:
    """True for the complete spectra that the closest of the matrices can make."""
    if not good.any():
        raise DataError(f"none of {len(sampled)} sampled spectra is complete: nothing to infer from")
    shares = min((_share_outside(sampled, good, grid) for grid in candidates.values()), key=np.median)
    inside = np.zeros(len(sampled), dtype=bool)
    inside[np.flatnonzero(good)[shares <= MOST_OUTSIDE]] = True
    n_outside = int(good.sum() - inside.sum())
    grid = _span(sampled.grid_nm)
    if not inside.any():
        raise DataError(
            f"sampled spectra are not Gaia's on {grid}: {np.median(shares):.0e} of their norm lies outside what its "
            f"basis functions make (at most {MOST_OUTSIDE:g} is taken); give the wavelengths that they are on, in a "
            "column wavelength, in the metadata as sampling, or in NAME_sampling.csv beside the file"
        )
    if n_outside:
        _logger.warning(
            "%d of %d sampled spectra are flagged BAD_COEFFS: up to %.0e of their norm lies outside what Gaia's basis "
            "functions make on %s",
            n_outside,
            int(good.sum()),
            shares.max(),
            grid,
        )
    return inside


def _share_outside(sampled: SampledSpectra, good: StarMask, grid: Design) -> Float64[np.ndarray, " good"]:
    """The share of each complete spectrum's norm that no coefficients make."""
    size = np.sqrt(np.square(grid.matrix).mean(axis=0))
    if not size.all():
        raise DataError(f"sampled spectra on {_span(grid.grid_nm)}; expected wavelengths in both BP and RP")
    columns = grid.matrix / size
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    u = u[:, s > _ROUNDING * s[0]]
    if len(grid.grid_nm) <= u.shape[1]:
        raise DataError(
            f"sampled spectra on {_span(grid.grid_nm)}, too few to separate Gaia's spectra from others; "
            f"expected more than {u.shape[1]}"
        )
    flux = sampled.flux[good]
    outside = flux - (flux @ u) @ u.T
    shares: Float64[np.ndarray, " good"] = np.linalg.norm(outside, axis=1) / np.linalg.norm(flux, axis=1)
    return shares


def _closest_design(
    relative: FluxArray, shape: PixelVector, candidates: dict[str, Design]
) -> tuple[str, Design, float]:
    """The matrix that leaves least of these spectra, in units of their mean shape, and its noise."""
    found = []
    for name, grid in candidates.items():
        q = np.linalg.qr(grid.matrix / shape[:, None])[0]
        outside = relative - (relative @ q) @ q.T
        free = max(len(shape) - q.shape[1], 1)
        noise = float(np.sqrt(np.median(np.square(outside).sum(axis=1)) / free))
        found.append((noise, name, grid))
    noise, name, grid = min(found, key=lambda candidate: candidate[0])
    return name, grid, max(NOISE_MARGIN * noise, NOISE_FLOOR)


def _span(grid_nm: Wavelengths) -> str:
    return f"{len(grid_nm)} points from {grid_nm.min():g} to {grid_nm.max():g} nm"


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


def coeff_errors(flux_errors: FluxArray, matrix: FluxMatrix) -> CoeffArray:
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
    template = _error_mode(target[None], _error_start(target, squares), squares)[0]
    for start in range(0, len(good), _CHUNK):
        rows = good[start : start + _CHUNK]
        target = 2 * np.log(flux_errors[rows]) - np.log(scale[rows])[:, None]
        log_variance = _error_mode(target, template, squares)
        errors[rows] = np.exp(0.5 * log_variance) * np.sqrt(scale[rows] / np.square(matrix).mean())[:, None]
    return errors


def _error_mode(target: FluxArray, template: CoeffVector, squares: FluxMatrix) -> CoeffArray:
    """ln variances by Gauss-Newton steps with the slope at the template, which serves all stars."""
    slope = squares * np.exp(template)
    slope /= slope.sum(axis=1, keepdims=True)
    prior = _error_prior()
    spread = slope @ prior @ slope.T + TOLERANCE**2 * np.eye(len(slope))
    gain = np.asarray(np.linalg.solve(spread, slope @ prior).T)
    departure = np.zeros((len(target), len(template)))
    for _ in range(_STEPS):
        residual = target - np.log(np.exp(template + departure) @ squares.T)
        departure = (residual + departure @ slope.T) @ gain.T
    return np.asarray(template + departure)


def _error_prior() -> Float64[np.ndarray, "coeff coeff"]:
    covariance = np.zeros((DR3_BASIS.n_coeffs, DR3_BASIS.n_coeffs))
    for band in (DR3_BASIS.bp, DR3_BASIS.rp):
        order = np.arange(band.stop - band.start)
        smooth = np.exp(-0.5 * ((order[:, None] - order) / LENGTH) ** 2)
        covariance[band, band] = LEVEL**2 + BEND**2 * smooth
    return covariance


def _error_start(target: Float64[np.ndarray, " wavelength"], squares: FluxMatrix) -> CoeffVector:
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
