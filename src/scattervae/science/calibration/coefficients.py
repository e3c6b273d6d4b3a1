"""Where coefficients fall in what a model says of them: probability integral transforms of held-out coefficients."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Reconstruction
from scattervae.model.posterior import Posterior
from scattervae.science.calibration.draws import N_DRAWS, WeightedDraws, posterior_draws
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs

PitValues = Float64[Tensor, "star coeff"]

N_GROUPS = 10


class Pits(NamedTuple):
    r"""The share of its predictive distribution that lies below each coefficient; uniform where a model is right.

    Attributes:
        hidden: Predicted from the star's other coefficients alone, the latents' spread and all; NaN where it was
            not hidden in any round.
        drawn: :math:`\Phi[(x - m) / \sqrt{\sigma^2 + s^2}]` at a draw of the latents from the posterior given all
            coefficients. Under the model draw and truth are exchangeable, so these are uniform as well.
        at_mean: The same at the posterior mean: too central, since the star's own noise chose the mean.
        without_scatter: As `at_mean` with a scatter of 0.
        scatter_over_error: Of each coefficient, at the posterior mean; no transform.
    """

    hidden: PitValues
    drawn: PitValues
    at_mean: PitValues
    without_scatter: PitValues
    scatter_over_error: PitValues


@torch.no_grad()
def pits(
    checkpoint: Checkpoint,
    inputs: Inputs,
    *,
    n_rounds: int = 1,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Pits:
    """Transforms of the coefficients of stars, best of a fold that the model has not seen.

    An encoder answers for all stars at once, and is a little wrong for each; so the exact posteriors are
    asked (`posterior_draws`), and what is tested is decoder and scatter alone.

    Args:
        checkpoint: The model.
        inputs: Stars that can be encoded.
        n_rounds: In each round every star is encoded again without another random tenth of its coefficients; after
            10 all have been hidden once.
        n_draws: From each posterior, for the distribution of what is hidden.
        seed: Of draws and groups.

    Source:
        Dawid (1984), J. R. Stat. Soc. A 147, 278, for the transforms; Johnson (2007), Bayesian Analysis 2, 719,
        for pivotal quantities at a posterior draw.
    """
    x, errors = inputs.x, inputs.errors
    generator = stream(seed, "pits")
    encoded = checkpoint.answer(inputs, batch=max(len(inputs), 1)).posterior.each(lambda values: values.cpu())
    draws = posterior_draws(checkpoint, inputs, encoded, generator, n_draws=n_draws)
    mean = (draws.z * draws.weights[:, :, None]).sum(dim=0)
    at_mean = checkpoint.decode(mean.float())
    group = torch.rand(x.shape, generator=generator).argsort(dim=1) % N_GROUPS
    hidden = torch.full_like(x, torch.nan, dtype=torch.float64)
    for number in range(n_rounds):
        chosen = group == number
        shown = Inputs(x.masked_fill(chosen, 0.0), errors.masked_fill(chosen, torch.inf))
        start = encoded if not checkpoint.network.sees_errors else _encoded(checkpoint, shown)
        told = posterior_draws(checkpoint, shown, start, generator, n_draws=n_draws)
        hidden[chosen] = _mixture(checkpoint, inputs, told)[chosen]
    without = Reconstruction(at_mean.mean, torch.zeros_like(at_mean.scatter))
    return Pits(
        hidden=hidden,
        drawn=pit(inputs, checkpoint.decode(draws.one(generator))),
        at_mean=pit(inputs, at_mean),
        without_scatter=pit(inputs, without),
        scatter_over_error=(at_mean.scatter / errors).double(),
    )


def pit(inputs: Inputs, told: Reconstruction) -> PitValues:
    """Share of a Gaussian of error and scatter in quadrature that lies below each coefficient; NaN where missing."""
    values: Tensor = torch.special.ndtr(told.normalised_errors(inputs.x, inputs.errors).double())
    return values.masked_fill(inputs.errors.isinf(), torch.nan)


def _encoded(checkpoint: Checkpoint, inputs: Inputs) -> Posterior:
    answer = checkpoint.answer(inputs, batch=max(len(inputs), 1))
    return answer.posterior.each(lambda values: values.cpu())


def _mixture(checkpoint: Checkpoint, inputs: Inputs, draws: WeightedDraws) -> PitValues:
    """Weighted mean of the transforms over draws: that of the mixture of the Gaussians that the draws give."""
    total = torch.zeros_like(inputs.x, dtype=torch.float64)
    for z, weights in zip(draws.z, draws.weights, strict=True):
        total += weights[:, None] * pit(inputs, checkpoint.decode(z))
    return total
