"""A linear Gaussian model with its exact posterior as encoder: what calibration is, in closed form."""

from dataclasses import replace

import numpy as np
import torch

from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import NetworkShape, Posterior, Reconstruction, ScatterVAE
from scattervae.model.recipe import Recipe
from scattervae.seeds import stream
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Basis

BASIS = Basis(6, 5)
N = BASIS.n_coeffs
SHAPE = NetworkShape(n_latent=2, hidden=(8,), encoder_sees="errors", posterior="correlated")


class LinearNetwork(ScatterVAE):
    """m(z) = A z and a scatter of the same size everywhere; the encoder is Bayes' rule."""

    def __init__(self, *, scatter=0.2, widths=1.0):
        super().__init__(N, SHAPE)
        generator = torch.Generator().manual_seed(0)
        self.slopes = torch.randn(N, 2, generator=generator)
        self.scatter, self.widths = scatter, widths

    def encode(self, x, errors):
        weight = 1.0 / (errors.square() + self.scatter**2)
        precision = torch.einsum("ik,si,il->skl", self.slopes, weight, self.slopes) + torch.eye(2)
        covariance = torch.linalg.inv(precision)
        mean = torch.einsum("skl,il,si->sk", covariance, self.slopes, weight * x)
        root = torch.linalg.cholesky(covariance) * self.widths
        sd = root.diagonal(dim1=1, dim2=2)
        return Posterior(mean, 2 * sd.log(), (root / sd[:, None, :]).tril(-1))

    def decode(self, z):
        mean = z @ self.slopes.T
        return Reconstruction(mean, torch.full_like(mean, self.scatter))


def linear_model(**given):
    normalization = Normalization(BASIS, np.arange(N), np.zeros(N), np.ones(N), 1, 1)
    recipe = Recipe(name="linear", network=SHAPE)
    return Checkpoint(recipe, normalization, LinearNetwork(**given).eval(), provenance={})


def with_widths(model, widths):
    """The same with posteriors so many times as wide."""
    return replace(model, network=LinearNetwork(scatter=model.network.scatter, widths=widths).eval())


def errors_of(n, seed=0):
    """Stars without coefficients yet, whose errors differ from star to star by a factor of ten."""
    generator = torch.Generator().manual_seed(seed)
    errors = 10 ** (torch.rand(n, 1, generator=generator) - 1.0) * (
        0.5 + torch.rand(n, N, generator=generator)
    )
    return Inputs(torch.zeros(n, N), errors)


def stars_of(model, n, seed=0):
    """Stars that the model makes, with their latents drawn from the prior."""
    generator = torch.Generator().manual_seed(seed + 1)
    like = errors_of(n, seed)
    decoded = model.reconstruct(torch.randn(n, 2, generator=generator))
    width = (like.errors.square() + decoded.scatter.square()).sqrt()
    return Inputs(decoded.mean + width * torch.randn(n, N, generator=generator), like.errors)


def correlated(n, seed=0):
    """Posteriors of three correlated latents."""
    generator = stream(seed, "test")
    mean = torch.randn(n, 3, generator=generator)
    coupling = torch.randn(n, 3, 3, generator=generator).tril(-1)
    return Posterior(mean, torch.randn(n, 3, generator=generator), coupling)
