"""The two objectives: the paper's loss as printed, and the evidence lower bound.

They differ only in how chi^2, penalty and divergence are weighted (Laroche & Speagle 2023, eqs. 1-5).
"""

from typing import Literal, NamedTuple

from scattervae.arrays import Coeffs, PerStar
from scattervae.model.covariance import CorrelatedNoise, full_terms
from scattervae.model.network import Posterior, Reconstruction, gaussian_terms

Objective = Literal["printed", "elbo"]
Likelihood = Literal["diagonal", "full"]


class LossTerms(NamedTuple):
    r"""The three terms of the loss of each star in nats, summed over coefficients and latents."""

    chi2: PerStar  # half the sum over coefficients of :math:`(x - \hat x)^2 / (\sigma_x^2 + \hat\sigma_s^2)`
    penalty: PerStar  # half the sum over coefficients of :math:`\ln (\sigma_x^2 + \hat\sigma_s^2)`
    kl: PerStar  # divergence of the posterior from the prior, summed over latents

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
