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

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scattervae.arrays import Coeffs, PerStar
from scattervae.model.correlated_noise import CorrelatedNoise, Matrices, Pairs, square


class FullTerms(NamedTuple):
    r"""The two terms of each star's negative log-likelihood in nats; :math:`\tfrac12 N \ln 2\pi` is left out.

    Attributes:
        chi2: :math:`\tfrac12 r^T S^{-1} r`, with r = x - mean.
        penalty: :math:`\tfrac12 \ln |S|`.
    """

    chi2: PerStar
    penalty: PerStar


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


def covariances(errors: Coeffs, *, mean: Coeffs, scatter: Coeffs, noise: CorrelatedNoise) -> Matrices:
    """The matrix S of each star, written out; infinite along the diagonal where an error is."""
    corners = [
        torch.nn.functional.pad(square(pairs), (band.start, mean.shape[1] - band.stop) * 2)
        for pairs, band in noise.bands
    ]
    known = errors.masked_fill(errors.isinf(), 0.0)
    flux = noise.g_error[:, None] * (mean + noise.origin)
    matrix = (corners[0] + corners[1]) * known[:, :, None] * known[:, None, :] + flux[:, :, None] * flux[
        :, None, :
    ]
    missing = torch.where(errors.isinf(), math.inf, 0.0)
    return matrix + (scatter.square() + missing).diag_embed()


def _scaled(pairs: Pairs, share: Coeffs) -> Matrices:
    """Covariance with unit diagonal, of coefficients with this share of their standard deviation from the error."""
    matrix = square(pairs).mul_(share[:, :, None]).mul_(share[:, None, :])
    matrix.diagonal(dim1=1, dim2=2).fill_(1.0)
    return matrix
