"""What the full covariance of the coefficients changes: likelihoods of stars, and the latents of known ones."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from scattervae.arrays import Coeffs, Latents, PerStar, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.covariance import CorrelatedNoise, Matrices, square
from scattervae.model.loss import loss_terms
from scattervae.model.network import Coupling, Reconstruction
from scattervae.seeds import stream
from scattervae.spectra.spectra import Basis, Correlations, Spectra

Decode = Callable[[Tensor], Reconstruction]

N_DRAWS = 10
_N_STEPS = 8


@dataclass(frozen=True)
class LikelihoodScores:
    """Scores of a model in nats per star, lower is better; the constant with ln 2 pi is left out.

    Attributes:
        negative_elbo: Negative evidence lower bound of each star, over draws from its posterior.
        nll_at_mean: Negative log-likelihood of each star at its posterior mean.
        correlated: Stars whose correlations were used.
    """

    negative_elbo: StarArray
    nll_at_mean: StarArray
    correlated: StarMask


def covariances(errors: Coeffs, *, mean: Coeffs, scatter: Coeffs, noise: CorrelatedNoise) -> Matrices:
    """The matrix S of each star, written out; infinite along the diagonal where an error is."""
    corners = [
        torch.nn.functional.pad(square(pairs), (band.start, mean.shape[1] - band.stop) * 2)
        for pairs, band in noise.bands
    ]
    known = errors.masked_fill(errors.isinf(), 0.0)
    flux = noise.g_error[:, None] * (mean + noise.origin)
    matrix = (corners[0] + corners[1]) * known[:, :, None] * known[:, None, :] + flux[:, :, None] * flux[
        :, None, :
    ]
    missing = torch.where(errors.isinf(), math.inf, 0.0)
    return matrix + (scatter.square() + missing).diag_embed()


def mean_correlations(path: Path, n_stars: int, basis: Basis) -> Correlations:
    """The same correlations for each of so many stars, in no memory of their own.

    Args:
        path: An ``.npz`` file with a correlation matrix ``bp`` and one ``rp``.
        n_stars: How many.
        basis: Of these stars.

    Raises:
        DataError: The file has no such matrices, or they are of another size.
    """
    triangles = []
    try:
        with np.load(path) as file:
            matrices = {band: np.asarray(file[band], dtype=np.float32) for band in ("bp", "rp")}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not an .npz file with matrices bp and rp ({error})") from error
    for band, size in (("bp", basis.n_bp), ("rp", basis.n_rp)):
        if matrices[band].shape != (size, size):
            raise DataError(
                f"{path}: {band} is {matrices[band].shape}, expected ({size}, {size}) for {basis}"
            )
        below = matrices[band][np.tril_indices(size, -1)]
        triangles.append(np.broadcast_to(below, (n_stars, len(below))))
    return Correlations(*triangles)


@torch.no_grad()
def full_scores(
    model: Checkpoint,
    spectra: Spectra,
    *,
    g_flux_error: StarArray | None = None,
    n_draws: int = N_DRAWS,
    seed: int = 0,
) -> LikelihoodScores:
    """Likelihoods of stars under their whole covariance, comparable between models of any training.

    Stars without correlations have the likelihood of independent coefficients; so have all of
    ``replace(spectra, correlations=None)``. A score has the units of the model's own normalization.

    Args:
        model: The model.
        spectra: Usable stars.
        g_flux_error: One standard deviation of each star's G flux [electron/s], NaN where unknown.
        n_draws: Draws from each star's posterior.
        seed: Of the draws.
    """
    generator = stream(seed, "evaluate")
    elbos, nlls, given, start = [], [], [], 0
    for encoded in model.encode_batches([spectra]):
        x, errors, posterior = encoded.inputs.x, encoded.inputs.errors, encoded.posterior
        here = None if g_flux_error is None else g_flux_error[start : start + len(x)]
        noise = CorrelatedNoise.of(encoded.spectra, model.normalization, g_flux_error=here)
        drawn = torch.zeros(len(x), dtype=torch.float64)
        for _ in range(n_draws):
            predicted = model.reconstruct(posterior.sample(generator))
            drawn += loss_terms(x, errors, posterior, predicted, correlated=noise).negative_elbo
        elbos.append(drawn / n_draws)
        nlls.append(loss_terms(x, errors, posterior, encoded.reconstruction, correlated=noise).nll.double())
        given.append(noise.given)
        start += len(x)
    return LikelihoodScores(*(torch.cat(parts).numpy() for parts in (elbos, nlls, given)))


class Fit(NamedTuple):
    """The latents that fit some spectra best.

    Attributes:
        z: The latents.
        precision: Inverse of their covariance, from the decoder's derivatives there.
    """

    z: Latents
    precision: Coupling


def best_latents(decode: Decode, x: Coeffs, precision: Matrices, start: Latents, *, prior: bool) -> Fit:
    r"""Gauss-Newton steps to the latents whose mean spectrum is nearest, each star by itself.

    .. math:: \arg\min_z\ (x - m(z))^T S^{-1} (x - m(z)) + [\mathrm{prior}]\ z^T z

    S is held fixed. A step that does not bring a star nearer is halved for it.

    Args:
        decode: From latents to coefficients; m is their mean.
        x: Spectra, in training standard deviations.
        precision: :math:`S^{-1}`.
        start: Where to begin.
        prior: With the standard normal prior of the latents, or without.

    Source:
        Nocedal & Wright (2006), Numerical Optimization, sect. 10.3.
    """
    z, size = start.clone(), torch.ones(len(x), 1, dtype=x.dtype)
    slope, misfit = _slopes(decode, z), x - _mean(decode, z)
    distance = _distance(misfit, precision, z if prior else None)
    for _ in range(_N_STEPS):
        hessian, pull = _normal_equations(slope, precision, misfit, z if prior else None)
        candidate = z + size * torch.linalg.solve(hessian, pull)
        found = x - _mean(decode, candidate)
        there = _distance(found, precision, candidate if prior else None)
        better = (there < distance)[:, None]
        z, misfit = torch.where(better, candidate, z), torch.where(better, found, misfit)
        distance = torch.where(better[:, 0], there, distance)
        size = torch.where(better, 1.0, 0.5 * size)
        slope = _slopes(decode, z)
    return Fit(z, _normal_equations(slope, precision, misfit, z if prior else None)[0])


class LatentCoverage(NamedTuple):
    """How known latents lie in the Gaussians that should hold them; expected 0.683, 0.683, 1 and 1.

    Attributes:
        each: Share of latents within one stated standard deviation.
        jointly: Share of stars whose latents lie inside the 68.3 % ellipsoid.
        square: Mahalanobis distance squared, its median over that of chi^2.
        squares: The same of each latent by itself, by its stated variance.
    """

    each: float
    jointly: float
    square: float
    squares: tuple[float, ...]


def latent_coverage(difference: Latents, covariance: Coupling) -> LatentCoverage:
    """Coverage of the differences between found and known latents by the stated covariances."""
    from scipy.stats import chi2

    n = difference.shape[1]
    sd = covariance.diagonal(dim1=1, dim2=2).sqrt()
    squared = (difference * torch.linalg.solve(covariance, difference)).sum(dim=1).numpy()
    return LatentCoverage(
        each=float((difference.abs() < sd).double().mean()),
        jointly=float((squared < chi2.ppf(0.6827, n)).mean()),
        square=float(np.median(squared) / chi2.median(n)),
        squares=tuple((np.median((difference / sd).square(), axis=0) / chi2.median(1)).tolist()),
    )


def scatter_over_flux(model: Checkpoint, predicted: Reconstruction) -> Float64[np.ndarray, "star coeff"]:
    """Intrinsic scatter of coefficients over G flux, which does not depend on how a model scales them."""
    over_flux: Float64[np.ndarray, "star coeff"] = (
        predicted.scatter.double().numpy() * model.normalization.std
    )
    return over_flux


def _mean(decode: Decode, z: Latents) -> Coeffs:
    with torch.enable_grad():  # without it a plain network decodes by oneDNN, which has no forward mode
        return decode(z).mean.detach()


def _slopes(decode: Decode, z: Latents) -> Float[Tensor, "star coeff latent"]:
    def one(at: Tensor) -> Tensor:
        return decode(at[None]).mean[0]

    with torch.enable_grad():
        slopes: Tensor = torch.func.vmap(torch.func.jacrev(one))(z)
    return slopes.detach()


def _distance(misfit: Coeffs, precision: Matrices, z: Latents | None) -> PerStar:
    squared = (misfit * (precision @ misfit[:, :, None])[:, :, 0]).sum(dim=1)
    return squared if z is None else squared + z.square().sum(dim=1)


def _normal_equations(
    slope: Float[Tensor, "star coeff latent"], precision: Matrices, misfit: Coeffs, z: Latents | None
) -> tuple[Coupling, Latents]:
    weighted = slope.mT @ precision
    hessian, pull = weighted @ slope, (weighted @ misfit[:, :, None])[:, :, 0]
    if z is None:
        return hessian, pull
    return hessian + torch.eye(z.shape[1], dtype=z.dtype), pull - z
