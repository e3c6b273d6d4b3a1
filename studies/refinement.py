"""The numbers of docs/explanation/posterior.md on refined posteriors and the evidence.

    python -m studies.refinement MODEL STARS [EVERY]

MODEL was trained without the validation fold (`training.hold_out_validation`); the stars of that fold are scored,
every so many of them, by the model as it was trained: that of a calibrated one refines by itself.
"""

import time
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import chi2

import scattervae
from scattervae.arrays import Latents, PerStar
from scattervae.gaia.basis import g_mag_of
from scattervae.model.network import Posterior
from scattervae.science.evaluation import mean_bound
from scattervae.science.exact_posterior import log_evidence, refine
from scattervae.seeds import folds, stream
from scattervae.spectra.normalization import Inputs
from studies import arguments

MODEL, STARS, *MORE = arguments(__doc__, 2)
EVERY = int(MORE[0]) if MORE else 1
N_DRAWS = 20
G_EDGES = (0.0, 10.0, 11.0, 12.0, 13.0, 14.0, 25.0)
checkpoint = scattervae.load_model(MODEL, calibrated=False)  # of a calibrated one `encode` refines already
every_star = scattervae.load(STARS).spectra
stars = every_star.take(folds(every_star.source_id).validation & every_star.usable)
stars = stars.take(slice(None, None, EVERY))
g_mag = g_mag_of(stars.g_flux)
(encoded,) = checkpoint.encode_batches([stars], batch=len(stars))
inputs, encoder = encoded.inputs, encoded.posterior


def row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def bound(posterior: Posterior, inputs: Inputs = inputs) -> PerStar:
    """-ELBO of each star, over draws that no refinement has seen."""
    return mean_bound(checkpoint, inputs, posterior, stream(0, "bound"), n_draws=N_DRAWS)


def by_steps() -> None:
    print(f"\n## {len(stars)} validation stars: -ELBO by number of steps (nats a star)")
    row("steps", "-ELBO", "gain", "median gain", "worse by 0.5", "stars/s of CPU time")
    start = bound(encoder)
    row("encoder", start.mean().item(), 0.0, 0.0, 0.0, "")
    for n_steps in (0, 1, 2, 4, 8, 16):
        began = time.process_time()
        refined = refine(checkpoint, inputs, encoder, n_steps=n_steps).posterior
        rate = len(stars) / (time.process_time() - began)
        now = bound(refined)
        gain = start - now
        losing = (gain < -0.5).double().mean().item()
        row(n_steps, now.mean().item(), gain.mean().item(), gain.median().item(), losing, f"{rate:,.0f}")


def by_magnitude(refined: Posterior) -> None:
    print("\n## By G: gain, and how wide and how far the refined posterior is beside the encoder's")
    row("G", "stars", "-ELBO encoder", "gain", "width ratio", "shift in encoder's sd, rms")
    before, after = bound(encoder), bound(refined)
    ratio = (0.5 * (refined.log_variance - encoder.log_variance).mean(dim=1)).exp()
    shift = ((refined.mean - encoder.mean) / encoder.sd).square().mean(dim=1)
    for low, high in pairwise(G_EDGES):
        here = torch.from_numpy((g_mag >= low) & (g_mag < high))
        if here.any():
            values = (
                before[here].mean(),
                (before - after)[here].mean(),
                ratio[here].median(),
                shift[here].mean().sqrt(),
            )
            row(f"{low:g}-{high:g}", int(here.sum()), *(v.item() for v in values))


def evidence() -> None:
    print("\n## ln p(x): mean, and effective draws (median, 5 %), by proposals and draws")
    row("proposals", "draws", "ln p(x)", "median effective", "5 % effective")
    for proposals, n in (
        ("encoder", 50),
        ("encoder", 200),
        ("refined", 10),
        ("refined", 50),
        ("refined", 200),
    ):
        found = log_evidence(checkpoint, stars, n, proposals=proposals)
        effective = found.effective_draws
        row(proposals, n, found.mean, effective.median().item(), effective.quantile(0.05).item())


@torch.no_grad()
def remade(z: Latents, like: Inputs) -> Inputs:
    """Stars that the network makes at these latents, with these errors."""
    predicted = checkpoint.reconstruct(z)
    noise = torch.randn(z.shape[0], like.x.shape[1], generator=stream(0, "remade"))
    return Inputs(
        predicted.mean + (like.errors.square() + predicted.scatter.square()).sqrt() * noise, like.errors
    )


def coverage() -> None:
    print(
        "\n## Made stars: share of true latents inside the posterior's 68 % and 95 % (Mahalanobis), median distance"
    )
    row("latents from", "posterior", "68 %", "95 %", "median of P(chi2)")
    normal = torch.randn(encoder.mean.shape, generator=stream(0, "prior"))
    for name, z in (("the prior", normal), ("the encoder's posteriors", encoder.sample(stream(1, "z")))):
        made = remade(z, inputs)
        q = checkpoint.predict(made, batch=len(made)).posterior.each(torch.clone)
        r = refine(checkpoint, made, q).posterior
        for posterior_name, p in (("encoder", q), ("refined", r)):
            away = torch.linalg.solve_triangular(
                p.root.double(), (z - p.mean).double()[:, :, None], upper=False
            )
            u = chi2.cdf(away[:, :, 0].square().sum(dim=1).numpy(), z.shape[1])
            row(
                name,
                posterior_name,
                float((u < 0.6827).mean()),
                float((u < 0.9545).mean()),
                float(np.median(u)),
            )


def without_bp() -> None:
    print("\n## The same stars from RP alone")
    row("posterior", "-ELBO", "median width of a latent")
    lost = torch.zeros_like(inputs.x, dtype=torch.bool)
    lost[:, checkpoint.normalization.bp] = True
    left = Inputs(inputs.x.masked_fill(lost, 0.0), inputs.errors.masked_fill(lost, torch.inf))
    q = checkpoint.predict(left, batch=len(left)).posterior
    for name, p in (("encoder", q), ("refined", refine(checkpoint, left, q).posterior)):
        row(name, bound(p, left).mean().item(), p.sd.median().item())


by_steps()
without_bp()
by_magnitude(refine(checkpoint, inputs, encoder).posterior)
evidence()
coverage()
