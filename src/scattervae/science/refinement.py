r"""A better posterior at test time: a few steps from the encoder's answer to the most probable latents of a star.

An encoder answers for all stars at once and is a little wrong for each. From its answer the latents of a star are
improved with the decoder's derivatives, and their covariance follows from the same derivatives; a step that does not
improve a star is not taken for that star.
"""

import copy
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from scattervae.arrays import Coeffs, Latents, PerStar
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.loss import gaussian_terms
from scattervae.model.network import Reconstruction
from scattervae.model.posterior import Coupling, Posterior
from scattervae.spectra.normalization import Inputs

Decode = Callable[[Tensor], Reconstruction]

N_STEPS = 4
BATCH = 1024


class Refined(NamedTuple):
    r"""Posteriors after refinement.

    Attributes:
        posterior: Of each star, correlated; as it was where a star has no inputs or no posterior to begin with.
        n_steps: How many steps were taken for each star.
        gain: By how many nats :math:`-\ln p(x, z)` fell from the first mean to the last; NaN for such a star.
    """

    posterior: Posterior
    n_steps: Int[Tensor, " star"]
    gain: PerStar


def refine(
    checkpoint: Checkpoint,
    inputs: Inputs,
    posterior: Posterior,
    *,
    n_steps: int = N_STEPS,
    batch: int = BATCH,
) -> Refined:
    """The posterior of each star, improved from the encoder's (`refine_means`).

    Args:
        checkpoint: The model.
        inputs: The stars as the model sees them; missing coefficients have infinite errors.
        posterior: What its encoder says of them.
        n_steps: Steps to try.
        batch: Stars at a time.
    """
    device = checkpoint.device
    network = copy.deepcopy(checkpoint.network).requires_grad_(requires_grad=False)
    mean, log_variance = posterior.mean.clone(), posterior.log_variance.clone()
    coupling = (
        torch.zeros_like(mean.diag_embed()) if posterior.coupling is None else posterior.coupling.clone()
    )
    n_taken = torch.zeros(len(mean), dtype=torch.int64)
    gain = torch.full((len(mean),), math.nan, dtype=torch.float64)
    known = mean.isfinite().all(dim=1) & ~inputs.x.isnan().any(dim=1)
    for rows in torch.split(known.nonzero()[:, 0], batch):
        x, errors = inputs.x[rows].to(device), inputs.errors[rows].to(device)
        part = refine_means(network.decode, x, errors, mean[rows].to(device), n_steps=n_steps)
        assert part.posterior.coupling is not None
        mean[rows], log_variance[rows] = part.posterior.mean.to(mean), part.posterior.log_variance.to(mean)
        coupling[rows] = part.posterior.coupling.to(mean)
        n_taken[rows], gain[rows] = part.n_steps.cpu(), part.gain.cpu()
    return Refined(Posterior(mean, log_variance, coupling), n_taken, gain)


def refine_means(
    decode: Decode, x: Coeffs, errors: Coeffs, mean: Latents, *, n_steps: int = N_STEPS
) -> Refined:
    r"""Gauss and Newton's steps to each star's most probable latents, and Laplace's Gaussian there.

    .. math::

        \mu' = \mu - \rho\, F^{-1} \nabla [-\ln p(x, z)], \qquad
        F = J_m^T V^{-1} J_m + 2\, J_s^T s^2 V^{-2} J_s + 1, \qquad V = \sigma^2 + s^2

    with m and s the decoder's mean and scatter, J their derivatives with respect to the latents, and F the Fisher
    information of the star's coefficients and of the prior, positive definite everywhere. A star takes a step only
    where that makes its :math:`-\ln p(x, z)` smaller; else its :math:`\rho`, 1 at first, is halved. The covariance is
    :math:`F^{-1}` at the last mean.

    Args:
        decode: From latents to coefficients and scatter; differentiable, each star by itself.
        x: Coefficients, in training standard deviations; any number where missing.
        errors: Their errors; infinite where missing.
        mean: Where to begin.
        n_steps: Steps to try; each costs the decoder's derivatives once, and so does the beginning.

    Source:
        Nocedal & Wright (2006), Numerical Optimization, sect. 10.3, for the steps; MacKay (2003), Information Theory,
        Inference, and Learning Algorithms, ch. 27, for Laplace's method.
    """
    here = _look(decode, x, errors, mean)
    first = here.loss
    step = torch.ones_like(first)
    taken = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for _ in range(n_steps):
        root = root_of_inverse(here.precision)
        move = (root @ (root.mT @ here.gradient[:, :, None]))[:, :, 0]
        there = _look(decode, x, errors, here.mean - (step[:, None] * move).to(mean))
        better = there.loss < here.loss  # False for NaN
        here = here.where(better, there)
        taken += better
        step = torch.where(better, 1.0, 0.5 * step)
    return Refined(_gaussian(here.mean, root_of_inverse(here.precision)), taken, first - here.loss)


