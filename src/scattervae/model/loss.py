"""The two objectives: the paper's loss as printed, and the evidence lower bound.

They differ only in how chi^2, penalty and divergence are weighted (Laroche & Speagle 2023, eqs. 1-5).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from scattervae.arrays import Coeffs, PerStar
from scattervae.model.covariance import CorrelatedNoise, full_terms
from scattervae.model.network import Reconstruction
from scattervae.model.posterior import Posterior

Objective = Literal["printed", "elbo"]
Likelihood = Literal["diagonal", "full"]


class GaussianTerms(NamedTuple):
    r"""The parts of each star's likelihood under independent Gaussians; what is missing adds nothing to any of them.

    Attributes:
        chi2: :math:`\sum_i (x_i - m_i)^2 / v_i`.
        log_det: :math:`\sum_i \ln v_i`.
        n_known: How many coefficients are not missing.
        log_variance: :math:`\ln v_i` of each coefficient; 0 where missing.
    """

    chi2: PerStar
    log_det: PerStar
    n_known: Int64[Tensor, " star"]
    log_variance: Coeffs

    @property
    def nll(self) -> PerStar:
        r"""Negative log-likelihood of each star; :math:`\tfrac12 N \ln 2\pi` is left out."""
        return 0.5 * (self.chi2 + self.log_det)


def gaussian_terms(
    x: Coeffs, mean: Coeffs, variance: Coeffs, *, dtype: torch.dtype | None = None
) -> GaussianTerms:
    """Chi^2 and log determinant of each star.

    Args:
        x: Observed coefficients; any number where missing.
        mean: Predicted coefficients, same units.
        variance: Of error and scatter together, same units squared; above 0, infinite where a coefficient is missing.
        dtype: What sums over coefficients are computed in; that of the arguments where None.

    Source:
        Laroche & Speagle (2023), eqs. 3 and 4, as sums over coefficients.
    """
    chi2 = (x - mean).square_().div_(variance).sum(dim=-1, dtype=dtype)
    log_variance = variance.log()
    log_det = log_variance.sum(dim=-1, dtype=dtype)
    n_known = torch.full_like(log_det, x.shape[-1], dtype=torch.int64)
    if log_det.isinf().any():
        missing = variance.isinf()
        log_variance = log_variance.masked_fill(missing, 0.0)
        log_det, n_known = log_variance.sum(dim=-1, dtype=dtype), (~missing).sum(dim=-1)
    return GaussianTerms(chi2, log_det, n_known, log_variance)


class LossTerms(NamedTuple):
    r"""The three terms of the loss of each star in nats, summed over coefficients and latents.

    Attributes:
        chi2: Half the sum over coefficients of :math:`(x - \hat x)^2 / (\sigma_x^2 + \hat\sigma_s^2)`.
        penalty: Half the sum over coefficients of :math:`\ln (\sigma_x^2 + \hat\sigma_s^2)`.
        kl: Divergence of the posterior from the prior, summed over latents.
    """

    chi2: PerStar
    penalty: PerStar
    kl: PerStar

    @property
    def nll(self) -> PerStar:
        r"""Negative log-likelihood of each star; :math:`\tfrac12 N \ln 2\pi` is left out."""
        return self.chi2 + self.penalty

    @property
    def negative_elbo(self) -> PerStar:
        """Negative evidence lower bound of each star at this draw of the latents; same constant left out."""
        return self.nll + self.kl


def loss_terms(
    x: Coeffs,
    errors: Coeffs,
    posterior: Posterior,
    reconstruction: Reconstruction,
    *,
    correlated: CorrelatedNoise | None = None,
) -> LossTerms:
    """The terms of eqs. 3, 4 and 5 as sums over coefficients and latents, where the paper prints means.

    Args:
        x: Observed coefficients, in training standard deviations; any number where missing.
        errors: Their errors, same units; infinite for a missing coefficient, which then adds nothing.
        posterior: The encoder's answer.
        reconstruction: Decoder and scatter estimator at one latent vector a star.
        correlated: Correlations of the coefficients and the error of the G flux, where they count; the paper
            takes coefficients as independent.

    Source:
        Laroche & Speagle (2023), eqs. 2-5.
    """
    if correlated is not None:
        mean, scatter = reconstruction
        terms = full_terms(x, errors, mean=mean, scatter=scatter, noise=correlated)
        return LossTerms(*terms, kl=posterior.kl().sum(dim=-1))
    known = gaussian_terms(x, reconstruction.mean, errors.square() + reconstruction.scatter.square())
    return LossTerms(0.5 * known.chi2, 0.5 * known.log_det, posterior.kl().sum(dim=-1))


def objective(terms: LossTerms, kind: Objective, *, n_coeffs: int, n_latent: int) -> PerStar:
    r"""What training minimises, for each star.

    ``printed`` is eq. 1 to the letter: chi^2 and penalty are means over the N coefficients, the divergence is
    a mean over the n_z latents. Multiplied by N it is a beta-VAE with beta = N / n_z, 18.3 for 110 and 6.
    ``elbo`` sums all three: the negative evidence lower bound.

    Source:
        Laroche & Speagle (2023), eqs. 1-5; Kingma & Welling (2013), eq. 3.
    """
    if kind == "printed":
        return terms.nll / n_coeffs + terms.kl / n_latent
    return terms.negative_elbo
