"""How well a model predicts stars it has not seen: likelihood, normalised errors, latents in use."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from scattervae.arrays import PerStar
from scattervae.errors import DataError, counted
from scattervae.gaia.reading import Anything, read
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.loss import loss_terms
from scattervae.model.network import Posterior
from scattervae.science.paper.comparison import first_ten
from scattervae.science.trained import load_model
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs

N_DRAWS = 10
FoldName = Literal["test", "validation", "train", "all"]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one set of stars, means over stars unless said.

    Likelihoods are in nats per star, of coefficients in training standard deviations, without the constant
    with ln 2 pi; lower is better.
    """

    n_stars: int  #: stars scored
    negative_elbo: float  #: negative evidence lower bound, over draws from the posterior
    negative_elbo_error: float  #: one standard error of that mean over stars
    nll_at_mean: float  #: negative log-likelihood at the posterior mean, divergence not counted
    kl: float  #: divergence of the posterior from the prior
    kl_per_latent: list[float]  #: the same, latent by latent
    active_latents: int  #: latents with a divergence above 0.1 nats
    #: at the posterior mean, over the first ten coefficients: ``bp10``, ``rp10``
    mean_abs_normalised_error: dict[str, float]
    share_beyond_5_sigma: float  #: of all coefficients of all stars
    largest_normalised_error: float  #: absolute, of all coefficients of all stars


@torch.no_grad()
def evaluate(
    model: Checkpoint | str | Path,
    stars: Anything,
    *,
    fold: FoldName = "test",
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> Evaluation:
    """Scores of a model on the usable ones of these stars that are in a fold.

    Args:
        model: A model, its folder or its name.
        stars: Those of a store, a file or anything that `scattervae.read` takes.
        fold: Which of them (`scattervae.seeds.folds`): those of the test fold, which no model trains on; or ``all``.
        n_draws: Draws from each star's posterior for the evidence lower bound.
        seed: Of the draws.

    Raises:
        DataError: No star of the fold is usable, or the spectra are of another basis.

    Source:
        Laroche & Speagle (2023), eqs. 1-5 and sect. 3; Kingma & Welling (2013), eq. 7, for the draws.

    Example:
        >>> import scattervae as sv
        >>> scores = sv.evaluate("best", "stars.csv.gz", fold="all")
        >>> scores.n_stars, len(scores.kl_per_latent)
        (220, 8)
    """
    checkpoint = model if isinstance(model, Checkpoint) else load_model(model)
    if fold not in get_args(FoldName):
        raise DataError(f"fold {fold!r}: there are {', '.join(get_args(FoldName))}")
    spectra = read(stars, basis=checkpoint.normalization.basis).spectra
    chosen = spectra.usable if fold == "all" else spectra.usable & getattr(folds(spectra.source_id), fold)
    scored = spectra if chosen.all() else spectra.take(chosen)
    if len(scored) == 0:
        where = "usable" if fold == "all" else f'usable and of the {fold} fold; fold="all" takes every star'
        raise DataError(
            f"none of {counted(len(spectra), 'star')} is {where}: nothing to evaluate the model on"
        )
    bands = checkpoint.normalization
    generator = stream(seed, "evaluate")
    elbos, nlls, kls = [], [], []
    abs_bp = abs_rp = n_beyond = largest = 0.0
    for encoded in checkpoint.encode_batches([scored]):
        x, errors, posterior = encoded.inputs.x, encoded.inputs.errors, encoded.posterior
        elbos.append(mean_bound(checkpoint, encoded.inputs, posterior, generator, n_draws=n_draws))
        at_mean = loss_terms(x, errors, posterior, encoded.reconstruction)
        nlls.append(at_mean.nll.double())
        kls.append(posterior)
        z = encoded.reconstruction.normalised_errors(x, errors).double().abs()
        abs_bp += z[:, first_ten(bands.bp)].mean(dim=1).sum().item()
        abs_rp += z[:, first_ten(bands.rp)].mean(dim=1).sum().item()
        n_beyond += (z > 5.0).sum().item()
        largest = max(largest, z.max().item())
    elbo = torch.cat(elbos)
    posterior = Posterior.concatenate(kls)
    n = len(scored)
    return Evaluation(
        n_stars=n,
        negative_elbo=elbo.mean().item(),
        negative_elbo_error=(elbo.std(correction=0) / n**0.5).item(),
        nll_at_mean=torch.cat(nlls).mean().item(),
        kl=posterior.kl().double().sum(dim=1).mean().item(),
        kl_per_latent=posterior.kl_per_latent(),
        active_latents=len(posterior.active_latents()),
        mean_abs_normalised_error={"bp10": abs_bp / n, "rp10": abs_rp / n},
        share_beyond_5_sigma=n_beyond / (n * bands.n_coeffs),
        largest_normalised_error=largest,
    )


@torch.no_grad()
def mean_bound(
    model: Checkpoint,
    inputs: Inputs,
    posterior: Posterior,
    generator: torch.Generator,
    *,
    n_draws: int = N_DRAWS,
) -> PerStar:
    """Negative evidence lower bound of each star [nat], float64: the mean over draws from these posteriors."""
    draws = [
        loss_terms(
            inputs.x, inputs.errors, posterior, model.reconstruct(posterior.sample(generator))
        ).negative_elbo
        for _ in range(n_draws)
    ]
    return torch.stack(draws).double().mean(dim=0)
