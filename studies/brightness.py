"""What the latents know of how bright a star looks: less than its type does, or the model has fitted its noise.

Two questions: how much of the variance of G follows from the latents, beside labels and colour; and whether the
latents of a star stay where they are, within the width they state, as noise makes it a fainter one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial import cKDTree
from scipy.special import gammaincinv

from scattervae.arrays import StarArray
from scattervae.errors import DataError
from scattervae.gaia.basis import g_mag_of
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Posterior
from scattervae.model.recipe import Degradation
from scattervae.science.calibration.widths import encode
from scattervae.science.exact_posterior import refine
from scattervae.science.relative.matching import covariates_of
from scattervae.seeds import numpy_stream, stream
from scattervae.spectra.normalization import Inputs
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels

Features = Float64[np.ndarray, "star feature"]
_Products = Float64[np.ndarray, "star product"]

N_FOLDS = 5
N_NEIGHBOURS = 25
_DEGREE = 3
_N_SINES = 150
_LENGTH = 1.0  # of the sines, in standard deviations
_PENALTIES = np.array([1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
_FARTHEST = 5.0  # standard deviations at which features are cut off
_N_BOOTSTRAP = 500
FEWEST_STARS = 200


@dataclass(frozen=True)
class Explained:
    r"""Share of a target's variance that follows from some features, :math:`R^2` over stars left out of the fit.

    Attributes:
        value: 1 where the target follows exactly, 0 where the mean does as well.
        low: Of the 95 % interval over stars.
        high: The same.
        n_stars: Stars with all features.
    """

    value: float
    low: float
    high: float
    n_stars: int


def explained(features: Features, target: StarArray, *, seed: int = 0) -> Explained:
    """Cross-validated R^2 of a ridge regression on products and random sines, corrected by the nearest stars.

    Args:
        features: Of each star, finite; each is brought to unit variance and cut off at 5 standard deviations.
        target: What is to follow from them, finite.
        seed: Of the five parts that are left out in turn, and of the interval's bootstrap.

    Raises:
        DataError: Fewer than 200 stars.
    """
    n = len(target)
    if n < FEWEST_STARS:
        raise DataError(f"{n} stars with all features; at least {FEWEST_STARS} are needed for a regression")
    rng = numpy_stream(seed, "explained")
    part = rng.permutation(n) % N_FOLDS
    spread = features.std(axis=0)
    scaled = ((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).clip(
        -_FARTHEST, _FARTHEST
    )
    products = _products(scaled, rng)
    predicted = np.empty(n)
    for k in range(N_FOLDS):
        out = part == k
        fitted = _ridge(products[~out], target[~out], products)
        missing = _of_neighbours(scaled[~out], (target - fitted)[~out], scaled[out])
        predicted[out] = (fitted[out] + missing).clip(target[~out].min(), target[~out].max())
    missed, spread_out = (target - predicted) ** 2, (target - target.mean()) ** 2
    rows = rng.integers(n, size=(_N_BOOTSTRAP, n))
    drawn = 1.0 - missed[rows].mean(axis=1) / spread_out[rows].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Explained(float(1.0 - missed.mean() / spread_out.mean()), float(low), float(high), n)


def _ridge(
    products: Float64[np.ndarray, "row product"], target: Float64[np.ndarray, " row"], wanted: _Products
) -> StarArray:
    """Linear regression, its penalty chosen by generalised cross-validation (Golub, Heath & Wahba 1979)."""
    mean, n = target.mean(), len(target)
    values, vectors = np.linalg.eigh(products.T @ products)
    values = np.maximum(values, 0.0)
    along = vectors.T @ (products.T @ (target - mean))
    best, weights = np.inf, np.zeros(len(values))
    for penalty in _PENALTIES * n:
        candidate = vectors @ (along / (values + penalty))
        freedom = n - (values / (values + penalty)).sum()
        score = ((target - mean - products @ candidate) ** 2).sum() / freedom**2
        if score < best:
            best, weights = score, candidate
    return np.asarray(mean + wanted @ weights)


def _of_neighbours(
    features: Float64[np.ndarray, "row feature"],
    values: Float64[np.ndarray, " row"],
    wanted: Float64[np.ndarray, "other feature"],
) -> Float64[np.ndarray, " other"]:
    """The mean value of the nearest rows, the nearer weighing more."""
    distance, nearest = cKDTree(features).query(wanted, min(N_NEIGHBOURS, len(values)))
    weight = 1.0 / (distance + distance.mean(axis=1, keepdims=True) + 1e-12)
    return np.asarray((weight * values[nearest]).sum(axis=1) / weight.sum(axis=1))


def _products(features: Features, rng: np.random.Generator) -> _Products:
    """Products of up to three features, and sines of random directions and phases along them.

    Source:
        Rahimi & Recht (2007), Random Features for Large-Scale Kernel Machines.
    """
    n, d = features.shape
    columns = [np.ones(n)]
    for degree in range(1, _DEGREE + 1):
        columns += [
            features[:, list(c)].prod(axis=1) for c in combinations_with_replacement(range(d), degree)
        ]
    direction = rng.standard_normal((d, _N_SINES)) / (_LENGTH * np.sqrt(d))
    columns += [*np.cos(features @ direction + rng.uniform(0.0, 2.0 * np.pi, _N_SINES)).T]
    return np.stack(columns, axis=1)


def brightness_explained(
    model: Checkpoint, spectra: Spectra, labels: StellarLabels, *, seed: int = 0
) -> Mapping[str, Explained]:
    """How much of G's variance follows from the latents, from labels and colour, and from all of them.

    All are of the same stars: usable, with every label. A survey's brightness does follow from type, since its
    stars were chosen and its giants are seen farther; what the latents know beyond labels and colour may be
    extinction, or the size of the noise.

    Args:
        model: Any scatter VAE.
        spectra: Stars with a G flux.
        labels: Of any of them, joined by source_id.
        seed: Of draws and parts.

    Returns:
        By ``latents`` (posterior means), ``drawn latents`` (one draw a star, noise that grows with G included),
        ``labels and colour``, and ``latents, labels and colour``.

    Raises:
        DataError: Fewer than 200 such stars.
    """
    known = covariates_of(spectra, labels, (*LABEL_NAMES, "bp1_rp1")).values
    complete = spectra.usable & np.isfinite(known).all(axis=1)
    stars = spectra.take(complete)
    g_mag = np.asarray(g_mag_of(stars.g_flux))
    posterior = model.encode(stars)
    z = posterior.mean.double().numpy()
    of_type = known[complete]
    features = {
        "latents": z,
        "drawn latents": posterior.sample(stream(seed, "brightness")).double().numpy(),
        "labels and colour": of_type,
        "latents, labels and colour": np.hstack([z, of_type]),
    }
    return {name: explained(values, g_mag, seed=seed) for name, values in features.items()}


@dataclass(frozen=True)
class Shift:
    """How far the latents of stars move as noise makes them fainter, over the width that the fainter star states.

    Attributes:
        factor: By which all errors grew.
        n_stars: Stars that were made fainter.
        mahalanobis: Mean squared distance of a draw from the brighter posterior to the fainter one's mean, in the
            metric of the fainter one, over the number of latents: 1 where stated widths are right, above it where
            they are too small.
        inside_68: Share of such draws inside the fainter posterior's 68 % region, all latents together.
        inside_95: The same of 95 %.
        inside_68_each: Share of draws within one stated standard deviation, latent by latent.
        moved: Share of the posterior means that moved by less than one stated width of the fainter star, latent by
            latent; 0.683 at least where widths are right, since the draws' own noise is not in it.
        width: Median stated width of each latent of the fainter stars.
        width_before: The same of the brighter stars.
    """

    factor: float
    n_stars: int
    mahalanobis: float
    inside_68: float
    inside_95: float
    inside_68_each: tuple[float, ...]
    moved: tuple[float, ...]
    width: tuple[float, ...]
    width_before: tuple[float, ...]


def shift_of_latents(
    model: Checkpoint, spectra: Spectra, factor: float, *, refined: bool = False, seed: int = 0
) -> Shift:
    r"""Stars re-noised to errors so many times theirs, and where their latents go.

    .. math:: x' = x + e \sqrt{f^2 - 1}\, \epsilon, \qquad e' = f e

    With photon noise alone :math:`f = 10^{0.2 \Delta G}`. A draw from the brighter star's posterior is as far from
    the fainter one's mean as the truth is, if both are right: so its own noise is in the budget.

    Args:
        model: Any scatter VAE.
        spectra: Bright stars; those not usable are left out.
        factor: f, 1 or more.
        refined: Improve the encoder's posteriors by `refine` first.
        seed: Of noise and draws.
    """
    inputs = model.normalization.apply(spectra.take(spectra.usable))
    noise = torch.randn(inputs.x.shape, generator=stream(seed, "renoise", str(factor)))
    degradation = Degradation(
        torch.full((len(inputs), 1), factor), noise, torch.zeros_like(noise, dtype=torch.bool)
    )
    faint_inputs = Inputs(*degradation.apply(inputs.x, inputs.errors))
    bright, faint = (_posterior(model, stars, refined=refined) for stars in (inputs, faint_inputs))
    drawn = bright.sample(stream(seed, "brighter", str(factor))).double()
    root = faint.root.double()
    away = torch.linalg.solve_triangular(root, (drawn - faint.mean)[:, :, None], upper=False)[:, :, 0]
    squared, n_latent = away.square().sum(dim=1), away.shape[1]
    limits = [2.0 * float(gammaincinv(n_latent / 2, share)) for share in (0.6827, 0.9545)]  # of chi^2
    width, width_before = faint.sd, bright.sd
    return Shift(
        factor=factor,
        n_stars=len(inputs),
        mahalanobis=float(squared.mean()) / n_latent,
        inside_68=float((squared < limits[0]).double().mean()),
        inside_95=float((squared < limits[1]).double().mean()),
        inside_68_each=_shares((drawn - faint.mean).abs() < width),
        moved=_shares((bright.mean - faint.mean).abs() < width),
        width=tuple(width.median(dim=0).values.tolist()),
        width_before=tuple(width_before.median(dim=0).values.tolist()),
    )


def _shares(inside: torch.Tensor) -> tuple[float, ...]:
    return tuple(inside.double().mean(dim=0).tolist())


def _posterior(model: Checkpoint, inputs: Inputs, *, refined: bool) -> Posterior:
    posterior = encode(model, inputs)
    return refine(model, inputs, posterior).posterior if refined else posterior
