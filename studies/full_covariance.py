"""The numbers of docs/explanation/covariance.md: speed of the full likelihood, and what it changes.

    python -m studies.full_covariance speed [N_STARS]
    python -m studies.full_covariance simulated MODEL STARS N_STARS EPOCHS SEEDS CORRELATIONS.npz
    python -m studies.full_covariance simulated MODEL STARS N_STARS EPOCHS SEEDS FILE...
    python -m studies.full_covariance published MODEL CORRELATIONS.npz FILE...

MODEL is a trained folder, STARS real stars that simulated ones are like, CORRELATIONS.npz mean correlation matrices
``bp`` and ``rp``, FILE spectra with correlations of their own; a simulated star has those of the star nearest in G.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import scattervae
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.covariance import CorrelatedNoise, full_terms, square
from scattervae.model.network import Reconstruction
from scattervae.model.recipe import RECIPES, Recipe, parse_recipe
from scattervae.model.run import train
from scattervae.science.trained import load_model
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import GFluxSource, Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels
from studies import arguments
from studies.covariance_gain import (
    LatentCoverage,
    best_latents,
    covariances,
    full_scores,
    latent_coverage,
    mean_correlations,
    scatter_over_flux,
)
from studies.sensitivity import Simulation, simulate

N_EXACT = 1500  # stars whose covariances are written out


class Likelihoods:
    """The negative log-likelihood in four ways, on random numbers of the size that training meets."""

    def __init__(self, n: int) -> None:
        draws = stream(0, "speed")
        self.x, self.mean, errors, scatter = (torch.randn(n, 110, generator=draws) for _ in range(4))
        self.errors, self.scatter = (errors - 2).exp(), (scatter - 3).exp()
        factors = 0.3 * torch.randn(2, n, 55, 8, generator=draws)
        matrices = factors @ factors.mT + torch.eye(55)
        sd = matrices.diagonal(dim1=2, dim2=3).sqrt()
        below = torch.tril_indices(55, 55, offset=-1)
        bp, rp = (matrices / sd[..., None] / sd[..., None, :])[:, :, below[0], below[1]]
        yes, origin = torch.ones(n, dtype=torch.bool), torch.randn(110, generator=draws)
        self.noise = CorrelatedNoise(bp, rp, torch.full((n,), 1e-3), origin, yes, ~yes)

    def analytic(self, mean: Tensor, scatter: Tensor) -> Tensor:
        terms = full_terms(self.x, self.errors, mean=mean, scatter=scatter, noise=self.noise)
        return terms.chi2 + terms.penalty

    def by_autograd(self, mean: Tensor, scatter: Tensor) -> Tensor:
        return through_cholesky(
            covariances(self.errors, mean=mean, scatter=scatter, noise=self.noise), self.x - mean
        )

    def blockwise(self, mean: Tensor, scatter: Tensor) -> Tensor:
        """Without the error of the G flux, whose term ties the blocks."""
        parts = []
        for pairs, band in self.noise.bands:
            own = self.errors[:, band]
            matrix = (
                square(pairs) * own[:, :, None] * own[:, None, :] + scatter[:, band].square().diag_embed()
            )
            parts.append(through_cholesky(matrix, (self.x - mean)[:, band]))
        return parts[0] + parts[1]

    def diagonal(self, mean: Tensor, scatter: Tensor) -> Tensor:
        variance = self.errors.square() + scatter.square()
        return 0.5 * ((self.x - mean).square() / variance + variance.log()).sum(dim=1)


def speed(n: int = 1024) -> None:
    """Stars a second, forward and backward."""
    ways, rates = Likelihoods(n), {}
    for name, nll in (
        ("analytic gradient", ways.analytic),
        ("autograd, 2 x 55, no G flux error", ways.blockwise),
        ("autograd, 110", ways.by_autograd),
        ("independent coefficients", ways.diagonal),
    ):
        best = np.inf
        for _ in range(6):
            free = ways.mean.clone().requires_grad_(), ways.scatter.clone().requires_grad_()
            started = time.perf_counter()
            nll(*free).sum().backward()
            best = min(best, time.perf_counter() - started)
        rates[name] = n / best
        print(f"{name:36s} {rates[name]:10,.0f} stars/s forward and backward")
    for name in ("autograd, 2 x 55, no G flux error", "autograd, 110"):
        print(f"ratio analytic / {name}: {rates['analytic gradient'] / rates[name]:.2f}")
    print(f"{torch.get_num_threads()} threads, best of 6, batch of {n}")


def through_cholesky(matrix: Tensor, residual: Tensor) -> Tensor:
    """The same likelihood, left to autograd."""
    root = torch.linalg.cholesky(matrix)
    white = torch.linalg.solve_triangular(root, residual[:, :, None], upper=False)[:, :, 0]
    return 0.5 * white.square().sum(dim=1) + root.diagonal(dim1=1, dim2=2).log().sum(dim=1)


def simulated(model: str, stars: str, n: int, *given: int | str) -> None:
    """Stars of a known model with correlated noise; a model trained with and one without knowing of it."""
    epochs, seeds, *files = given
    truth = load_model(model)
    spectra = scattervae.load(stars).spectra
    spectra = spectra.take(spectra.usable)
    if files[0].endswith(".npz"):
        correlations = mean_correlations(Path(files[0]), len(spectra), spectra.basis)
    else:
        known = with_correlations(files)
        nearest = np.abs(np.log(spectra.g_flux[:, None] / known.g_flux)).argmin(axis=1)
        correlations = known.take(nearest).correlations
        print("correlations of", *np.unique(known.source_id[nearest], return_counts=True))
    spectra = replace(spectra, correlations=correlations)
    none = StellarLabels(np.empty(0, dtype=np.int64), *np.empty((2, 0, len(LABEL_NAMES))))
    sky = simulate(truth, spectra, none, n)
    held_out = folds(sky.spectra.source_id).test
    print(f"{n} simulated stars, {held_out.sum()} held out")
    show_known_latents(truth, sky, held_out)
    for seed in range(seeds):
        for likelihood in ("diagonal", "full"):
            recipe = small(likelihood, epochs, seed)
            started = time.perf_counter()
            trained = train(sky.spectra, recipe)
            seconds = time.perf_counter() - started
            print(f"\nseed {seed}, likelihood {likelihood}: {epochs} epochs in {seconds:.0f} s")
            show_model(trained, truth, sky, held_out)


def small(likelihood: str, epochs: int, seed: int) -> Recipe:
    settings = RECIPES["best"].model_dump()
    settings |= {"name": f"small_{likelihood}", "likelihood": likelihood}
    settings["training"] |= {"epochs": epochs, "seed": seed}
    return parse_recipe(settings, where="benchmark")


def show_known_latents(truth: Checkpoint, sky: Simulation, held_out: np.ndarray) -> None:
    """The simulating model's own latents, found again with either likelihood, its decoder known."""
    rows = np.flatnonzero(held_out)[:N_EXACT]
    stars, z = sky.spectra.take(rows), sky.latents[rows]
    inputs, noise, predicted = exact(truth, stars, z)
    for name, own in (("diagonal", noise.independent()), ("full", noise)):
        precision = inverse(inputs, own, predicted)
        fit = best_latents(truth.network.decode, inputs.x, precision, z, prior=True)
        found = latent_coverage(fit.z - z, torch.linalg.inv(fit.precision))
        print(f"known decoder, {name:8s}: {shown(found)}")


