"""Decoders whose posteriors and evidence are known: linear ones in closed form, curved ones by integration."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from scattervae.model.network import Posterior, Reconstruction


@dataclass(frozen=True)
class LinearDecoder:
    """x = A z + b + scatter: with a normal prior everything is Gaussian."""

    slopes: Tensor  # coeff latent
    offset: Tensor  # coeff
    scatter: Tensor  # coeff

    @classmethod
    def drawn(cls, n_coeffs: int, n_latent: int, seed: int = 0) -> "LinearDecoder":
        g = torch.Generator().manual_seed(seed)
        draws = torch.randn(n_coeffs, n_latent + 1, generator=g, dtype=torch.float64)
        scatter = 0.05 + 0.3 * torch.rand(n_coeffs, generator=g, dtype=torch.float64)
        return cls(draws[:, 1:], draws[:, 0], scatter)

    def __call__(self, z: Tensor) -> Reconstruction:
        mean = z.double() @ self.slopes.T + self.offset
        return Reconstruction(mean, self.scatter.expand_as(mean))

    def posterior(self, x: Tensor, errors: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of each star's latents by conditioning the joint Gaussian of x and z, in NumPy."""
        A, b = self.slopes.numpy(), self.offset.numpy()
        means, covariances = [], []
        for values, sigma in zip(x.double().numpy(), errors.double().numpy(), strict=True):
            seen = np.isfinite(sigma)
            covariance = A[seen] @ A[seen].T + np.diag(sigma[seen] ** 2 + self.scatter.numpy()[seen] ** 2)
            gain = A[seen].T @ np.linalg.inv(covariance)
            means.append(gain @ (values - b)[seen])
            covariances.append(np.eye(A.shape[1]) - gain @ A[seen])
        return np.array(means), np.array(covariances)


class CurvedDecoder:
    """Coefficients and scatter that are smooth functions of two latents."""

    def __init__(self, n_coeffs: int, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.directions = 0.8 * torch.randn(2, n_coeffs, generator=g, dtype=torch.float64)
        self.phases = 6.0 * torch.rand(n_coeffs, generator=g, dtype=torch.float64)

    def __call__(self, z: Tensor) -> Reconstruction:
        angle = z.double() @ self.directions + self.phases
        return Reconstruction(angle.sin() + 0.5 * angle, 0.1 + 0.05 * angle.cos())


def integrated(decoder: CurvedDecoder, x: Tensor, errors: Tensor, *, reach: float = 5.0, n: int = 401):
    """Mean, covariance and ln evidence of one star by summing over a grid of latents; ln 2 pi of x left out."""
    line = np.linspace(-reach, reach, n)
    z = np.array(list(product(line, line)))
    predicted = decoder(torch.from_numpy(z))
    variance = errors.numpy() ** 2 + predicted.scatter.numpy() ** 2
    seen = np.isfinite(errors.numpy())[0]
    terms = (x.numpy() - predicted.mean.numpy()) ** 2 / variance + np.log(variance)
    log_joint = -0.5 * terms[:, seen].sum(axis=1) - 0.5 * (z**2).sum(axis=1) - np.log(2 * np.pi)
    top = log_joint.max()
    weight = np.exp(log_joint - top)
    log_evidence = top + np.log(weight.sum() * (line[1] - line[0]) ** 2)
    weight /= weight.sum()
    mean = weight @ z
    return mean, (z - mean).T @ ((z - mean) * weight[:, None]), log_evidence


def wide(n_stars: int, n_latent: int) -> Posterior:
    """An encoder's answer that knows nothing: the prior."""
    zeros = torch.zeros(n_stars, n_latent, dtype=torch.float64)
    return Posterior(zeros, zeros)
