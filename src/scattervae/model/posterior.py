"""An encoder's prediction for a star: a Gaussian over its latents, independent or correlated."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from scattervae.arrays import Latents

ACTIVE_ABOVE_NATS = 0.1

Coupling = Float[Tensor, "star latent latent"]


class Posterior(NamedTuple):
    r"""A Gaussian over the latents of each star.

    .. math:: z = \mu + (1 + C)\, \mathrm{diag}(s)\, \epsilon, \qquad \epsilon \sim N(0, 1)

    With C strictly lower triangular every covariance can be written so, and its determinant is that of
    diag(s^2). The paper's posterior is independent: it has no C.

    Attributes:
        mean: :math:`\mu`.
        log_variance: :math:`\ln s^2`, the variance of a latent given those before it.
        coupling: C; None where the latents are independent.

    Source:
        Laroche & Speagle (2023), sect. 2.2, for the independent one; Kingma & Welling (2019), sect. 2.5.1, for a
        full covariance.
    """

    mean: Latents
    log_variance: Latents
    coupling: Coupling | None = None

    @classmethod
    def of_root(cls, mean: Latents, root: Coupling) -> "Posterior":
        """The Gaussian of this mean whose covariance is L L^T, with L lower triangular."""
        sd = root.diagonal(dim1=1, dim2=2)
        coupling = (root / sd[:, None, :]).tril(-1)
        return cls(mean, 2.0 * sd.log().to(mean), coupling.to(mean))

    @property
    def noise_sd(self) -> Latents:
        """Standard deviation s of each latent's own noise."""
        return (0.5 * self.log_variance).exp()

    @property
    def sd(self) -> Latents:
        """Standard deviation of each latent, whatever the others are."""
        return self.noise_sd if self.coupling is None else self.variance.sqrt()

    @property
    def variance(self) -> Latents:
        """Variance of each latent, whatever the others are."""
        own = self.log_variance.exp()
        if self.coupling is None:
            return own
        return own + (self.coupling.square() * own[:, None, :]).sum(dim=-1)

    @property
    def root(self) -> Coupling:
        """The lower triangular L = (1 + C) diag(s) of the covariance L L^T."""
        diagonal = self.noise_sd.diag_embed()
        return diagonal if self.coupling is None else diagonal + self.coupling * self.noise_sd[:, None, :]

    @property
    def covariance(self) -> Coupling:
        """Covariance of the latents of each star."""
        return self.root @ self.root.mT

    def at(self, noise: Latents) -> Latents:
        """The draw that standard normal noise gives (Kingma & Welling 2013, sect. 2.4)."""
        if self.coupling is None:
            return self.mean + self.noise_sd * noise
        scaled = self.noise_sd * noise
        return self.mean + scaled + torch.bmm(self.coupling, scaled[:, :, None])[:, :, 0]

    def sample(self, generator: torch.Generator) -> Latents:
        """One draw a star."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)
        return self.at(noise.to(self.mean.device))

    def log_density(self, z: Latents) -> Float[Tensor, " star"]:
        r"""Natural logarithm of the density at one latent vector a star, :math:`\ln 2\pi` included."""
        scaled = z - self.mean
        if self.coupling is not None:
            scaled = torch.linalg.solve_triangular(self.root, scaled[:, :, None], upper=False)[:, :, 0]
        else:
            scaled = scaled / self.noise_sd
        constant = self.mean.shape[1] * math.log(2.0 * math.pi)
        return -0.5 * (scaled.square().sum(dim=-1) + self.log_variance.sum(dim=-1) + constant)

    def kl(self) -> Latents:
        r"""Kullback-Leibler divergence from the standard normal prior in nats, latent by latent.

        .. math:: \tfrac12 \left[ \mu_k^2 + \Sigma_{kk} - 1 - \ln s_k^2 \right]

        The sum over latents is the divergence of the whole Gaussian, correlated or not.

        Source:
            Laroche & Speagle (2023), eq. 5, before the mean over latents.
        """
        return 0.5 * (self.mean.square() + self.variance - 1.0 - self.log_variance)

    def kl_per_latent(self) -> list[float]:
        """Divergence of each latent in nats, averaged over the stars that could be encoded."""
        kl: list[float] = self.kl().double().nanmean(dim=0).tolist()
        return kl

    def active_latents(self) -> list[int]:
        """The latents that carry information, counted from 0: a mean divergence above 0.1 nats, the largest first."""
        kl = self.kl_per_latent()
        return sorted((k for k in range(len(kl)) if kl[k] > ACTIVE_ABOVE_NATS), key=lambda k: -kl[k])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Posterior":
        """The same change made to mean, log variance and coupling: rows taken, a device, a type."""
        coupling = None if self.coupling is None else change(self.coupling)
        return Posterior(change(self.mean), change(self.log_variance), coupling)

    @staticmethod
    def concatenate(parts: "Sequence[Posterior]") -> "Posterior":
        """The stars of all parts in order; at least one part, all correlated or none."""
        couplings = [part.coupling for part in parts if part.coupling is not None]
        return Posterior(
            torch.cat([part.mean for part in parts]),
            torch.cat([part.log_variance for part in parts]),
            torch.cat(couplings) if couplings else None,
        )
