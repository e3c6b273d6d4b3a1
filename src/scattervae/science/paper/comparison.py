"""The scatter VAE and *The Cannon* on the same stars: the same folds, the same fully labelled test stars.

Laroche & Speagle (2023), sect. 3. A plain and a robust (clipped) Cannon stand beside the network at its
posterior mean and at draws from its posterior. All numbers are per star and per coefficient in training standard
deviations, with bootstrap intervals over stars.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.special import ndtr

from scattervae.arrays import CoeffArray, CoeffVector, StarArray, StarMask
from scattervae.errors import DataError
from scattervae.files import json_values
from scattervae.model.checkpoint import Checkpoint
from scattervae.model.network import Reconstruction, gaussian_terms
from scattervae.model.training_stars import training_stars
from scattervae.science.cannon.model import Cannon, CannonSettings, labelled
from scattervae.science.latent_volume.richness import Estimate
from scattervae.seeds import folds, numpy_stream, stream
from scattervae.spectra.normalization import Inputs, Normalization
from scattervae.spectra.spectra import Spectra
from scattervae.spectra.star_tables import LABEL_NAMES, StellarLabels

HOLDS = "holds"
DOES_NOT_HOLD = "does not hold"
NOT_TESTABLE = "not testable here"


@dataclass(frozen=True)
class Table:
    """A table for people."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Claim:
    """One quantitative claim of a paper beside its number on the stars at hand."""

    id: str  # name for programs; `title` is that for people
    title: str
    paper: str  # what the paper says, with its number
    measured: float | None  # the number here; None where it cannot be had
    interval: tuple[float, float] | None  # its 95 % interval
    verdict: str  # ``holds``, ``does not hold``, ``depends on ...`` or ``not testable here``
    note: str  # what to conclude from it
    details: tuple[Table, ...] = field(default=())  # tables behind the number
    tested: str = ""  # recipe and loss of the network that was tested; empty where there is none in it
    # the number and the verdict of a network trained with the paper's loss as printed; None where that was not
    # tried, or is what was tested
    as_printed: "Outcome | None" = None

    @classmethod
    def of(
        cls, about: "About", found: "Interval | Estimate | None", verdict: str, note: str, *details: Table
    ) -> "Claim":
        """A claim with what was found, or without a number."""
        measured, interval = (None, None) if found is None else (found.value, (found.low, found.high))
        return cls(*about, measured, interval, verdict, note, details)

    @property
    def outcome(self) -> "Outcome":
        """The number with its interval and verdict alone."""
        return Outcome(self.measured, self.interval, self.verdict)


class About(NamedTuple):
    """What a claim is about: its name for programs, that for people, and what the paper says."""

    id: str
    title: str
    paper: str


@dataclass(frozen=True)
class Outcome:
    """What came out for a claim with another network: as `Claim` has it."""

    measured: float | None
    interval: tuple[float, float] | None
    verdict: str


def as_json(claims: "list[Claim]") -> list[dict[str, Any]]:
    """The claims as JSON values; a number that is not finite becomes null."""
    return [json_values(asdict(claim)) for claim in claims]


NETWORK, DRAWN, CANNON, ROBUST = "VAE, posterior mean", "VAE, drawn latents", "Cannon", "robust Cannon"
CANNON_LABELS = LABEL_NAMES[:3]
ROBUST_SIGMA = 5.0
FEWEST_STARS = 100
COOL_BELOW_K, LOW_GRAVITY_BELOW = 4000.0, 1.0  # the stars that the paper points out
N_RESAMPLES = 1000
_Z68, _Z95 = 1.0, 1.959963984540054