def root_of_inverse(precision: Coupling) -> Coupling:
    """The lower triangular L with L L^T the inverse of each matrix."""
    # P = U U^T with U upper triangular: the inverse is U^-T U^-1, and U^-T is lower triangular
    upper = torch.linalg.cholesky(precision.flip(1, 2)).flip(1, 2)
    one = torch.eye(precision.shape[1], dtype=precision.dtype, device=precision.device).expand_as(upper)
    inverse: Tensor = torch.linalg.solve_triangular(upper, one, upper=True)
    return inverse.mT


class _Place(NamedTuple):
    """What the decoder says of each star at one latent vector.

    Attributes:
        mean: The latent vector.
        loss: -ln p(x, z) there, constants left out.
        gradient: Of that.
        precision: The Fisher information, that of the prior included.
    """

    mean: Latents
    loss: PerStar
    gradient: Latents
    precision: Coupling

    def where(self, better: Bool[Tensor, " star"], other: "_Place") -> "_Place":
        """The stars of `other` where `better`, of this one elsewhere."""
        pairs = zip(self, other, strict=True)
        return _Place(*(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs))


def _look(decode: Decode, x: Coeffs, errors: Coeffs, z: Latents) -> _Place:
    told, slopes = _with_slopes(decode, z)
    residual = x - told.mean
    variance = errors.square() + told.scatter.square()
    weight = 1.0 / variance  # 0 where missing
    terms = gaussian_terms(x, told.mean, variance, dtype=torch.float64)
    loss = terms.nll + 0.5 * z.double().square().sum(dim=1)
    pull = torch.cat([-residual * weight, told.scatter * weight * (1.0 - residual.square() * weight)], dim=1)
    gradient = torch.bmm(slopes, pull[:, :, None])[:, :, 0] + z
    scaled = slopes * torch.cat([weight.sqrt(), math.sqrt(2.0) * told.scatter * weight], dim=1)[:, None]
    fisher = torch.bmm(scaled, scaled.mT).double()
    one = torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
    return _Place(z, loss, gradient.double(), fisher + one)


def _with_slopes(
    decode: Decode, z: Latents
) -> tuple[Reconstruction, Float[Tensor, "star latent coeffs_and_scatters"]]:
    """What the decoder says at `z`, and its derivatives: all stars along one latent at a time, by forward mode."""

    def along(direction: Float[Tensor, " latent"]) -> tuple[Tensor, Tensor]:
        whole = direction.expand_as(z)
        told, slopes = torch.func.jvp(lambda at: torch.cat([*decode(at)], dim=1), (z,), (whole,))[:2]
        return told, slopes

    directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    # without gradients a plain network decodes by oneDNN, which has no forward mode; PyTorch's own rules for
    # forward mode are compiled at first use by a function that PyTorch calls deprecated
    with torch.enable_grad(), warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        told, slopes = torch.func.vmap(along, out_dims=(None, 1))(directions)  # type: ignore[arg-type]
    return Reconstruction(*told.chunk(2, dim=1)), slopes


def _gaussian(mean: Latents, root: Coupling) -> Posterior:
    sd = root.diagonal(dim1=1, dim2=2)
    coupling = (root / sd[:, None, :]).tril(-1)
    return Posterior(mean, 2.0 * sd.log().to(mean), coupling.to(mean))
