r"""The likelihood with every covariance that Gaia publishes: correlated coefficients, and the error of the G flux.

The measured coefficients of a star, in training standard deviations, have the covariance

.. math::

    S = \mathrm{blockdiag}_{BP, RP} \left( \mathrm{diag}(\sigma)\, R\, \mathrm{diag}(\sigma) \right)
        + \mathrm{diag}(\hat\sigma_s^2) + g^2 u u^T

with R the archive's correlations and g the relative error of the G flux. All coefficients are divided by the
same measured flux :math:`G (1 + g \eta)`, which moves coefficient i over G flux, :math:`u_i`, by
:math:`-g \eta u_i`: a rank-one term that ties BP to RP. In training standard deviations
:math:`u_i = x_i + \bar x_i / s_i`, with :math:`\bar x_i` and :math:`s_i` the mean and standard deviation that
x was scaled by, and **not** :math:`x_i`: an average star has the error too. The model's u enters, not the observed
one: the true spectrum is what was scaled, the density then integrates to 1, and a common factor whose error is
taken from the data pulls fits low (D'Agostini 1994, Nucl. Instrum. Methods A 346, 306).
"""

import logging
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scattervae.arrays import Coeffs, PerStar, StarArray
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import GFluxSource, Spectra

logger = logging.getLogger(__name__)

SMALLEST_EIGENVALUE = 1e-3
"""Of a correlation matrix that is used: the rounding of float32 then moves chi^2 by less than 1 %, 55 x 6e-8 over it,
at any scatter. Published ones have 0.016 and more (17 of nine stars of G 5 to 18)."""
_STARS_AT_ONCE = 1024

Pairs = Float[Tensor, "star pair"]
Matrices = Float[Tensor, "star coeff coeff"]


