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
from scattervae.science.refinement import refine_means
from scattervae.spectra.normalization import Inputs


@dataclass(frozen=True)
class Residuals:
    """Coefficients less what a model expected, in training standard deviations; NaN where it was not asked.

    Attributes:
        residuals: Observed less expected at the mean of the latents given the other coefficients.
        errors: Published errors of the coefficients.
        scatter: The model's scatter, root mean square over the latents' posterior.
        latent_variance: What the latents' posterior adds to the squared residual.
    """

    residuals: CoeffArray
    errors: CoeffArray
    scatter: CoeffArray
    latent_variance: CoeffArray

    @property
    def variance(self) -> CoeffArray:
        """Of the residuals, as the model has it: errors as published, its own scatter, and the latents."""
        variance: CoeffArray = self.errors**2 + self.scatter**2 + self.latent_variance
        return variance

    @property
    def normalised(self) -> CoeffArray:
        """Residuals over their expected standard deviation; standard normal where model and errors are right."""
        values: CoeffArray = self.residuals / np.sqrt(self.variance)
        return values

    def take(self, stars: np.ndarray | slice) -> "Residuals":
        """The same of these stars: a mask, indices or a slice."""
        return Residuals(*(getattr(self, field.name)[stars] for field in fields(self)))


N_STEPS = 8
_LARGEST_CHANGE = 1.0  # of the logarithm of a scatter, when a coefficient is left out

_Derivatives = Float[Tensor, "star coeff latent"]


class _Fit(NamedTuple):
    """Stars at their most probable latents, and how their spectra move with them; float64."""

    residual: Coeffs
    variance: Coeffs
    scatter: Coeffs
    shifts: _Derivatives  # of the mean, over the root of the variance
    swells: _Derivatives  # of the logarithm of the variance, over the root of 2

    @property
    def pull(self) -> tuple[Coeffs, Coeffs]:
        """What shifts and swells are multiplied by in the gradient of the log-likelihood."""
        chi2 = self.residual.square() / self.variance
        return self.residual / self.variance.sqrt(), (chi2 - 1.0) / 2**0.5


@torch.enable_grad()
def leave_one_out(
    model: Checkpoint,
    inputs: Inputs,
    *,
    calibration: Coeffs | float = 1.0,
    own: Coeffs | float = 1.0,
    n_steps: int = N_STEPS,
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
        calibration: k, on the errors, where it is known.
        own: a, on the model's scatter, where it is known.
        n_steps: Of `refine_means`.

    Source:
        Cook & Weisberg (1982), Residuals and Influence in Regression, sect. 2.2, for the closed form.
    """
    network = copy.deepcopy(model.network).cpu().requires_grad_(requires_grad=False)
    factors = [torch.as_tensor(f, dtype=torch.float64).expand(inputs.x.shape) for f in (calibration, own)]
    parts = []
    for start in range(0, len(inputs), BATCH):
        here = inputs[start : start + BATCH]
        k, a = (factor[start : start + BATCH] for factor in factors)
        z = model.answer(here, batch=len(here)).posterior.mean.cpu()
        decode = _rescaled(network, a.float())
        errors = (k * here.errors).float()
        best = refine_means(decode, here.x, errors, z, n_steps=n_steps).posterior.mean
        parts.append(_without_each(_fitted(decode, here.x, errors, best), a))
    residual, scatter, latent = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return Residuals(residual, inputs.errors.double().numpy(), scatter, latent)


def _rescaled(network: ScatterVAE, own: Coeffs) -> Callable[[Latents], Reconstruction]:
    """The network's decoder, its scatter times `own`."""

    def decode(z: Latents) -> Reconstruction:
        told = network.decode(z)
        return Reconstruction(told.mean, own * told.scatter)

    return decode


def _fitted(decode: Callable[[Latents], Reconstruction], x: Coeffs, errors: Coeffs, z: Latents) -> _Fit:
    of_mean, of_scatter = [], []
    for direction in torch.eye(z.shape[1]):
        tangent = direction.expand(z.shape).contiguous()
        told, moved = torch.func.jvp(decode, (z,), (tangent,))  # type: ignore[misc]
        of_mean.append(moved.mean)
        of_scatter.append(moved.scatter)
    scatter = told.scatter.double()
    variance = errors.double().square() + scatter.square()
    by_root = (1.0 / variance.sqrt())[:, :, None]  # 0 where missing
    return _Fit(
        residual=x.double() - told.mean.double(),
        variance=variance,
        scatter=scatter,
        shifts=torch.stack(of_mean, dim=2).double() * by_root,
        swells=2**0.5 * torch.stack(of_scatter, dim=2).double() * scatter[:, :, None] * by_root.square(),
    )


def _without_each(fit: _Fit, own: Coeffs) -> tuple[Coeffs, Coeffs, Coeffs]:
    """Residual, scatter and latent variance of each coefficient when it is left out."""
    prior = torch.eye(fit.shifts.shape[2], dtype=torch.float64)
    inverse = torch.linalg.inv(fit.shifts.mT @ fit.shifts + fit.swells.mT @ fit.swells + prior)
    u = torch.stack([fit.shifts, fit.swells], dim=-1)  # star coeff latent 2
    m = torch.einsum("nilp,nlk,nikq->nipq", u, inverse, u)
    leverage = m @ torch.linalg.inv(torch.eye(2, dtype=m.dtype) - m)
    moved = (leverage @ torch.stack(fit.pull, dim=-1)[..., None])[..., 0]
    root = fit.variance.sqrt()
    swell = fit.variance / (2**0.5 * fit.scatter.square())  # of ln s, per unit of moved
    change = (-swell * moved[..., 1]).clamp(-_LARGEST_CHANGE, _LARGEST_CHANGE)
    nothing = fit.variance.isinf()
    return (
        (fit.residual + root * moved[..., 0]).masked_fill(nothing, torch.nan),
        (fit.scatter / own * change.exp()).masked_fill(nothing, torch.nan),
        (fit.variance * leverage[..., 0, 0]).masked_fill(nothing, torch.nan),
    )
