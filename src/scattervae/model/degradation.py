"""Stars degraded while they train: fainter, or with coefficients missing, so that such stars can be encoded.

A star re-noised to larger errors shows the encoder how a posterior widens; one without a band, high orders or single
coefficients shows it what can be known from the rest.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field, NonNegativeFloat, model_validator
from torch import Tensor

from scattervae.arrays import Coeffs
from scattervae.settings import Settings

_FEWEST_ORDERS = 3
_SINGLE_IS_MISSING = 0.05


class DegradationSettings(Settings):
    """How training stars are degraded, drawn anew for each star in each epoch."""

    # of the stars of a batch; the others train as they are, and none is degraded where 0
    share: NonNegativeFloat = Field(default=0.0, le=1.0)
    # largest factor that brings all errors of such a star to those of a fainter one, noise added to match;
    # its logarithm is drawn evenly from 0. Re-noising a star of G 12 tenfold gives one of about G 16 to 17.
    noise_factor: float = Field(default=20.0, ge=1.0)
    # share of them that lose BP or RP, as often the one as the other
    without_band: NonNegativeFloat = Field(default=0.3, le=1.0)
    # share of them that lose the high orders of each band, from one drawn on
    without_orders: NonNegativeFloat = Field(default=0.2, le=1.0)
    # share of them that lose single coefficients, one in twenty
    without_coeffs: NonNegativeFloat = Field(default=0.1, le=1.0)

    @model_validator(mode="after")
    def _fits(self) -> "DegradationSettings":
        if self.without_band + self.without_orders + self.without_coeffs > 1.0:
            raise ValueError("a star loses one thing at most: the three shares may not exceed 1 together")
        return self


class Degradation(NamedTuple):
    """What happens to each star of a batch."""

    factor: Float[Tensor, "star 1"]  # by which its errors grow; 1 where nothing happens
    noise: Coeffs  # standard normal draws for its coefficients
    missing: Bool[Tensor, "star coeff"]  # its coefficients that are lost

    def to(self, device: torch.device) -> "Degradation":
        """The same on another device."""
        return Degradation(*(values.to(device) for values in self))

    def apply(self, x: Coeffs, errors: Coeffs) -> tuple[Coeffs, Coeffs]:
        r"""Coefficients and errors as the encoder gets them; missing ones are 0 with an infinite error.

        .. math:: x' = x + \sigma \sqrt{f^2 - 1}\, \epsilon, \qquad \sigma' = f \sigma

        A star that would have nothing left, since it lacks the other band, loses nothing.
        """
        gone = errors.isinf()
        missing = self.missing | gone
        missing = torch.where(missing.all(dim=1, keepdim=True), gone, missing)
        noisy = torch.addcmul(x, errors * (self.factor.square() - 1.0).sqrt(), self.noise)
        return noisy.masked_fill(missing, 0.0), (errors * self.factor).masked_fill(missing, math.inf)


def draw_degradation(
    settings: DegradationSettings, n_stars: int, bands: tuple[int, int], generator: torch.Generator
) -> Degradation:
    """What is to happen to the stars of one batch; `bands` are the numbers of coefficients of BP and of RP."""
    kind = torch.rand(n_stars, 1, generator=generator)
    degraded = torch.rand(n_stars, 1, generator=generator) < settings.share
    factor = (torch.rand(n_stars, 1, generator=generator) * math.log(settings.noise_factor)).exp()
    noise = torch.randn(n_stars, sum(bands), generator=generator)
    single = torch.rand(n_stars, sum(bands), generator=generator) < _SINGLE_IS_MISSING
    missing = torch.zeros(n_stars, sum(bands), dtype=torch.bool)
    cuts = [torch.rand(n_stars, 1, generator=generator) for _ in bands]
    start = 0
    for band, (size, cut) in enumerate(zip(bands, cuts, strict=True)):
        here = slice(start, start + size)
        lost = _between(kind, band * settings.without_band / 2, settings.without_band / 2)
        truncated = _between(kind, settings.without_band, settings.without_orders)
        kept = _FEWEST_ORDERS + (cut * (size + 1 - _FEWEST_ORDERS)).floor()
        beyond = torch.arange(size) >= kept
        missing[:, here] = lost | (truncated & beyond)
        start += size
    missing |= (
        _between(kind, settings.without_band + settings.without_orders, settings.without_coeffs) & single
    )
    return Degradation(torch.where(degraded, factor, 1.0), noise, missing & degraded)


def _between(kind: Float[Tensor, "star 1"], begin: float, width: float) -> Bool[Tensor, "star 1"]:
    return (kind >= begin) & (kind < begin + width)
