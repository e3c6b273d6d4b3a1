"""Spectra from a trained model with errors like real stars', scaled to the brightness of the archive's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scattervae.gaia.basis import g_flux_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Posterior
from scattervae.science.generation import generate
from scattervae.science.trained import load_model
from scattervae.seeds import stream
from scattervae.spectra.spectra import Spectra

FAINTEST, BRIGHTEST, SLOPE = 17.65, 4.0, 0.25
"""G of the stars: numbers rise as 10**(0.25 G) to the limit of the published spectra.

Source:
    G < 17.65: Gaia DR3 documentation, xp_continuous_mean_spectrum. The slope is that of star counts between
    G 10 and 17, averaged over the sky, to the precision needed here.
"""


@dataclass(frozen=True)
class Drawn:
    """Stars in archive units: coefficients BP then RP."""

    coeffs: np.ndarray
    errors: np.ndarray
    g_flux: np.ndarray
    g_mag: np.ndarray


@dataclass(frozen=True)
class StarMaker:
    """Draws stars: each has the latents and relative errors of some real star, and a G magnitude of its own.

    Attributes:
        model: Makes coefficients and scatter.
        mean: Posterior means of the real stars' latents.
        log_variance: Their log variances.
        errors: The real stars' errors.
        g_flux: Their G flux.
    """

    model: Checkpoint
    mean: torch.Tensor
    log_variance: torch.Tensor
    errors: np.ndarray
    g_flux: np.ndarray

    @classmethod
    def like(cls, model: Checkpoint, stars: Spectra) -> "StarMaker":
        stars = stars.take(stars.usable)
        posterior = model.encode(stars)
        return cls(model, posterior.mean, posterior.log_variance, stars.errors, stars.g_flux)

    def save(self, path: Path) -> None:
        """All but the model, to be loaded by the workers."""
        np.savez(
            path,
            mean=self.mean.numpy(),
            log_variance=self.log_variance.numpy(),
            errors=self.errors,
            g_flux=self.g_flux,
        )

    @classmethod
    def load(cls, model: Path, path: Path) -> "StarMaker":
        with np.load(path) as saved:
            mean, log_variance = (torch.from_numpy(saved[name]) for name in ("mean", "log_variance"))
            return cls(load_model(model), mean, log_variance, saved["errors"], saved["g_flux"])

    def draw(self, n: int, seed: int) -> Drawn:
        """`n` stars. Errors grow with the root of the flux, as those of photons do."""
        rng = np.random.default_rng([seed, 1])
        like = rng.integers(len(self.g_flux), size=n)
        low, high = (10 ** (SLOPE * g) for g in (BRIGHTEST, FAINTEST))
        g_mag = np.log10(rng.uniform(low, high, n)) / SLOPE
        g_flux = np.asarray(g_flux_of(g_mag))
        rows = torch.from_numpy(like)
        z = Posterior(self.mean[rows], self.log_variance[rows]).sample(stream(seed, "benchmark"))
        made = generate(self.model, z, g_flux, noise_seed=seed)
        errors = self.errors[like] * np.sqrt(g_flux / self.g_flux[like])[:, None]
        return Drawn(made.coeffs + errors * rng.standard_normal(errors.shape), errors, g_flux, g_mag)
