"""A survey of any size made from a trained model: its latents, its scatter, and real stars' errors.

What 40,000 stars cannot settle can be tried at the paper's size, 500,000, where the truth is the model.
"""

from dataclasses import dataclass

import numpy as np

from scattervae.arrays import Latents
from scattervae.errors import DataError, counted
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.correlated_noise import draw_correlated
from scattervae.science.generation import generate
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.labels import StellarLabels
from scattervae.spectra.spectra import Correlations, Spectra

PAPER_N_STARS = 500_000


@dataclass(frozen=True)
class Simulation:
    """Simulated stars.

    Attributes:
        spectra: Source_ids are 1, 2, 3 and so on.
        labels: Each star's model's labels and label errors.
        latents: What the model made each star from.
    """

    spectra: Spectra
    labels: StellarLabels
    latents: Latents


def simulate(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, n: int, *, seed: int = 0
) -> Simulation:
    """`n` stars that the network could have seen, each like a real star drawn at random.

    Its latents are drawn from that star's posterior; coefficients get a draw of the scatter and one of the
    errors, as correlated as the star's where its correlations are known; G flux, errors, correlations and labels
    are the star's. Coefficients that the model does not use are noise.

    Args:
        model: Makes coefficients and scatter.
        spectra: Real stars.
        labels: Labels of any of them, joined by source_id.
        n: How many.
        seed: Of every random number.

    Raises:
        DataError: No star is usable.
    """
    stars = spectra.take(spectra.usable)
    if len(stars) == 0:
        raise DataError(
            f"none of {counted(len(spectra), 'star')} is usable: there is nothing to simulate from"
        )
    rng = numpy_stream(seed, "simulate")
    like = rng.integers(len(stars), size=n)
    posterior = model.encode(stars)
    z = posterior.each(lambda values: values[like]).sample(stream(seed, "simulate"))
    made = generate(model, z, stars.g_flux[like], noise_seed=seed)
    errors = stars.errors[like]
    source_id = np.arange(1, n + 1, dtype=np.int64)
    noise = rng.standard_normal(errors.shape)
    correlations = stars.correlations
    if correlations is not None:
        correlations = Correlations(bp=correlations.bp[like], rp=correlations.rp[like])
        noise = draw_correlated(correlations, noise)
    star_labels = labels.aligned_to(stars.source_id).take(like)
    return Simulation(
        spectra=Spectra.of(
            source_id,
            made.coeffs + errors * noise,
            errors,
            basis=stars.basis,
            g_flux=stars.g_flux[like],
            correlations=correlations,
        ),
        labels=StellarLabels(source_id, star_labels.values, star_labels.errors),
        latents=z,
    )
