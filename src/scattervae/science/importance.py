r"""Importance-weighted log p(x): how probable a model finds each star, its latents integrated out.

The evidence lower bound mixes how good a model is with how good its encoder is. With many weighted draws the bound
closes in on ln p(x) itself, by which two models can be compared whatever their encoders.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scattervae.arrays import Coeffs, Latents, PerStar
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.loss import gaussian_terms
from scattervae.model.network import Reconstruction
from scattervae.model.posterior import Posterior
from scattervae.science.refinement import refine
from scattervae.seeds import stream
from scattervae.spectra.spectra import Spectra

LogDensity = Callable[[Tensor], Tensor]
Proposals = Literal["encoder", "refined"]

N_DRAWS = 200


@dataclass(frozen=True)
class Evidence:
    """ln p(x) of each star, estimated.

    Attributes:
        log_evidence: In nats, of coefficients in training standard deviations, without the constant with ln 2 pi of
            the coefficients: comparable with minus the negative evidence lower bound of `evaluate`. NaN for a star
            that cannot be encoded.
        effective_draws: How many equally weighted draws would tell as much; where few, the estimate is too low.
        n_draws: How many were made for each star.

    Source:
        Kong (1992) for the effective number, 1 / sum of squares of the normalised weights.
    """

    log_evidence: PerStar
    effective_draws: PerStar
    n_draws: int

    @property
    def mean(self) -> float:
        """Mean over the stars that could be encoded."""
        return self.log_evidence.nanmean().item()


def log_evidence(
    checkpoint: Checkpoint,
    spectra: Spectra,
    n_draws: int = N_DRAWS,
    *,
    proposals: Proposals = "refined",
    prior: LogDensity | None = None,
    seed: int = 0,
) -> Evidence:
    """ln p(x) of each star under a model, from weighted draws near its posterior.

    Args:
        checkpoint: The model.
        spectra: Stars of its basis.
        n_draws: Draws a star.
        proposals: Whose posterior the draws come from; ``refined`` (`scattervae.science.refinement`) lies closer.
        prior: Natural logarithm of a density over latents, in the place of the standard normal prior's, such as
            `scattervae.model.flow.LatentFlow.log_density`.
        seed: Of every draw.

    Raises:
        DataError: The spectra are of another basis.
    """
    generator = stream(seed, "evidence")
    none = torch.empty(0, dtype=torch.float64)
    parts = [Evidence(none, none, n_draws)]
    for encoded in checkpoint.encode_batches([spectra]):
        inputs, posterior = encoded.inputs, encoded.posterior
        if proposals == "refined":
            posterior = refine(checkpoint, inputs, posterior).posterior
        x, errors = inputs.x, inputs.errors

        def log_joint(z: Latents, x: Coeffs = x, errors: Coeffs = errors) -> PerStar:
            log_prior = prior(z) if prior is not None else standard_normal(z)
            return log_likelihood(x, errors, checkpoint.decode(z)) + log_prior.double()

        parts.append(importance_weighted(log_joint, posterior, n_draws, generator))
    return Evidence(
        torch.cat([part.log_evidence for part in parts]),
        torch.cat([part.effective_draws for part in parts]),
        n_draws,
    )


@torch.no_grad()
def importance_weighted(
    log_joint: LogDensity, posterior: Posterior, n_draws: int, generator: torch.Generator
) -> Evidence:
    r"""ln p(x) of each star from draws of a Gaussian near its posterior.

    .. math:: \ln \hat p(x) = \ln \frac1K \sum_{k=1}^K w_k, \qquad w_k = \frac{p(x, z_k)}{q(z_k | x)}, \quad z_k \sim q

    Sums are float64 of logarithms. The estimate of p(x) is unbiased; its logarithm is a lower bound on average, and
    higher the more draws there are.

    Args:
        log_joint: From one latent vector a star to ln p(x, z).
        posterior: q, where the draws come from.
        n_draws: K.
        generator: Of the draws.

    Source:
        Burda et al. (2015), arXiv:1509.00519, eq. 8.
    """
    first = torch.full_like(posterior.mean[:, 0], -math.inf, dtype=torch.float64)
    total, squares = first, first.clone()
    for _ in range(n_draws):
        z = posterior.sample(generator)
        log_weight = log_joint(z).double() - posterior.log_density(z).double()
        total = torch.logaddexp(total, log_weight)
        squares = torch.logaddexp(squares, 2.0 * log_weight)
    return Evidence(total - math.log(n_draws), (2.0 * total - squares).exp(), n_draws)


def log_likelihood(x: Coeffs, errors: Coeffs, told: Reconstruction) -> PerStar:
    r"""ln p(x | z) of each star in float64, :math:`\tfrac12 N \ln 2\pi` left out; missing coefficients add nothing."""
    variance = errors.double().square() + told.scatter.double().square()
    return -gaussian_terms(x.double(), told.mean.double(), variance).nll


def standard_normal(z: Latents) -> PerStar:
    """Natural logarithm of the prior's density."""
    return -0.5 * (z.double().square() + math.log(2.0 * math.pi)).sum(dim=1)