def shown(coverage: LatentCoverage) -> str:
    each = " ".join(f"{square:.2f}" for square in coverage.squares)
    return f"in 68 %: each {coverage.each:.3f}, jointly {coverage.jointly:.3f}; square {coverage.square:.2f}; {each}"


def show_model(trained: Checkpoint, truth: Checkpoint, sky: Simulation, held_out: np.ndarray) -> None:
    """Likelihood, scatter and latents of a trained model on stars it has not seen."""
    stars, z = sky.spectra.take(held_out), sky.latents[held_out]
    uncorrelated = replace(stars, correlations=None)
    jacobian = np.log(trained.normalization.std / truth.normalization.std).sum()
    for name, which, constant in (("trained", trained, 0.0), ("simulating", truth, jacobian)):
        full, alone = full_scores(which, stars), full_scores(which, uncorrelated)
        elbos, nlls = (
            [getattr(predicted, what).mean() - constant for predicted in (full, alone)]
            for what in ("negative_elbo", "nll_at_mean")
        )
        print(f"  {name:10s} -ELBO full {elbos[0]:8.2f}, diagonal {elbos[1]:8.2f}; at the mean", end="")
        print(f" {nlls[0]:8.2f}, {nlls[1]:8.2f}")
    posterior = trained.encode(stars)
    true = truth.reconstruct(z)
    ratio = scatter_over_flux(trained, trained.reconstruct(posterior.mean)) / scatter_over_flux(truth, true)
    errors = stars.errors / stars.g_flux[:, None]
    above = scatter_over_flux(truth, true) > errors
    for name, cells in (("above the error", above), ("below", ~above)):
        print(
            f"  scatter over the true one, {name} ({cells.mean():.0%}): median {np.median(ratio[cells]):.3f}"
        )
    rows = slice(0, N_EXACT)
    some, own = stars.take(rows), posterior.each(lambda values: values[rows])
    # the true mean spectrum, and the latents that this model has for it
    x = true.mean[rows].double().numpy() * truth.normalization.std + truth.normalization.mean
    x = (x - trained.normalization.mean) / trained.normalization.std
    inputs, noise, predicted = exact(trained, some, own.mean)
    precision = inverse(inputs, noise, predicted)
    start = trained.encode(noiseless(some, trained, x)).mean
    fit = best_latents(trained.network.decode, torch.from_numpy(x).float(), precision, start, prior=False)
    covered = shown(latent_coverage(fit.z - own.mean, own.covariance))
    print(f"  latents, active {len(posterior.active_latents())}: {covered}")


