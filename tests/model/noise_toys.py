"""Noise whose covariance is known: correlation matrices of one's own making."""

from dataclasses import replace

import numpy as np
import torch

from scattervae.model.covariance import CorrelatedNoise
from scattervae.seeds import stream
from scattervae.spectra.spectra import Correlations, Spectra

N_BP, N_RP = 6, 5
N = N_BP + N_RP


def triangles(n_stars: int, size: int, *, seed: int = 0) -> torch.Tensor:
    """Strict lower triangles of correlation matrices with eigenvalues from 0.1."""
    factors = torch.randn(
        n_stars, size, size + 2, generator=stream(seed, "triangles", size), dtype=torch.float64
    )
    matrices = factors @ factors.mT
    sd = matrices.diagonal(dim1=1, dim2=2).sqrt()
    matrices = 0.9 * matrices / sd[:, :, None] / sd[:, None, :]
    row, column = torch.tril_indices(size, size, offset=-1)
    return matrices[:, row, column]


def a_noise(n: int = 4, *, g_error: float = 0.3, seed: int = 0) -> CorrelatedNoise:
    return CorrelatedNoise(
        bp=triangles(n, N_BP, seed=seed),
        rp=triangles(n, N_RP, seed=seed),
        g_error=torch.full((n,), g_error, dtype=torch.float64),
        origin=torch.randn(N, generator=stream(seed, "origin"), dtype=torch.float64),
        given=torch.ones(n, dtype=torch.bool),
        refused=torch.zeros(n, dtype=torch.bool),
    )


def covariance_by_hand(
    errors: np.ndarray, scatter: np.ndarray, flux: np.ndarray, noise: CorrelatedNoise, star: int
):
    """S of one star, built entry by entry from the definition."""
    matrix = np.zeros((N, N))
    for pairs, start, size in ((noise.bp, 0, N_BP), (noise.rp, N_BP, N_RP)):
        own = np.eye(size)
        own[np.tril_indices(size, -1)] = pairs[star].numpy()
        own = np.tril(own) + np.tril(own, -1).T
        here = slice(start, start + size)
        matrix[here, here] = np.diag(errors[here]) @ own @ np.diag(errors[here])
    return matrix + np.diag(scatter**2) + float(noise.g_error[star]) ** 2 * np.outer(flux, flux)


def correlated(spectra: Spectra, *, seed: int = 0) -> Spectra:
    """The same stars, with correlations of their own."""
    bp, rp = (triangles(len(spectra), size, seed=seed).numpy().astype(np.float32) for size in (N_BP, N_RP))
    return replace(spectra, correlations=Correlations(bp=bp, rp=rp))
