r"""Mean differences of many quantities between two groups, with intervals and a held false-discovery rate.

p-values come from rearranging the stars and assume no distribution: in real spectra a coefficient lies up to
139 standard deviations out, where the t distribution cannot be trusted.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import Field, NonNegativeInt, PositiveInt
from scipy import stats

from scattervae.errors import DataError, counted
from scattervae.science.relative.matching import Groups
from scattervae.seeds import numpy_stream
from scattervae.settings import Settings

_NUMBERS_AT_ONCE = 4_000_000  # of rearrangements and what they give, in memory
_TIE = 1.0 - 1e-9  # sums of the same numbers in another order differ by rounding

Values = Float64[np.ndarray, "star quantity"]
ValuesA = Float64[np.ndarray, "a quantity"]
ValuesB = Float64[np.ndarray, "b quantity"]
PerQuantity = Float64[np.ndarray, " quantity"]


class Significance(Settings):
    """What is called a finding."""

    # the false-discovery rate: the share of false ones to expect among the findings
    level: float = Field(default=0.05, gt=0.0, lt=1.0)
    # ``positive`` is Benjamini & Hochberg's procedure, valid for quantities that are independent or positively
    # dependent; ``any`` is Benjamini & Yekutieli's, valid for all, which asks of 343 wavelengths p-values 6.4
    # times smaller
    dependence: Literal["positive", "any"] = "positive"
    # rearrangements of the stars, at least; more are made where one quantity alone could otherwise never be a
    # finding
    n_permutations: PositiveInt = 9999
    seed: NonNegativeInt = 0  # of the rearrangements

    def enough_permutations(self, n_quantities: int) -> int:
        """So many that the smallest possible p-value, 1 / (n + 1), can be a finding by itself."""
        penalty = (1.0 / np.arange(1, n_quantities + 1)).sum() if self.dependence == "any" else 1.0
        return max(self.n_permutations, math.ceil(n_quantities * penalty / self.level))


DEFAULT = Significance()
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Contrast:
    """Mean of group A less mean of group B, quantity by quantity."""

    difference: PerQuantity  # in `unit`
    standard_error: PerQuantity  # of the difference
    low: PerQuantity  # lower end of the 95 % interval of each quantity by itself; `high` is the upper
    high: PerQuantity
    p_value: PerQuantity  # of no difference, two-sided, by rearranging the stars
    q_value: PerQuantity  # the smallest false-discovery rate at which the quantity is a finding
    found: Bool[np.ndarray, " quantity"]  # true where `q_value` is at most the level asked for
    n_a: int  # stars of A; `n_b` are those of B
    n_b: int
    unit: str  # of the quantities

    @property
    def n_found(self) -> int:
        return int(self.found.sum())


def contrast(
    values: Values,
    groups: Groups,
    *,
    unit: str = "",
    own_variances: Values | None = None,
    significance: Significance = DEFAULT,
) -> Contrast:
    r"""Differences of means with intervals, p-values and findings.

    Matched groups are compared pair by pair, with :math:`d_i = x_{a,i} - x_{b,i}`; others by Welch's t:

    .. math:: \mathrm{SE}^2 = s_d^2 / n \quad \mathrm{or} \quad s_a^2 / n_a + s_b^2 / n_b

    The p-value is the share of rearrangements with a difference as large. Pairs flip their signs, which is
    exact for any distribution if within a pair it is chance which star is in A (a sign flip leaves the sum
    of :math:`d_i^2` as it is, so mean and t order the flips alike). Stars that are not paired change groups;
    t is computed anew each time, which keeps the test valid for large groups of unlike variance.

    Args:
        values: One row a star of the table that the groups are rows of.
        groups: Matched or not.
        unit: Of the values.
        own_variances: What each value's own uncertainty adds to its variance (a posterior width squared):
            to that of the intervals, and as Gaussian noise to that of the rearrangements.
        significance: What is called a finding.

    Raises:
        DataError: A value of a star in a group is not a finite number.

    Source:
        Student and Welch for the intervals; Pitman (1937) for sign flips; Janssen (1997), Statistics &
        Probability Letters 36, 9, for rearranging Welch's t; Phipson & Smyth (2010) for counting the data as
        one arrangement; Benjamini & Hochberg (1995); Benjamini & Yekutieli (2001).
    """
    a, b = values[groups.rows_a], values[groups.rows_b]
    n_bad = int((~np.isfinite(a).all(axis=1)).sum() + (~np.isfinite(b).all(axis=1)).sum())
    if n_bad:
        raise DataError(
            f"{counted(n_bad, 'star')} of the two groups with a value that is no number: leave them out"
        )
    difference = a.mean(axis=0) - b.mean(axis=0)
    variance, freedom = _welch(a, b)
    if groups.paired:
        variance, freedom = (a - b).var(axis=0, ddof=1) / len(a), np.full(a.shape[1], len(a) - 1.0)
    own = np.zeros_like(difference)
    if own_variances is not None:
        own = sum(own_variances[rows].mean(axis=0) / len(rows) for rows in (groups.rows_a, groups.rows_b))
    error = np.sqrt(variance + own)
    reach = stats.t.ppf(0.5 + 0.5 * _CONFIDENCE, freedom) * error
    p_value = _p_values(a, b, np.sqrt(own), paired=groups.paired, significance=significance)
    method = "bh" if significance.dependence == "positive" else "by"
    q_value = np.asarray(stats.false_discovery_control(p_value, method=method))
    return Contrast(
        difference=difference,
        standard_error=error,
        low=difference - reach,
        high=difference + reach,
        p_value=p_value,
        q_value=q_value,
        found=q_value <= significance.level,
        n_a=len(a),
        n_b=len(b),
        unit=unit,
    )


def _welch(a: ValuesA, b: ValuesB) -> tuple[PerQuantity, PerQuantity]:
    """Variance of the difference of means, and Welch and Satterthwaite's degrees of freedom."""
    of_a, of_b = a.var(axis=0, ddof=1) / len(a), b.var(axis=0, ddof=1) / len(b)
    total = of_a + of_b
    lost = of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1)
    freedom = np.divide(total**2, lost, out=np.full_like(total, len(a) + len(b) - 2.0), where=lost > 0)
    return total, freedom


