"""Stars that a Cannon describes exactly: coefficients quadratic in labels, with known scatter and errors."""

from dataclasses import dataclass

import numpy as np
import torch

from scattervae.science.cannon.model import Cannon, CannonSettings
from scattervae.spectra.normalization import Normalization
from scattervae.spectra.spectra import Basis, Spectra
from scattervae.spectra.star_tables import StellarLabels

BASIS = Basis(7, 5)
MEAN = np.array([5000.0, 3.0, -0.3, 0.1, 0.3])
STD = np.array([600.0, 1.1, 0.4, 0.1, 0.2])
TERMS = {1: 3, 2: 6, 3: 10, 4: 15}


@dataclass(frozen=True)
class CannonSky:
    """Stars with all that is true of them; theta and scaled labels are about MEAN and STD."""

    spectra: Spectra
    labels: StellarLabels
    normalization: Normalization
    theta: np.ndarray
    scatter: np.ndarray
    true_labels: np.ndarray

    def fit(self, **settings: object) -> Cannon:
        return Cannon.fit(
            self.spectra, self.labels, self.normalization, CannonSettings.model_validate(settings)
        )


def terms(scaled: np.ndarray) -> np.ndarray:
    """The features, written out one by one."""
    k = scaled.shape[1]
    columns = [np.ones(len(scaled)), *scaled.T]
    columns += [scaled[:, i] * scaled[:, j] for i in range(k) for j in range(i, k)]
    return np.stack(columns, axis=1)


def cannon_sky(
    n_stars: int = 600, *, n_labels: int = 3, seed: int = 0, label_noise: float = 0.0, error: float = 0.03
) -> CannonSky:
    """Stars whose first `n_labels` labels make their spectra; `label_noise` is in standard deviations."""
    sky = np.random.default_rng([7, n_labels])
    theta = sky.normal(size=(TERMS[n_labels], BASIS.n_coeffs)) * 0.3
    theta[1 + n_labels :] *= 0.2  # so that labels far apart have spectra far apart
    scatter = np.geomspace(0.005, 0.2, BASIS.n_coeffs)
    stars = np.random.default_rng([seed, n_stars])
    scaled = stars.uniform(-1.8, 1.8, (n_stars, 5))
    mean = terms(scaled[:, :n_labels]) @ theta
    errors = error * np.exp(stars.normal(size=mean.shape))
    coeffs = mean + np.hypot(errors, scatter) * stars.normal(size=mean.shape)
    source_id = 1000 + np.arange(n_stars, dtype=np.int64)
    noisy = scaled + label_noise * stars.normal(size=scaled.shape)
    return CannonSky(
        spectra=Spectra.of(source_id, coeffs, errors, basis=BASIS, g_flux=np.ones(n_stars)),
        labels=StellarLabels(
            source_id, MEAN + STD * noisy, np.broadcast_to(STD * label_noise, noisy.shape).copy()
        ),
        normalization=unit_normalization(n_stars),
        theta=theta,
        scatter=scatter,
        true_labels=MEAN + STD * scaled,
    )


def unit_normalization(n_stars: int) -> Normalization:
    """One that changes nothing."""
    n = BASIS.n_coeffs
    return Normalization(BASIS, np.arange(n), np.zeros(n), np.ones(n), n_stars, n_stars)


def tensors(sky: CannonSky, n_labels: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coefficients, errors and scaled labels, as `fit_polynomial` takes them."""
    scaled = (sky.labels.values - MEAN) / STD
    arrays = (sky.spectra.coeffs, sky.spectra.errors, scaled[:, :n_labels].copy())
    return tuple(map(torch.from_numpy, arrays))