@dataclass(frozen=True)
class Scores:
    """A model's predictions of stars beside what was observed."""

    z: CoeffArray  # normalised errors: residual over error and scatter in quadrature
    scatter: CoeffArray  # intrinsic scatter, in training standard deviations
    nll: StarArray  # negative log-likelihood of each star, nats, without the constant with ln 2 pi
    # continuous ranked probability score of each star, mean over coefficients, in training standard deviations;
    # lower is better, and no scatter can be bought with it
    crps: StarArray
    # root mean square residual of each star, in training standard deviations: raw accuracy, without scatter
    rms: StarArray

    @property
    def share_inside_68(self) -> StarArray:
        """Share of each star's coefficients within one sigma; 0.683 where the widths are right."""
        return np.asarray((np.abs(self.z) <= _Z68).mean(axis=1))

    @property
    def share_inside_95(self) -> StarArray:
        """Share of each star's coefficients within 1.96 sigma; 0.95 where the widths are right."""
        return np.asarray((np.abs(self.z) <= _Z95).mean(axis=1))


@dataclass(frozen=True)
class Cannons:
    """A Cannon fitted plainly and one fitted without its outlying values."""

    plain: Cannon
    robust: Cannon


@dataclass(frozen=True)
class ModelComparison:
    """The scores of each model on the same stars."""

    labels: StellarLabels  # of the fully labelled, usable stars of the test fold
    normalization: Normalization  # what "training standard deviations" means for all models
    scores: Mapping[str, Scores]  # each model's, by its name
    cannon_scatter: CoeffVector  # the plain Cannon's one scatter for each coefficient
    extrapolated: StarMask  # stars outside the convex hull of the Cannon's training labels
    # of each star's posterior from the prior [nat]: what the lower bound adds to drawn latents' NLL
    divergence: StarArray
    # the network's, at the posterior mean, on the usable test stars that the Cannon cannot score for want of a
    # label
    incomplete: Scores

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bound(self) -> StarArray:
        """Negative lower bound of the network [nat]: what it may be compared with a Cannon's likelihood by."""
        return np.asarray(self.scores[DRAWN].nll + self.divergence)

    @property
    def bands(self) -> tuple[slice, slice]:
        """The columns of BP and of RP."""
        return self.normalization.bp, self.normalization.rp

    def low_orders(self, scores: Scores) -> CoeffArray:
        """Absolute normalised errors of the first ten coefficients of both bands."""
        return np.asarray(np.abs(np.hstack([scores.z[:, first_ten(band)] for band in self.bands])))


def fit_cannons(model: Checkpoint, spectra: Spectra, labels: StellarLabels) -> Cannons:
    """Cannons fitted, in the network's units, to those of its training stars that have every label.

    Raises:
        DataError: Too few stars with every label.
    """
    stars = training_stars(spectra, model.recipe)
    plain, robust = (
        Cannon.fit(stars, labels, model.normalization, CannonSettings(labels=CANNON_LABELS, clip_sigma=clip))
        for clip in (None, ROBUST_SIGMA)
    )
    return Cannons(plain, robust)


def compare_models(
    model: Checkpoint, cannons: Cannons, spectra: Spectra, labels: StellarLabels
) -> ModelComparison:
    """All models on the fully labelled stars of the test fold.

    Raises:
        DataError: Fewer than a hundred test stars have every label.
    """
    settings = cannons.plain.settings
    test = spectra.take(folds(spectra.source_id).test & spectra.usable)
    all_labels = labels.aligned_to(test.source_id)
    complete = labelled(test, all_labels, settings)
    if complete.sum() < FEWEST_STARS:
        raise DataError(
            f"{int(complete.sum())} usable test stars have all of {', '.join(settings.labels)}; at least "
            f"{FEWEST_STARS} are needed to compare models on"
        )
    stars, star_labels = test.take(complete), all_labels.take(complete)
    values = star_labels.values[:, settings.columns]
    inputs = model.normalization.apply(stars)
    return ModelComparison(
        labels=star_labels,
        normalization=model.normalization,
        scores={
            NETWORK: score_network(model, stars),
            DRAWN: score_network(model, stars, draw_seed=0),
            CANNON: score(inputs, cannons.plain.predict(values)),
            ROBUST: score(inputs, cannons.robust.predict(values)),
        },
        cannon_scatter=cannons.plain.scatter.numpy(),
        extrapolated=cannons.plain.label_range.outside(values),
        divergence=model.encode(stars).kl().sum(dim=1).double().numpy(),
        incomplete=score_network(model, test.take(~complete)),
    )


def score(inputs: Inputs, predicted: Reconstruction) -> Scores:
    r"""The scores of a prediction of these stars.

    The continuous ranked probability score of a Gaussian with mean m and width :math:`\sigma` is

    .. math:: \sigma \left[ z (2 \Phi(z) - 1) + 2 \varphi(z) - 1 / \sqrt{\pi} \right], \quad z = (x - m) / \sigma

    Source:
        Laroche & Speagle (2023), eqs. 3-4 and sect. 3; Gneiting & Raftery (2007), eq. 21, for the CRPS.
    """
    x, errors = inputs.x.double(), inputs.errors.double()
    mean, scatter = predicted.mean.double(), predicted.scatter.double()
    variance = errors.square() + scatter.square()
    sigma = variance.sqrt()
    z = (x - mean) / sigma
    density = (-0.5 * z.square()).exp() / (2.0 * torch.pi) ** 0.5
    crps = sigma * (z * (2.0 * ndtr(z) - 1.0) + 2.0 * density - torch.pi**-0.5)
    nll = gaussian_terms(x, mean, variance).nll
    rms = (x - mean).square().mean(dim=1).sqrt()
    return Scores(z.numpy(), scatter.numpy(), nll.numpy(), crps.mean(dim=1).numpy(), rms.numpy())


def score_network(checkpoint: Checkpoint, spectra: Spectra, *, draw_seed: int | None = None) -> Scores:
    """The scores of a scatter VAE that predicts usable stars from their own spectra.

    Latents are drawn from each star's posterior with `draw_seed`; its mean is taken where that is None.
    """
    posterior = checkpoint.encode(spectra)
    z = posterior.mean if draw_seed is None else posterior.sample(stream(draw_seed, "compare"))
    return score(checkpoint.normalization.apply(spectra), checkpoint.reconstruct(z))


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval over stars."""

    value: float
    low: float
    high: float


def bootstrap(
    statistic: Callable[[np.ndarray], float], n_stars: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Interval:
    """A statistic of stars with its 95 % percentile interval over resampled stars.

    The statistic takes rows, with repeats, and gives a number; on all rows in order it gives the value. Resamples in
    which it is not defined (NaN) do not count; infinite ones do.

    Source:
        Efron (1979), percentile interval.
    """
    generator = numpy_stream(seed, "bootstrap")
    draws = np.array([statistic(generator.integers(n_stars, size=n_stars)) for _ in range(n_resamples)])
    defined = draws[~np.isnan(draws)]
    low = high = math.nan
    if len(defined) > 0:  # one of the draws, never between two of them: between infinities there is nothing
        low, high = np.quantile(defined, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(statistic(np.arange(n_stars))), float(low), float(high))


def bootstrap_ratio(top: StarArray, bottom: StarArray) -> Interval:
    """Ratio of the means of two numbers of the same stars, neither below 0, both resampled together.

    Infinite where the lower mean is 0, NaN where both are.
    """

    def ratio(rows: np.ndarray) -> float:
        over, under = top[rows].mean(), bottom[rows].mean()
        if under > 0:
            return float(over / under)
        return math.inf if over > 0 else math.nan

    return bootstrap(ratio, len(top))


def bootstrap_mean(values: StarArray, *, seed: int = 0) -> Interval:
    """Mean over stars."""
    return bootstrap(lambda rows: float(values[rows].mean()), len(values), seed=seed)


def mean_ratio(values: StarArray, inside: StarMask) -> float:
    """The mean inside over that outside; NaN where either is empty."""
    if inside.all() or not inside.any():
        return math.nan
    return float(values[inside].mean() / values[~inside].mean())


def median_step(values: StarArray, inside: StarMask) -> float:
    """The median inside less that outside; NaN where either is empty."""
    if inside.all() or not inside.any():
        return math.nan
    return float(np.median(values[inside]) - np.median(values[~inside]))


def first_ten(band: slice) -> slice:
    """The first ten coefficients of a band, those that the paper averages over."""
    return slice(band.start, min(band.start + 10, band.stop))


def coefficient(band: slice, order: int) -> int:
    """The column of a band's coefficient, counted from 1 as the paper does."""
    return int(band.start + order - 1)
