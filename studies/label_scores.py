"""How well labels are predicted, and by whom better: errors, their spread, and whether intervals hold the truth."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from scattervae.arrays import LabelArray, StarArray, StarMask
from scattervae.science.labels.prediction import ERROR_TIMES, LabelPrediction
from scattervae.science.labels.targets import TargetLabels
from scattervae.seeds import numpy_stream

GIANT_BELOW = 3.5
GOOD_SNR = 50.0
FEWEST_SCORED = 10
N_RESAMPLES = 1000
_MAD_TO_SD = 1.4826

LabelVector = Float64[np.ndarray, " label"]


class LabelScores(NamedTuple):
    """Errors of each label, over the stars that have it; NaN where fewer than ten do.

    Attributes:
        n_stars: How many.
        bias: Median of predicted minus known.
        rmse: Root mean square of the same.
        mae: Mean of its absolute value.
        spread: Half its range from the 16th to the 84th percentile, the robust scatter.
        mad: 1.4826 times the median distance from its median, another robust scatter, which others quote.
    """

    n_stars: np.ndarray
    bias: LabelVector
    rmse: LabelVector
    mae: LabelVector
    spread: LabelVector
    mad: LabelVector

    @classmethod
    def of(cls, predicted: LabelArray, known: LabelArray) -> "LabelScores":
        """Scores of these predictions; a star without the label or a prediction is left out."""
        off = predicted - known
        n = np.isfinite(off).sum(axis=0)
        scores = np.full((5, off.shape[1]), np.nan)
        for label in np.flatnonzero(n >= FEWEST_SCORED):
            d = off[np.isfinite(off[:, label]), label]
            scores[:, label] = np.median(d), root_mean_square(d), np.abs(d).mean(), spread(d), deviation(d)
        return cls(n, *scores)


def spread(off: StarArray) -> float:
    """Half the range from the 16th to the 84th percentile: one standard deviation of a Gaussian, robust to outliers."""
    low, high = np.percentile(off, (16, 84))
    return float(high - low) / 2


def root_mean_square(off: StarArray) -> float:
    """What an outlier counts for most in."""
    return float(np.sqrt(np.mean(off**2)))


def deviation(off: StarArray) -> float:
    """1.4826 times the median distance from the median."""
    return float(_MAD_TO_SD * np.median(np.abs(off - np.median(off))))


_MEASURES = {"spread": spread, "rmse": root_mean_square, "mad": deviation}


class Comparison(NamedTuple):
    """One prediction's error over another's, on the same stars.

    Attributes:
        ratio: Of the spreads, or of what else was compared; below 1 where the first is better.
        low: Lower end of the bootstrap interval of 95 %.
        high: Upper end.
    """

    ratio: float
    low: float
    high: float


def compare(
    first: StarArray, second: StarArray, known: StarArray, *, measure: str = "spread", seed: int = 0
) -> Comparison:
    """A paired bootstrap over stars: both predictions are scored on the same resampled stars.

    Args:
        first: One label as the first predicts it.
        second: As the second does.
        known: The label.
        measure: ``"spread"``, ``"rmse"`` or ``"mad"``.
        seed: Of the resampling.

    Source:
        Efron & Tibshirani (1993), An Introduction to the Bootstrap, sect. 13.3: percentile intervals.
    """
    usable = np.isfinite(first) & np.isfinite(second) & np.isfinite(known)
    a, b = first[usable] - known[usable], second[usable] - known[usable]
    score = _MEASURES[measure]
    generator = numpy_stream(seed, "label bootstrap")
    rows = (generator.integers(0, len(a), len(a)) for _ in range(N_RESAMPLES))
    ratios = [score(a[row]) / score(b[row]) for row in rows]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Comparison(score(a) / score(b), float(low), float(high))


def interval_of(
    predicted: StarArray, known: StarArray, *, measure: str = "rmse", seed: int = 0
) -> Comparison:
    """The measure itself instead of a ratio, with its bootstrap interval of 95 %."""
    off = predicted - known
    off = off[np.isfinite(off)]
    score, generator = _MEASURES[measure], numpy_stream(seed, "label bootstrap")
    drawn = [score(off[generator.integers(0, len(off), len(off))]) for _ in range(N_RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Comparison(score(off), float(low), float(high))


class Coverage(NamedTuple):
    """Share of known labels inside their intervals, and stars that it was counted over.

    Attributes:
        inside_68: Of the intervals that should hold 68 %.
        inside_95: Of those that should hold 95 %.
        n_stars: With the label.
    """

    inside_68: LabelVector
    inside_95: LabelVector
    n_stars: np.ndarray


def coverage(predicted: LabelPrediction, known: TargetLabels) -> Coverage:
    """How often intervals hold the known labels, each interval widened by the error of the known label.

    The half-width of either side and the label's error add in quadrature, the error times 1 or 1.96.
    """
    values, errors = known.values, known.errors
    counted = np.isfinite(values) & np.isfinite(predicted.values)
    shares = []
    ends = ((predicted.low_68, predicted.high_68), (predicted.low_95, predicted.high_95))
    for (low, high), times in zip(ends, ERROR_TIMES, strict=True):
        side = np.where(values < predicted.values, predicted.values - low, high - predicted.values)
        inside = np.abs(values - predicted.values) <= np.hypot(side, times * errors)
        with np.errstate(invalid="ignore"):
            shares.append((inside & counted).sum(axis=0) / counted.sum(axis=0))
    inside_68, inside_95 = shares
    return Coverage(inside_68, inside_95, counted.sum(axis=0))


def selections(known: TargetLabels, snr: StarArray | None = None) -> Mapping[str, StarMask]:
    """Stars to score: all, giants, and where the signal to noise of the labels is known, good giants.

    Good giants have log g < 3.5, SNR > 50 and Teff, log g, [Fe/H] and [alpha/M] measured.
    """
    giants = known["logg"] < GIANT_BELOW
    chosen = {"all": np.ones(len(known), dtype=bool), "giants": giants}
    if snr is not None:
        chosen["good giants"] = giants & (snr > GOOD_SNR) & np.isfinite(known.values[:, :4]).all(axis=1)
    return chosen
