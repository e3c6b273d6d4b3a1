"""Whether posteriors over latents hold the truth as often as they claim: against simulated stars, and real ones.

Simulated stars have known latents. A real star's are not known, but those of a bright star nearly are, and the
same star made fainter must be given a posterior that agrees.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from scattervae.arrays import Latents
from scattervae.model.checkpoint import Checkpoint
from scattervae.science.calibration.fit import made_from
from scattervae.science.calibration.widths import (
    LatentCoverage,
    encode,
    latent_coverage,
    without_band,
)
from scattervae.science.exact_posterior import posterior_draws
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs

N_RANKS = 99


class SimulatedRanks(NamedTuple):
    """Ranks of true latents among draws from the posterior of a star made from them.

    Attributes:
        ranks: From 0 to `n_draws`; evenly spread where posteriors are right.
        n_draws: Draws a star.
        coverage: The same truths against the posteriors' intervals.
    """

    ranks: Int64[Tensor, "star latent"]
    n_draws: int
    coverage: LatentCoverage


class Uniformity(NamedTuple):
    """How far ranks are from an even spread.

    Attributes:
        chi2: Of each latent; with many stars it follows the chi-squared distribution where posteriors are right.
        degrees: Of freedom.
    """

    chi2: Float64[Tensor, " latent"]
    degrees: int


@torch.no_grad()
def simulated_ranks(
    checkpoint: Checkpoint, like: Inputs, *, z: Latents | None = None, n_draws: int = N_RANKS, seed: int = 0
) -> SimulatedRanks:
    """Simulation-based calibration: make stars with known latents, encode them, rank the truth.

    Args:
        checkpoint: The model.
        like: Stars whose errors the made stars have.
        z: Their true latents; draws from the exact posteriors of `like` where None, so that the made stars are as a
            survey's. Draws from the prior are stars that may look like none.
        n_draws: Draws from each posterior.
        seed: Of every random number.

    Source:
        Talts et al. (2018), arXiv:1804.06788, algorithm 1.
    """
    generator = stream(seed, "ranks")
    if z is None:
        z = posterior_draws(checkpoint, like, encode(checkpoint, like), generator).one(generator)
    posterior = encode(checkpoint, made_from(checkpoint, z, like, generator))
    ranks = torch.zeros(z.shape, dtype=torch.int64)
    for _ in range(n_draws):
        ranks += posterior.sample(generator) < z
    return SimulatedRanks(ranks, n_draws, latent_coverage(posterior, z))


def uniformity(ranks: Int64[Tensor, "star latent"], n_draws: int, *, n_bins: int = 20) -> Uniformity:
    """Chi-squared of each latent's ranks against an even spread.

    Args:
        ranks: From 0 to `n_draws`.
        n_draws: One less than a multiple of `n_bins`, so that bins are alike.
        n_bins: Bins.

    Raises:
        ValueError: The bins are not alike.
    """
    if (n_draws + 1) % n_bins:
        raise ValueError(f"{n_draws + 1} ranks do not fall evenly into {n_bins} bins")
    place = ranks * n_bins // (n_draws + 1)
    counts = torch.stack([(place == k).sum(dim=0) for k in range(n_bins)]).double()
    expected = len(ranks) / n_bins
    return Uniformity(((counts - expected).square() / expected).sum(dim=0), n_bins - 1)


@torch.no_grad()
def one_band_coverage(
    checkpoint: Checkpoint, complete: Inputs, lost: slice, *, exact: bool = False, seed: int = 0
) -> LatentCoverage:
    """How often draws from stars' posteriors lie inside those of the same stars without one band.

    Latents, complete star and its other band are a Markov chain, as with stars made fainter (`renoised_coverage`), so
    the expectation is 68.27 %: the complete star's posterior is no truth to compare with but its draws are.

    Args:
        checkpoint: The model; its encoder sees errors.
        complete: Real stars with both bands.
        lost: The coefficients of the band that they lose.
        exact: Draw from the complete stars' exact posteriors, not from those of the encoder.
        seed: Of every random number.
    """
    generator = stream(seed, "one band", lost.start)
    posterior = encode(checkpoint, complete)
    if exact:
        z = posterior_draws(checkpoint, complete, posterior, generator).one(generator)
    else:
        z = posterior.sample(generator)
    return latent_coverage(encode(checkpoint, without_band(complete, lost)), z)
