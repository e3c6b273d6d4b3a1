"""Whether posteriors over latents hold the truth as often as they claim: against simulated stars, and real ones.

    python -m studies.latent_intervals MODEL STARS [EVERY]

Simulated stars have known latents. A real star's are not known, but those of a bright star nearly are, and the
same star made fainter must be given a posterior that agrees. Of the calibrated MODEL, and of every so many stars of the
validation fold, a draw from the exact posterior is looked for in that of the same star with larger errors: in the
Gaussian that `encode` states, in the same scaled until it holds jointly, in the one with mean and covariance of the
exact posterior, and in the exact posterior itself (where it is densest). Then the true latents of stars that the model
makes. The bound says what each Gaussian is worth.
"""

import time
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from scipy.stats import chi2
from torch import Tensor

import scattervae as sv
from scattervae.arrays import Latents, PerStar
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Posterior
from scattervae.science.calibration.coverage import INSIDE_1_SIGMA, INSIDE_2_SIGMA
from scattervae.science.calibration.fit import made_from
from scattervae.science.calibration.widths import (
    LatentCoverage,
    distances,
    encode,
    latent_coverage,
    renoised,
    without_band,
)
from scattervae.science.evaluation import mean_bound
from scattervae.science.exact_posterior import (
    WeightedDraws,
    log_likelihood,
    posterior_draws,
    standard_normal,
)
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs
from studies import arguments
from studies.trust import print_header, print_row

N_RANKS = 99
FACTORS = (1.0, 3.0, 10.0)
N_DRAWS = 256
_SMALLEST = 1e-9


def main() -> None:
    path, source, *more = arguments(__doc__, 2)
    model, spectra = sv.load_model(path), sv.load(source).spectra
    asked = spectra.take(folds(spectra.source_id).validation & spectra.usable)
    real = model.normalization.apply(asked.take(slice(None, None, int(more[0]) if more else 1)))
    generator = stream(0, "intervals of latents")
    z = posterior_draws(model, real, encode(model, real), generator, n_draws=N_DRAWS).one(generator)
    print_degraded(model, real, z, f"{len(real):,} stars of the validation fold")
    made = made_from(model, z, real, generator)
    print_degraded(model, made, z, f"{len(real):,} stars that the model makes with these errors")


@torch.no_grad()
def print_degraded(model: Checkpoint, stars: Inputs, z: Latents, title: str) -> None:
    """How often these latents of the stars lie in each posterior of the same stars with larger errors."""
    names = (
        "errors",
        "posterior",
        "jointly 68.3, 95.4 %",
        "each latent 68.3 %",
        "-ELBO",
        "stars/s of CPU time",
    )
    print_header(title, names)
    generator = stream(0, "intervals of degraded stars")
    for factor in FACTORS:
        fainter = renoised(stars, factor, generator)
        began = time.process_time()
        stated = encode(model, fainter)
        rates = [len(stars) / (time.process_time() - began)]
        draws = posterior_draws(model, fainter, stated, generator, n_draws=N_DRAWS)
        rates.append(len(stars) / (time.process_time() - began))
        scale = distances(stated, z).quantile(INSIDE_1_SIGMA) / chi2.ppf(INSIDE_1_SIGMA, z.shape[1])
        wider = stated._replace(log_variance=stated.log_variance + scale.log().float())
        gaussians = {
            "as `encode` states it": (stated, f"{rates[0]:,.0f}"),
            f"the same, {scale.sqrt():.2f} times as wide": (wider, ""),
            "mean and covariance of weighted draws": (moments(draws), f"{rates[1]:,.0f}"),
        }
        for name, (posterior, rate) in gaussians.items():
            found = latent_coverage(posterior, z)
            edge = chi2.ppf(INSIDE_2_SIGMA, z.shape[1])
            both = (found.jointly, (distances(posterior, z) <= edge).double().mean().item())
            nats = f"{mean_bound(model, fainter, posterior, stream(0, 'bound')).mean():.2f}"
            print_row(f"x {factor:g}", name, *cells_of(both, found.per_latent), nats, rate)
        rank, below = density_rank(model, fainter, draws, z), share_below(draws, z)
        both = tuple(
            (rank > 1.0 - level).double().mean().item() for level in (INSIDE_1_SIGMA, INSIDE_2_SIGMA)
        )
        inside = ((below - 0.5).abs() < INSIDE_1_SIGMA / 2).double().mean(dim=0).tolist()
        effective = (1.0 / draws.weights.square().sum(dim=0)).median()
        name = f"weighted draws, {effective:.0f} effective of {N_DRAWS}"
        print_row(f"x {factor:g}", name, *cells_of(both, inside), "", f"{rates[1]:,.0f}")


def cells_of(jointly: tuple[float, ...], each: list[float]) -> tuple[str, str]:
    """Shares in per cent."""
    return ", ".join(
        f"{100 * share:.1f}" for share in jointly
    ), f"{100 * min(each):.1f} to {100 * max(each):.1f}"


def moments(draws: WeightedDraws) -> Posterior:
    """The Gaussian with mean and covariance of these draws."""
    weights, z = draws.weights.double(), draws.z.double()
    mean = (weights[:, :, None] * z).sum(dim=0)
    covariance = torch.einsum("ds,dsk,dsl->skl", weights, z - mean, z - mean)
    covariance += _SMALLEST * torch.eye(z.shape[2], dtype=z.dtype)
    return Posterior.of_root(mean.float(), torch.linalg.cholesky(covariance))


def density_rank(model: Checkpoint, stars: Inputs, draws: WeightedDraws, z: Latents) -> PerStar:
    """The share of each star's posterior that is less dense than it is at `z`: uniform where posteriors are right.

    The region of highest density that holds a share p of the posterior has ranks above 1 - p.

    Source:
        Hyndman (1996), The American Statistician 50, 120.
    """

    def log_joint(at: Latents) -> PerStar:
        return log_likelihood(stars.x, stars.errors, model.reconstruct(at)) + standard_normal(at)

    here = log_joint(z)
    less = [weight * (log_joint(at) < here) for at, weight in zip(draws.z, draws.weights, strict=True)]
    return torch.stack(less).double().sum(dim=0)


def share_below(draws: WeightedDraws, z: Latents) -> Float64[Tensor, "star latent"]:
    """The share of each latent's own posterior below `z`."""
    return (draws.weights[:, :, None] * (draws.z < z)).double().sum(dim=0)


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


if __name__ == "__main__":
    main()
