r"""Each coefficient predicted from all others of its star, by the decoder and its derivatives.

A residual at the fitted latents is too small, since they were fitted to the same coefficient. Near the most probable
latents the decoder is close to linear, and leaving one coefficient out has a closed form.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from scattervae.arrays import CoeffArray, Coeffs, Latents
from scattervae.model.checkpoint import BATCH, Checkpoint
from scattervae.model.network import Reconstruction, ScatterVAE
from scattervae.science.exact_posterior import refine_means, with_slopes
from scattervae.spectra.normalization import Inputs

_N_STEPS = 8
_LARGEST_CHANGE = 1.0  # of the logarithm of a scatter, when a coefficient is left out

_Derivatives = Float[Tensor, "star coeff latent"]


@dataclass(frozen=True)
class Residuals:
    """Coefficients less what a model expected, in training standard deviations; NaN where it predicted none."""

    residuals: CoeffArray  # observed less expected at the mean of the latents given the other coefficients
    errors: CoeffArray  # published errors of the coefficients
    scatter: CoeffArray  # the model's scatter, root mean square over the latents' posterior
    latent_variance: CoeffArray  # what the latents' posterior adds to the squared residual

    @property
    def variance(self) -> CoeffArray:
        """Of the residuals, as the model has it: errors as published, its own scatter, and the latents."""
        return np.asarray(self.errors**2 + self.scatter**2 + self.latent_variance)

    @property
    def normalised(self) -> CoeffArray:
        """Residuals over their expected standard deviation; standard normal where model and errors are right."""
        return np.asarray(self.residuals / np.sqrt(self.variance))

    def take(self, stars: np.ndarray | slice) -> "Residuals":
        """The same of these stars: a mask, indices or a slice."""
        return Residuals(*(getattr(self, field.name)[stars] for field in fields(self)))


class _Fit(NamedTuple):
    """Stars at their most probable latents, and how their spectra move with them; float64."""

    residual: Coeffs
    variance: Coeffs
    scatter: Coeffs
    of_mean: _Derivatives  # over the root of the variance
    of_log_variance: _Derivatives  # over the root of 2


@torch.enable_grad()
def leave_one_out(
    model: Checkpoint,
    inputs: Inputs,
    *,
    error_factor: Coeffs | float = 1.0,
    own_factor: Coeffs | float = 1.0,
) -> Residuals:
    r"""Residual of each coefficient, and its variance, had the star been fitted without it.

    `refine_means` leads from the encoder's answer to the most probable latents under
    :math:`S = k^2 e^2 + a^2 s^2(z)`. With their information H, that of coefficient i alone :math:`U_i U_i^T` (from
    its mean, and from its variance), and :math:`M_i = U_i^T H^{-1} U_i`, a two by two matrix,

    .. math:: r_{-i} = r_i + \sqrt{S_i}\, e_1^T M_i (1 - M_i)^{-1} c_i, \qquad
        l_{-i} = S_i\, e_1^T M_i (1 - M_i)^{-1} e_1

    where :math:`U_i c_i` is the coefficient's own part of the gradient. The scatter is corrected in the same way.

    Args:
        model: Any; its encoder only gives the starting point.
        inputs: Stars that can be encoded; a coefficient whose error is infinite is left out for all, and NaN here.
        error_factor: k, on the errors.
        own_factor: a, on the model's scatter.

    Source:
        Cook & Weisberg (1982), Residuals and Influence in Regression, sect. 2.2, for the closed form.
    """
    network = copy.deepcopy(model.network).cpu().requires_grad_(requires_grad=False)
    factors = [
        torch.as_tensor(f, dtype=torch.float64).expand(inputs.x.shape) for f in (error_factor, own_factor)
    ]
    batches = []
    for start in range(0, len(inputs), BATCH):
        here = inputs[start : start + BATCH]
        k, a = (factor[start : start + BATCH] for factor in factors)
        z = model.predict(here, batch=len(here)).posterior.mean.cpu()
        decode = _with_scaled_scatter(network, a.float())
        errors = (k * here.errors).float()
        best = refine_means(decode, here.x, errors, z, n_steps=_N_STEPS).posterior.mean
        batches.append(_without_each(_fit_at(decode, here.x, errors, best), a))
    residual, scatter, latent = (torch.cat(values).numpy() for values in zip(*batches, strict=True))
    return Residuals(residual, inputs.errors.double().numpy(), scatter, latent)


def _with_scaled_scatter(network: ScatterVAE, own_factor: Coeffs) -> Callable[[Latents], Reconstruction]:
    def decode(z: Latents) -> Reconstruction:
        mean, scatter = network.decode(z)
        return Reconstruction(mean, own_factor * scatter)

    return decode


def _fit_at(decode: Callable[[Latents], Reconstruction], x: Coeffs, errors: Coeffs, z: Latents) -> _Fit:
    decoded, slopes = with_slopes(decode, z)
    of_mean, of_scatter = slopes.double().mT.chunk(2, dim=1)
    scatter = decoded.scatter.double()
    variance = errors.double().square() + scatter.square()
    by_root = (1.0 / variance.sqrt())[:, :, None]  # 0 where missing
    return _Fit(
        residual=x.double() - decoded.mean.double(),
        variance=variance,
        scatter=scatter,
        of_mean=of_mean * by_root,
        of_log_variance=2**0.5 * of_scatter * scatter[:, :, None] * by_root.square(),
    )


def _without_each(fit: _Fit, own_factor: Coeffs) -> tuple[Coeffs, Coeffs, Coeffs]:
    """Residual, scatter and latent variance of each coefficient when it is left out."""
    n_latent = fit.of_mean.shape[2]
    information = fit.of_mean.mT @ fit.of_mean + fit.of_log_variance.mT @ fit.of_log_variance
    inverse = torch.linalg.inv(information + torch.eye(n_latent, dtype=torch.float64))
    u = torch.stack([fit.of_mean, fit.of_log_variance], dim=-1)  # star coeff latent 2
    m = torch.einsum("nilp,nlk,nikq->nipq", u, inverse, u)
    leverage = m @ torch.linalg.inv(torch.eye(2, dtype=m.dtype) - m)
    root = fit.variance.sqrt()
    chi2 = fit.residual.square() / fit.variance
    gradient = torch.stack([fit.residual / root, (chi2 - 1.0) / 2**0.5], dim=-1)
    moved = (leverage @ gradient[..., None])[..., 0]
    per_moved = fit.variance / (2**0.5 * fit.scatter.square())  # of ln s
    change = (-per_moved * moved[..., 1]).clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
    missing = fit.variance.isinf()
    return (
        (fit.residual + root * moved[..., 0]).masked_fill(missing, torch.nan),
        (fit.scatter / own_factor * change.exp()).masked_fill(missing, torch.nan),
        (fit.variance * leverage[..., 0, 0]).masked_fill(missing, torch.nan),
    )