class CorrelatedNoise(NamedTuple):
    """What is known of the noise of some stars beyond the error of each coefficient."""

    # correlations of the BP coefficients, strict lower triangle row by row; 0 where a star has none
    bp: Float[Tensor, "star bp_pair"]
    rp: Float[Tensor, "star rp_pair"]  # the same of RP
    g_error: PerStar  # relative error of the G flux; 0 where not known
    # mean over standard deviation of each coefficient, so that x + origin is the coefficient over G flux
    origin: Float[Tensor, " coeff"]
    given: Bool[Tensor, " star"]  # stars whose correlations are used
    # stars with correlations that are none: not positive definite, or incomplete
    refused: Bool[Tensor, " star"]

    @classmethod
    def of(
        cls, spectra: Spectra, normalization: Normalization, *, g_flux_error: StarArray | None = None
    ) -> "CorrelatedNoise":
        """The noise of these stars as the model sees them; correlations that are none are left out, with a warning.

        Args:
            spectra: Stars; those without correlations have independent coefficients.
            normalization: Which coefficients are used, and how they are scaled.
            g_flux_error: One standard deviation of each star's G flux [electron/s], NaN where unknown; not used
                where the G flux was computed from the coefficients, whose errors it then shares.
        """
        sizes = normalization.bp.stop, normalization.n_coeffs - normalization.bp.stop
        n = len(spectra)
        given, refused = torch.zeros(n, dtype=torch.bool), torch.zeros(n, dtype=torch.bool)
        triangles = []
        published = spectra.correlations
        for size, values in zip(
            sizes, (None, None) if published is None else (published.bp, published.rp), strict=True
        ):
            pairs = torch.zeros(n, size * (size - 1) // 2)
            if values is not None:
                pairs.numpy()[:] = values[:, : pairs.shape[1]]  # of the first orders: the first rows
                there, sound = ~pairs.isnan().all(dim=1), is_sound(pairs)
                pairs[~sound] = 0.0
                given |= sound & there
                refused |= there & ~sound
            triangles.append(pairs)
        if refused.any():
            logger.warning(
                "%d of %d stars have correlations that are no correlation matrix (smallest eigenvalue below %g, "
                "or a value is missing): their coefficients are taken as independent",
                int(refused.sum()),
                n,
                SMALLEST_EIGENVALUE,
            )
        relative = np.zeros(n) if g_flux_error is None else g_flux_error / spectra.g_flux
        known = np.isfinite(relative) & (spectra.g_flux_source == GFluxSource.TABLE)
        origin = torch.from_numpy((normalization.mean / normalization.std).astype(np.float32))
        g_error = torch.from_numpy(np.where(known, relative, 0.0).astype(np.float32))
        return cls(triangles[0], triangles[1], g_error, origin, given, refused)

    @property
    def bands(self) -> tuple[tuple[Tensor, slice], tuple[Tensor, slice]]:
        """The correlations of BP and of RP, each with the slice of its coefficients."""
        n_bp = size_of(self.bp)
        return (self.bp, slice(0, n_bp)), (self.rp, slice(n_bp, n_bp + size_of(self.rp)))

    def take(self, rows: Tensor | slice) -> "CorrelatedNoise":
        """That of these stars."""
        return self._replace(**{name: getattr(self, name)[rows] for name in self._fields if name != "origin"})

    def to(self, target: torch.device | torch.dtype) -> "CorrelatedNoise":
        """The same on another device, or its numbers of another type."""
        everything = isinstance(target, torch.device)
        return CorrelatedNoise(*(v.to(target) if everything or v.is_floating_point() else v for v in self))

    def independent(self) -> "CorrelatedNoise":
        """The same stars without correlations and error of the G flux."""
        none = torch.zeros_like(self.given)
        bp, rp, g_error = (torch.zeros_like(values) for values in (self.bp, self.rp, self.g_error))
        return CorrelatedNoise(bp, rp, g_error, self.origin, none, none)

    def draw(self, noise: Coeffs) -> Coeffs:
        """Standard normal draws made as correlated as each star's coefficients, still of unit variance."""
        return torch.cat([correlate(pairs, noise[:, band]) for pairs, band in self.bands], dim=1)


def correlate(pairs: Pairs, noise: Coeffs) -> Coeffs:
    """Standard normal draws for one band made as correlated as these pairs say."""
    root, _ = torch.linalg.cholesky_ex(square(pairs))
    return torch.bmm(noise[:, None], root.mT)[:, 0]


def square(pairs: Pairs) -> Matrices:
    """Correlation matrices from their strict lower triangles, row by row."""
    n = size_of(pairs)
    index = torch.full((n, n), pairs.shape[1], device=pairs.device)
    row, column = torch.tril_indices(n, n, offset=-1, device=pairs.device)
    index[row, column] = index[column, row] = torch.arange(pairs.shape[1], device=pairs.device)
    with_one = torch.nn.functional.pad(pairs, (0, 1), value=1.0)
    return with_one.index_select(1, index.flatten()).view(-1, n, n)


def is_sound(pairs: Pairs) -> Bool[Tensor, " star"]:
    """True where all pairs are there and no eigenvalue of the matrix lies below `SMALLEST_EIGENVALUE`."""
    n = size_of(pairs)
    lowered = SMALLEST_EIGENVALUE * torch.eye(n, dtype=torch.float64, device=pairs.device)
    parts = [
        torch.linalg.cholesky_ex(square(part.double().nan_to_num(math.inf)) - lowered).info == 0
        for part in torch.split(pairs, _STARS_AT_ONCE)
    ]
    finite = pairs.isfinite().all(dim=1)
    return torch.cat(parts) & finite if parts else finite


def size_of(pairs: Tensor | np.ndarray) -> int:
    """Of the matrix with so many pairs."""
    return (1 + math.isqrt(1 + 8 * pairs.shape[1])) // 2


class FullTerms(NamedTuple):
    r"""The two terms of each star's negative log-likelihood in nats; :math:`\tfrac12 N \ln 2\pi` is left out."""

    chi2: PerStar  # :math:`\tfrac12 r^T S^{-1} r`, with r = x - mean
    penalty: PerStar  # :math:`\tfrac12 \ln |S|`


def full_terms(
    x: Coeffs, errors: Coeffs, *, mean: Coeffs, scatter: Coeffs, noise: CorrelatedNoise
) -> FullTerms:
    r"""Chi^2 and penalty under the whole covariance.

    Without correlations and error of the G flux, they are those of independent coefficients.

    Args:
        x: Observed coefficients, in training standard deviations; any number where missing.
        errors: Their errors, same units; infinite for a missing coefficient, which then adds nothing: what is left is
            the likelihood of the others.
        mean: Of the model, same units.
        scatter: Of the model, same units; above 0.
        noise: Correlations and error of the G flux.

    Source:
        Laroche & Speagle (2023), eqs. 3 and 4, with a covariance; the Gaia archive's
        ``xp_continuous_mean_spectrum`` for R.
    """
    free = x - mean, scatter.square(), mean + noise.origin
    return FullTerms(*_FullTerms.apply(*free, errors, noise))  # type: ignore[no-untyped-call]


class _FullTerms(torch.autograd.Function):
    r"""The terms with their gradients written out, a third of the work of differentiating the Cholesky factor.

    With B the blocks and the scatter alone, :math:`w = B^{-1} r`, :math:`v = B^{-1} u`, :math:`a = 1 + g^2 u^T v` and
    :math:`b = u^T w`, Sherman and Morrison's formula and the determinant lemma give

    .. math::

        S^{-1} r = w - g^2 \tfrac{b}{a} v, \quad r^T S^{-1} r = r^T w - g^2 \tfrac{b^2}{a}, \quad |S| = a |B|, \quad
        \mathrm{diag}\, S^{-1} = \mathrm{diag}\, B^{-1} - g^2 \tfrac{v^2}{a}

    and half chi^2 and half the logarithm have the gradients

    .. math::

        \nabla_r = S^{-1} r, \quad
        \nabla_{s^2} = \tfrac12 \left( \mathrm{diag}\, S^{-1} - (S^{-1} r)^2 \right), \quad
        \nabla_u = \tfrac{g^2}{a} \left( v - b\, S^{-1} r \right)

    Every matrix is divided by the total standard deviations of its rows and columns, so that a coefficient of infinite
    error is a row of the unit matrix.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 -- PyTorch passes them by position
        ctx: Any, residual: Coeffs, variance: Coeffs, flux: Coeffs, errors: Coeffs, noise: CorrelatedNoise
    ) -> tuple[PerStar, PerStar]:
        total = errors.square() + variance
        sd = total.sqrt()
        both = torch.stack([residual / sd, flux / sd], dim=1)  # 0 where missing
        share = (errors / sd).masked_fill(total.isinf(), 0.0)
        solved, roots = [], []
        log_det = total.log().masked_fill(total.isinf(), 0.0).sum(dim=-1)
        for pairs, band in noise.bands:
            root, trouble = torch.linalg.cholesky_ex(_scaled(pairs, share[:, band]))
            diagonal = root.diagonal(dim1=1, dim2=2).log().sum(dim=-1)
            log_det = log_det + 2.0 * diagonal.masked_fill(trouble > 0, math.nan)
            solved.append(torch.linalg.solve_triangular(root.mT, both[:, :, band], upper=True, left=False))
            roots.append(root)
        r, u = torch.cat(solved, dim=-1).unbind(dim=1)
        squared = noise.g_error.square()
        a, b = 1.0 + squared * u.square().sum(dim=-1), (u * r).sum(dim=-1)
        ctx.noise = noise
        ctx.save_for_backward(both, sd, squared, a, b, *roots)
        chi2 = 0.5 * (r.square().sum(dim=-1) - squared * b.square() / a)
        return chi2, 0.5 * (log_det + a.log())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: PerStar) -> tuple[Tensor | None, ...]:
        both, sd, squared, a, b, *roots = ctx.saved_tensors
        diagonals, solved = [], []
        for root, (_, band) in zip(roots, ctx.noise.bands, strict=True):
            inverse = torch.cholesky_inverse(root)
            diagonals.append(inverse.diagonal(dim1=1, dim2=2))
            solved.append(torch.bmm(both[:, :, band], inverse))
        w, v = (torch.cat(solved, dim=-1) / sd[:, None, :]).unbind(dim=1)
        of_chi2, of_penalty = (gradient[:, None] for gradient in gradients)
        weight = (squared / a)[:, None]
        through = w - weight * b[:, None] * v
        diagonal = torch.cat(diagonals, dim=1) / sd.square() - weight * v.square()
        of_variance = 0.5 * (of_penalty * diagonal - of_chi2 * through.square())
        of_flux = weight * (of_penalty * v - of_chi2 * b[:, None] * through)
        return of_chi2 * through, of_variance, of_flux, None, None


def _scaled(pairs: Pairs, share: Coeffs) -> Matrices:
    """Covariance with unit diagonal, of coefficients with this share of their standard deviation from the error."""
    matrix = square(pairs).mul_(share[:, :, None]).mul_(share[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix
