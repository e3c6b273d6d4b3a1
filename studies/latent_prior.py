"""The numbers and the figure of docs/explanation/posterior.md on the prior: the standard normal's, and a flow's.

    python -m studies.latent_prior MODEL STARS CORRELATIONS [FIGURE]

MODEL was trained without the validation fold (`training.hold_out_validation`). Real stars are those of that fold.
Each made star gets the errors of the training star nearest to it in the latent space. CORRELATIONS holds mean
correlation matrices `bp` and `rp`, by which the noise of made stars is drawn, or independently where it is `-`.
"""

import time
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.spatial import KDTree

import scattervae
from scattervae.arrays import Latents
from scattervae.gaia.flux import design
from scattervae.model.flow import fit_flow
from scattervae.science.exact_posterior import log_evidence
from scattervae.science.generation import from_aggregate, from_flow, from_prior
from scattervae.seeds import folds, numpy_stream, stream
from scattervae.show.style import PAGE_WIDTH, house_style
from scattervae.spectra.normalization import Inputs
from studies import arguments
from studies.sample_plots import plot_samples
from studies.two_sample import Sample, classifier_test, unbiased_energy_test

MODEL, STARS, CORRELATIONS, *MORE = arguments(__doc__, 3)
FIGURE = Path(MORE[0]) if MORE else None
N_ENERGY, N_DRAWN = 1500, 2000
# the middle one is what the others are divided by
BANDS_NM = ((400, 450), (450, 500), (500, 580), (580, 650), (650, 700), (700, 780), (780, 880), (880, 1000))
REFERENCE = 3
checkpoint = scattervae.load_model(MODEL)
every_star = scattervae.load(STARS).spectra
every_star = every_star.take(numpy_stream(0, "order").permutation(np.flatnonzero(every_star.usable)))
fold = folds(every_star.source_id)
training, validation = every_star.take(fold.train), every_star.take(fold.validation)
N = len(validation)
posterior = checkpoint.encode(training)
normalization = checkpoint.normalization


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def model_inputs(stars) -> Inputs:
    return normalization.apply(stars)


@cache
def correlated() -> torch.Tensor | None:
    """A root of the correlation matrix of the noise."""
    if CORRELATIONS == "-":
        return None
    with np.load(CORRELATIONS) as file:
        return torch.from_numpy(np.linalg.cholesky(_blocks(file["bp"], file["rp"]))).float()


def _blocks(bp: np.ndarray, rp: np.ndarray) -> np.ndarray:
    whole = np.zeros((len(bp) + len(rp),) * 2)
    whole[: len(bp), : len(bp)], whole[len(bp) :, len(bp) :] = bp, rp
    return whole


def made(z: Latents, nearest: KDTree, errors: torch.Tensor) -> torch.Tensor:
    """Coefficients with scatter and noise, as the model sees them."""
    predicted = checkpoint.reconstruct(z)
    sigma = errors[nearest.query(z.numpy())[1]]
    generator = stream(0, "made")
    scatter, noise = (torch.randn(predicted.mean.shape, generator=generator) for _ in range(2))
    root = correlated()
    if root is not None:
        noise = noise @ root.T
    return predicted.mean + predicted.scatter * scatter + sigma * noise


def colours(x: torch.Tensor) -> Sample:
    """Magnitudes of flux in bands over that in the reference band, not above 5 where noise leaves no flux."""
    grid = design()
    coeffs = normalization.invert(x, np.ones(len(x)))
    flux = coeffs @ grid.matrix[:, normalization.columns].T
    bands = [flux[:, (grid.grid_nm >= a) & (grid.grid_nm < b)].mean(axis=1) for a, b in BANDS_NM]
    others = [band / bands[REFERENCE] for k, band in enumerate(bands) if k != REFERENCE]
    return -2.5 * np.log10(np.maximum(np.stack(others, axis=1), 0.01))


def first_ten(x: torch.Tensor) -> Sample:
    bp, rp = normalization.bp, normalization.rp
    return torch.cat([x[:, bp][:, :10], x[:, rp][:, :10]], dim=1).double().numpy()


def compare(what: str, name: str, real: Sample, other: Sample) -> None:
    energy = unbiased_energy_test(real[:N_ENERGY], other[:N_ENERGY])
    predicted = classifier_test(real, other)
    row(
        what,
        name,
        f"{energy.distance:.4f}",
        f"{energy.p_value:.3f}",
        predicted.accuracy,
        f"{predicted.p:.1e}",
    )


began = time.process_time()
flow = fit_flow(checkpoint, every_star)
print(f"flow fitted in {time.process_time() - began:.0f} s of CPU time: {flow.fit}")
print(f"-ELBO of the validation fold falls by {flow.fit.gain:.2f} nats a star with the flow as the prior")
some = validation.take(slice(None, None, 4))
usual, fitting = (log_evidence(checkpoint, some, 50, prior=p).mean for p in (None, flow.log_density))
print(f"ln p(x) of every fourth of them: {usual:.2f} with N(0, 1), {fitting:.2f} with the flow")

latents = {
    "N(0, 1)": from_prior(checkpoint, N),
    "flow": from_flow(flow, N),
    "aggregate posterior": from_aggregate(posterior, N),
}
real_z = from_aggregate(checkpoint.encode(validation), N)
real_x = model_inputs(validation).x
others = model_inputs(training.take(slice(0, N))).x
tree, errors = KDTree(posterior.mean.numpy()), model_inputs(training).errors
stars = {name: made(z, tree, errors) for name, z in latents.items()} | {"other real stars": others}
print(f"\n## {N} validation stars beside as many others")
row("of what", "beside", "energy distance", "p", "classifier's accuracy", "p")
for name, z in latents.items():
    compare("latents", name, real_z.double().numpy(), z.double().numpy())
for what, feature in (
    ("colours", colours),
    ("first ten BP and RP", first_ten),
    ("all", lambda x: x.double().numpy()),
):
    for name, x in stars.items():
        compare(what, name, feature(real_x), feature(x))

if FIGURE is not None:
    with house_style():
        figure, panels = plt.subplots(1, 2, figsize=(PAGE_WIDTH, 3.0), sharey=True, layout="constrained")
        real = colours(real_x)[:N_DRAWN, [1, 4]].T
        for index, (axes, name) in enumerate(zip(panels, ("N(0, 1)", "flow"), strict=True)):
            plot_samples(axes, real, colours(stars[name])[:N_DRAWN, [1, 4]].T, name=name, index=index)
            axes.set_xlabel("[450-500] $-$ [580-650] (mag)")
        panels[0].set_ylabel("[700-780] $-$ [580-650] (mag)")
        figure.savefig(FIGURE)
