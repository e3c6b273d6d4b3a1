"""The scatter VAE: an encoder, and two decoders that read the same latent vector.

Laroche & Speagle (2023), sect. 2.2 and fig. 1.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn

from scattervae.arrays import Coeffs, Latents
from scattervae.settings import Settings

ACTIVE_ABOVE_NATS = 0.1


class NetworkShape(Settings):
    """Shape of the scatter VAE; the defaults are the paper's where it says, ours where it does not.

    Attributes:
        n_latent: Dimensions of the latent space.
        hidden: Widths of the encoder's hidden layers; decoder and scatter estimator run them backwards.
        scatter_link: What makes the scatter positive; the paper leaves it open. Softplus grows linearly, so
            an outlier pulls on the weights in proportion; exp can overflow early in training; sigmoid caps
            the scatter at one training standard deviation.
        scatter_floor: Smallest scatter, in training standard deviations; keeps the likelihood of a
            coefficient with a tiny error finite.
        log_variance_limits: The latent log variance is held inside these; outside, exp() leaves float32's
            comfortable range and one star can undo an epoch.
    """

    n_latent: PositiveInt = 6
    hidden: tuple[PositiveInt, ...] = Field(default=(80, 50, 30), min_length=1)
    scatter_link: Literal["softplus", "exp", "sigmoid"] = "softplus"
    scatter_floor: PositiveFloat = 1e-4
    log_variance_limits: tuple[float, float] = (-12.0, 6.0)

    @field_validator("log_variance_limits")
    @classmethod
    def _rising(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if limits[0] >= limits[1]:
            raise ValueError("the first limit must lie below the second")
        return limits


class Posterior(NamedTuple):
    """An independent Gaussian over the latents of each star."""

    mean: Latents
    log_variance: Latents

    @property
    def sd(self) -> Latents:
        """Standard deviation of each latent."""
        return (0.5 * self.log_variance).exp()

    def at(self, noise: Latents) -> Latents:
        """The draw that standard normal noise gives: z = mean + sd * eps (Kingma & Welling 2013, sect. 2.4)."""
        return self.mean + self.sd * noise

    def sample(self, generator: torch.Generator) -> Latents:
        """One draw a star."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.at(noise.to(self.mean.device))

    def kl(self) -> Latents:
        r"""Kullback-Leibler divergence of each latent from the standard normal prior, in nats.

        .. math:: \tfrac12 \left[ \mu^2 + e^{\ln\sigma^2} - 1 - \ln\sigma^2 \right]

        Source:
            Laroche & Speagle (2023), eq. 5, before the mean over latents.
        """
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance)

    def kl_per_latent(self) -> list[float]:
        """Divergence of each latent in nats, averaged over the stars that could be encoded."""
        kl: list[float] = self.kl().double().nanmean(dim=0).tolist()
        return kl

    def n_active(self) -> int:
        """How many latents carry information: a mean divergence above 0.1 nats."""
        return sum(kl > ACTIVE_ABOVE_NATS for kl in self.kl_per_latent())


class Reconstruction(NamedTuple):
    """What a latent vector says of a star, in training standard deviations."""

    mean: Coeffs
    scatter: Coeffs

    def normalised_errors(self, x: Coeffs, errors: Coeffs) -> Coeffs:
        r"""Residuals over error and scatter in quadrature.

        .. math:: (x_i - \hat x_i) / \sqrt{\sigma_{x,i}^2 + \hat\sigma_{s,i}^2}

        Source:
            Laroche & Speagle (2023), sect. 3 and fig. 2.
        """
        return (x - self.mean) / (errors.square() + self.scatter.square()).sqrt()


class ScatterVAE(nn.Module):
    """Encoder, decoder and scatter estimator; 44,332 parameters with the paper's shape on 110 coefficients.

    Args:
        n_coeffs: Coefficients a star, BP and RP together.
        shape: Layers, latents and the link of the scatter.
    """

    def __init__(self, n_coeffs: int, shape: NetworkShape | None = None) -> None:
        super().__init__()
        self.n_coeffs = n_coeffs
        self.shape = shape or NetworkShape()
        backwards = self.shape.hidden[::-1]
        self.encoder = _layers([n_coeffs, *self.shape.hidden, 2 * self.shape.n_latent])
        self.decoder = _layers([self.shape.n_latent, *backwards, n_coeffs])
        self.scatter_estimator = _layers([self.shape.n_latent, *backwards, n_coeffs])

    def encode(self, x: Coeffs) -> Posterior:
        """The posterior over the latents of each star; errors are not an input (paper, fig. 1)."""
        mean, log_variance = _through(self.encoder, x).chunk(2, dim=-1)
        low, high = self.shape.log_variance_limits
        return Posterior(mean, log_variance.clamp(low, high))

    def decode(self, z: Latents) -> Reconstruction:
        """Coefficients and their intrinsic scatter at these latent vectors."""
        return Reconstruction(_through(self.decoder, z), self._positive(_through(self.scatter_estimator, z)))

    def _positive(self, raw: Tensor) -> Tensor:
        if self.shape.scatter_link == "softplus":
            positive = nn.functional.softplus(raw)
        elif self.shape.scatter_link == "exp":
            positive = raw.exp()
        else:
            positive = raw.sigmoid()
        return positive + self.shape.scatter_floor


def _layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with a GELU after each but the last."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """What the layers make of `x`, on a CPU by oneDNN where nothing is to be learnt from it.

    Its matrix products of this size take half the time of those that PyTorch takes by default.
    """
    plain = torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.float32 or len(x) == 0
    if plain or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return layers(x)  # type: ignore[no-any-return]
    return layers(x.to_mkldnn()).to_dense()  # type: ignore[no-any-return]
