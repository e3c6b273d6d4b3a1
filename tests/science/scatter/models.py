"""Models whose decoder is linear, so that everything asked of them has a closed form, and stars made by them."""

import numpy as np
import torch

from scattervae.gaia.basis import g_flux_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import NetworkShape, Reconstruction, ScatterVAE
from scattervae.model.recipe import Recipe
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis, Spectra

BASIS = Basis(8, 7)
N = BASIS.n_coeffs
N_LATENT = 2


class LinearVAE(ScatterVAE):
    """x = A z + scatter; the scatter grows with the first latent where `swell` is not 0. It encodes as initialised."""

    def __init__(self, *, swell: float = 0.0, seen: str = "errors") -> None:
        super().__init__(
            N, NetworkShape(n_latent=N_LATENT, hidden=(6,), encoder_sees=seen, posterior="correlated")
        )
        rng = np.random.default_rng(5)
        self.slopes = torch.from_numpy(rng.normal(size=(N, N_LATENT))).float()
        self.own = torch.from_numpy(0.1 + 0.3 * rng.random(N)).float()
        self.swell = swell

    def decode(self, z):
        scatter = self.own * (self.swell * z[:, :1]).exp()
        return Reconstruction(z @ self.slopes.T, scatter.expand(len(z), N))


def linear_model(**given: object) -> Checkpoint:
    """A model whose units are those of coefficients over G flux."""
    network = LinearVAE(**given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for weights in network.encoder.parameters():
            torch.nn.init.normal_(weights, std=0.1)
    recipe = Recipe(name="linear", network=network.shape)
    return Checkpoint(recipe, Normalization(BASIS, np.arange(N), np.zeros(N), np.ones(N), 1, 1), network, {})


def stars_of(model: Checkpoint, n: int, *, seed: int = 0, k: object = 1.0, a: float = 1.0) -> Spectra:
    """Stars of G 10 to 15 as the model has them, but for errors k times too small and a scatter a times as large.

    `k` is a number, or one for each star and coefficient.
    """
    rng = np.random.default_rng([seed, n])
    g_mag = rng.uniform(10.0, 15.0, n)
    predicted = model.reconstruct(torch.from_numpy(rng.normal(size=(n, N_LATENT))).float())
    errors = 0.2 * 10 ** (0.2 * (g_mag[:, None] - 12.5)) * rng.lognormal(0.0, 0.3, (n, N))
    noise = np.broadcast_to(k, (n, N)) * errors * rng.normal(size=(n, N))
    x = predicted.mean.numpy() + a * predicted.scatter.numpy() * rng.normal(size=(n, N)) + noise
    g_flux = np.asarray(g_flux_of(g_mag))
    flux = g_flux[:, None]
    return Spectra.of(np.arange(1, n + 1), x * flux, errors * flux, basis=BASIS, g_flux=g_flux)


def inputs_of(model: Checkpoint, n: int, **given: object) -> Inputs:
    """The same stars as the model sees them."""
    return model.normalization.apply(stars_of(model, n, **given))


def conditional(
    model: Checkpoint, inputs: Inputs, star: int, shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance that the latents give each coefficient of a star when only some are shown, in NumPy.

    By conditioning the joint Gaussian of shown coefficients and all noiseless ones; no scatter that depends on z.
    """
    A = model.network.slopes.double().numpy()
    x, errors = inputs.x[star].double().numpy(), inputs.errors[star].double().numpy()
    noise = np.diag(errors[shown] ** 2 + model.network.own.double().numpy()[shown] ** 2)
    gain = A @ A[shown].T @ np.linalg.inv(A[shown] @ A[shown].T + noise)
    return gain @ x[shown], np.diag(A @ A.T - gain @ A[shown] @ A.T)