def noiseless(stars: Spectra, model: Checkpoint, x: np.ndarray) -> Spectra:
    """The same stars with these coefficients."""
    return replace(stars, coeffs=model.normalization.invert(torch.from_numpy(x), stars.g_flux))


def exact(model: Checkpoint, stars: Spectra, z: Tensor) -> tuple[Inputs, CorrelatedNoise, Reconstruction]:
    inputs = model.normalization.apply(stars)
    return inputs, CorrelatedNoise.of(stars, model.normalization), model.reconstruct(z)


def inverse(inputs: Inputs, noise: CorrelatedNoise, predicted: Reconstruction) -> Tensor:
    return torch.linalg.inv(
        covariances(inputs.errors, mean=predicted.mean, scatter=predicted.scatter, noise=noise)
    )


def published(model: str, correlations: str, *files: str) -> None:
    """Real stars with correlations of their own: their likelihoods with these, with mean ones and with none."""
    trained = load_model(model)
    stars = with_correlations(files)
    shared = mean_correlations(Path(correlations), len(stars), stars.basis)
    scores = {
        "own": full_scores(trained, stars),
        "mean": full_scores(trained, replace(stars, correlations=shared)),
        "none": full_scores(trained, replace(stars, correlations=None)),
    }
    print(
        "-ELBO in nats with own, mean and no correlations, and the same at the posterior mean without the divergence"
    )
    for row, source_id in enumerate(stars.source_id):
        g_mag = g_mag_of(stars.g_flux[row])
        table = "" if stars.g_flux_source[row] == GFluxSource.TABLE else " (from the coefficients)"
        elbos = " ".join(f"{s.negative_elbo[row]:12.1f}" for s in scores.values())
        nlls = " ".join(f"{s.nll_at_mean[row]:12.1f}" for s in scores.values())
        print(f"{source_id:20d} G {g_mag:5.2f}{table:24s} {elbos}   {nlls}")


def with_correlations(files: Sequence[str]) -> Spectra:
    """The usable stars of these files, each once."""
    parts = [scattervae.load(file, correlations=True).spectra for file in files]
    stars = Spectra.concatenate([part.take(part.usable) for part in parts])
    return stars.take(np.unique(stars.source_id, return_index=True)[1])


if __name__ == "__main__":
    what, *given = arguments(__doc__, 1)
    numbers = [int(word) if word.isdigit() else word for word in given]
    {"speed": speed, "simulated": simulated, "published": published}[what](*numbers)
