"""Draws from the exact posterior over a star's latents: from a Gaussian near it, weighted by what that misses."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from scattervae.arrays import Latents
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.loss import gaussian_terms
from scattervae.model.posterior import Posterior
from scattervae.science.refinement import refine
from scattervae.spectra.normalization import Inputs

N_DRAWS = 32
_WIDER = 1.5  # the tails of what is drawn from must reach over those of the posterior
_HALF_LN_2_PI = 0.5 * math.log(2.0 * math.pi)


class WeightedDraws(NamedTuple):
    """Draws of each star's latents that stand for its posterior by their weights.

    Attributes:
        z: The draws.
        weights: Of each star's draws; they add up to 1.
    """

    z: Float[Tensor, "draw star latent"]
    weights: Float[Tensor, "draw star"]

    def take(self, rows: Int64[Tensor, " row"]) -> "WeightedDraws":
        """Those of these stars."""
        return WeightedDraws(self.z[:, rows], self.weights[:, rows])

    def one(self, generator: torch.Generator) -> Latents:
        """One draw a star, chosen by its weight: a draw from the posterior."""
        chosen: Int64[Tensor, " star"] = torch.multinomial(self.weights.T, 1, generator=generator)[:, 0]
        return self.z[chosen, torch.arange(self.z.shape[1])]


@torch.no_grad()
def posterior_draws(
    checkpoint: Checkpoint,
    inputs: Inputs,
    start: Posterior,
    generator: torch.Generator,
    *,
    n_draws: int = N_DRAWS,
) -> WeightedDraws:
    r"""Draws from the posterior of each star under the model's prior and decoder, whatever its encoder.

    From the encoder's answer the most probable latents are found (`scattervae.science.refinement`); draws around them
    get the weights

    .. math:: w \propto p(x | z)\, p(z) / g(z)

    with g the Gaussian found, a little widened.

    Args:
        checkpoint: The model.
        inputs: Stars; missing coefficients have infinite errors.
        start: What its encoder says of them.
        generator: Of the draws.
        n_draws: A star.

    Source:
        Rubin (1988), sampling importance resampling; Bishop (2006), Pattern Recognition and Machine Learning,
        sect. 11.1.5.
    """
    near = refine(checkpoint, inputs, start).posterior
    wide = near._replace(log_variance=near.log_variance + 2.0 * math.log(_WIDER))
    drawn, log_weights = [], []
    for _ in range(n_draws):
        z = wide.sample(generator)
        told = checkpoint.decode(z)
        variance = inputs.errors.square() + told.scatter.square()
        terms = gaussian_terms(inputs.x, told.mean, variance, dtype=torch.float64)
        prior = -0.5 * z.double().square().sum(dim=1) - _HALF_LN_2_PI * z.shape[1]
        log_weights.append(-terms.nll + prior - wide.log_density(z).double())
        drawn.append(z)
    return WeightedDraws(torch.stack(drawn), torch.softmax(torch.stack(log_weights), dim=0))