def _p_values(
    a: ValuesA, b: ValuesB, blur: PerQuantity, *, paired: bool, significance: Significance
) -> PerQuantity:
    n = significance.enough_permutations(a.shape[1])
    chance = numpy_stream(significance.seed, "permutations")
    observed, rearranged = (_flipped if paired else _exchanged)(a, b, blur, _Draws(n, chance))
    at_least = sum((t >= _TIE * observed).sum(axis=0) for t in rearranged)
    return np.asarray((1.0 + at_least) / (n + 1.0))


class _Draws(NamedTuple):
    """How many rearrangements to make, and from which chance."""

    n: int
    chance: np.random.Generator

    def sizes(self, x: ValuesA) -> list[int]:
        """How many to make at a time, so that they fit in memory together with what they give."""
        size = max(1, _NUMBERS_AT_ONCE // sum(x.shape))
        return [min(size, self.n - start) for start in range(0, self.n, size)]

    def noise(self, size: int, blur: PerQuantity) -> Float64[np.ndarray, "#permutation quantity"]:
        return self.chance.normal(size=(size, len(blur))) * blur if blur.any() else blur[None]


Rearranged = Iterator[Float64[np.ndarray, "permutation quantity"]]


def _flipped(
    a: ValuesA, b: Float64[np.ndarray, "a quantity"], blur: PerQuantity, draws: _Draws
) -> tuple[PerQuantity, Rearranged]:
    """Absolute means of the pairs' differences, as they are and with their signs flipped at random."""
    d = (a - b) / len(a)

    def flipped() -> Rearranged:
        for size in draws.sizes(d):
            signs = 2.0 * draws.chance.integers(0, 2, (size, len(d))) - 1.0
            yield np.abs(signs @ d + draws.noise(size, blur))

    return np.abs(d.sum(axis=0)), flipped()


def _exchanged(a: ValuesA, b: ValuesB, blur: PerQuantity, draws: _Draws) -> tuple[PerQuantity, Rearranged]:
    """Welch's t squared, as the groups are and with their stars exchanged at random."""
    x = np.concatenate([a, b])
    x = x - x.mean(axis=0)
    scale = np.maximum(x.std(axis=0), np.finfo(float).tiny)
    x /= scale
    in_a = np.arange(len(x)) < len(a)

    def exchanged() -> Rearranged:
        for size in draws.sizes(x):
            chosen = draws.chance.permuted(np.tile(in_a, (size, 1)), axis=1)
            yield _squared_t(chosen, x, draws.noise(size, blur / scale))

    return _squared_t(in_a[None], x, np.zeros((1, x.shape[1])))[0], exchanged()


def _squared_t(
    in_a: Bool[np.ndarray, "permutation star"],
    x: Values,
    noise: Float64[np.ndarray, "#permutation quantity"],
) -> Float64[np.ndarray, "permutation quantity"]:
    """Welch's t squared of centred values for each choice of group A, noise added to the difference."""
    chosen = in_a.astype(np.float64)
    n_a = int(in_a[0].sum())
    n_b = len(x) - n_a
    sum_a, squares_a = chosen @ x, chosen @ x**2
    sum_b, squares_b = x.sum(axis=0) - sum_a, (x**2).sum(axis=0) - squares_a
    variance = (squares_a - sum_a**2 / n_a) / (n_a * (n_a - 1.0))
    variance += (squares_b - sum_b**2 / n_b) / (n_b * (n_b - 1.0))
    squared = (sum_a / n_a - sum_b / n_b + noise) ** 2
    return np.asarray(squared / np.maximum(variance, np.finfo(float).tiny))
