r"""How many cells a population reaches, from how many stars each cell got in a sample of it.

The same question as how many species there are: cells are species, stars are individuals. With :math:`f_k`
the number of cells that hold exactly k of N stars, rarefaction looks back to fewer stars, the unseen-species
estimators look forward to more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaln

LatentArray = Float64[np.ndarray, "star latent"]
CellCounts = Int64[np.ndarray, " cell"]
_LARGEST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class JointCounts:
    """Stars of two sets in each cell that holds a star of either, cell by cell.

    Attributes:
        labelled: Stars of the first set; 0 where only the second is.
        unlabelled: Stars of the second set; 0 where only the first is.
        volume: Volume of one cell, in prior standard deviations to the power of the dimensions.
    """

    labelled: CellCounts
    unlabelled: CellCounts
    volume: float


def occupied_volume(z: LatentArray, cell: float, *, threshold: int = 1) -> float:
    """Volume of the cells that hold enough stars.

    The answer grows with the number of stars until every cell that can be reached is; it is not a property of
    the population alone. Cells on an edge count whole, so that in the limit of many stars it exceeds the
    volume of the region by about half its surface times `cell`.

    Args:
        z: Latents, in standard deviations of the prior; finite.
        cell: Side of a cell, same unit.
        threshold: Fewest stars in an occupied cell.

    Source:
        Laroche & Speagle (2023), sect. 3, third point: "by numerical integration"; the paper gives neither
        cell nor threshold.
    """
    n_occupied = int((count_cells(z, cell) >= threshold).sum())
    return float(n_occupied * cell ** z.shape[1])


def count_cells(z: LatentArray, cell: float) -> CellCounts:
    """Stars in each cell that holds any; the order of the cells has no meaning."""
    return np.unique(_cell_keys(z, cell), return_counts=True)[1].astype(np.int64)


def count_cells_of_both(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    cell: float,
) -> JointCounts:
    """Stars of two sets in the cells of one grid."""
    keys = _cell_keys(np.concatenate([labelled, unlabelled]), cell)
    n_cells, inverse = np.unique(keys, return_inverse=True)
    n = len(labelled)
    return JointCounts(
        labelled=np.bincount(inverse[:n], minlength=len(n_cells)).astype(np.int64),
        unlabelled=np.bincount(inverse[n:], minlength=len(n_cells)).astype(np.int64),
        volume=cell ** labelled.shape[1],
    )


def _cell_keys(z: LatentArray, cell: float) -> Int64[np.ndarray, " star"]:
    """One integer a star, equal for two stars where they share a cell."""
    if not np.isfinite(z).all():
        raise ValueError("latents must be finite; leave out stars that could not be encoded")
    if not cell > 0:
        raise ValueError(f"a cell's side must be above 0, not {cell}")
    keys = np.zeros(len(z), dtype=np.int64)
    if len(z) == 0:
        return keys
    index = np.floor(z / cell).astype(np.int64)
    index -= index.min(axis=0)
    for column in index.T:
        width = int(column.max()) + 1
        if int(keys.max()) >= _LARGEST // width - 1:  # no room left: number the keys in use from zero
            keys = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        keys = keys * width + column
    return keys


CellShares = Float64[np.ndarray, " cell"]
Z_95 = NormalDist().inv_cdf(0.975)
RELIABLE_UP_TO = 2.0  # times the sample: Chao et al. (2014), and iNEXT's default end point
_NO_CELL = 1e-6  # an expected number of cells that is none


class Estimate(NamedTuple):
    """A number with its standard deviation and 95 % interval."""

    value: float
    sd: float
    low: float
    high: float


def around(value: float, sd: float) -> Estimate:
    """An estimate with the symmetric normal interval."""
    return Estimate(value, sd, value - Z_95 * sd, value + Z_95 * sd)


def drawn_chance(counts: CellCounts, n_stars: int, n: int, k: int) -> CellShares:
    r"""Chance that k of a cell's stars are among `n` of the sample's stars drawn without replacement.

    .. math:: \binom{x}{k} \binom{N - x}{n - k} \Big/ \binom{N}{n}

    Args:
        counts: Stars in each cell, x.
        n_stars: Stars in the sample, N; at least as many as in any cell.
        n: Stars drawn, at most N.
        k: How many of them in the cell.
    """
    if not 0 <= n <= n_stars:
        raise ValueError(f"cannot draw {n} of {n_stars} stars")
    distinct, inverse = np.unique(counts, return_inverse=True)
    x = distinct.astype(np.float64)
    chance = np.zeros(len(x))
    if k <= n:
        can = (x >= k) & (n_stars - x >= n - k)
        chance[can] = np.exp(
            _log_binomial(x[can], k)
            + _log_binomial(n_stars - x[can], n - k)
            - _log_binomial(np.array([float(n_stars)]), n)
        )
    return np.minimum(chance, 1.0)[inverse]


def occupied_chance(counts: CellCounts, n_stars: int, n: int, *, threshold: int = 1) -> CellShares:
    """Chance that each cell is occupied in `n` of the sample's stars drawn without replacement.

    Args:
        counts: Stars in each cell.
        n_stars: Stars in the sample.
        n: Stars drawn.
        threshold: Fewest stars in an occupied cell.

    Source:
        Hurlbert (1971), Ecology 52, 577, for threshold 1; the further terms are of the same law.
    """
    absent = sum((drawn_chance(counts, n_stars, n, k) for k in range(threshold)), np.zeros(len(counts)))
    return 1.0 - np.minimum(absent, 1.0)


def richness_at(
    counts: CellCounts, n: int | float, *, threshold: int = 1, n_stars: int | None = None
) -> Estimate:
    r"""Expected number of occupied cells in another sample of `n` stars of the same population.

    For n up to the sample's N stars by rarefaction. For more by extrapolation, with :math:`\hat f_0` the
    cells that the sample missed (`chao1`),

    .. math:: S + \hat f_0 \left[ 1 - \left( 1 - \frac{f_1}{N \hat f_0 + f_1} \right)^{n - N} \right]

    which is a lower bound and biased low beyond about 2 N, the more so the longer the population's tails; at
    10 N and more it is little but the asymptote. The interval holds for the bound, not for its bias.

    Args:
        counts: Stars in each cell.
        n: Size of the other sample; infinity for the asymptote.
        threshold: Fewest stars in an occupied cell; above 1 only for n up to N.
        n_stars: Stars in the whole sample, where `counts` are of some of the cells only.

    Source:
        Hurlbert (1971), Ecology 52, 577; Colwell et al. (2012), J. Plant Ecol. 5, 3, eqs. 4, 5 and 9, with
        the variance of the extrapolation by the delta method on the same footing; Chao et al. (2014), Ecol.
        Monogr. 84, 45, for how far to trust it.
    """
    n_stars = int(counts.sum()) if n_stars is None else n_stars
    if n > n_stars and threshold > 1:
        raise ValueError("extrapolation is defined for a threshold of one star a cell")
    frequencies = Frequencies.observed(counts, n_stars)
    if n > n_stars:
        return frequencies.extrapolated(n)
    chance = occupied_chance(counts, n_stars, int(n), threshold=threshold)
    value = float(chance.sum())
    return around(value, _sd(float((chance**2).sum()), value, frequencies.asymptote))


def chao1(counts: CellCounts) -> Estimate:
    r"""Cells that the population reaches, seen or not: a lower bound, exact where all are equally likely.

    .. math:: S + \frac{N - 1}{N} \frac{f_1^2}{2 f_2}

    and :math:`f_1 (f_1 - 1) / 2` in place of the fraction where :math:`f_2 = 0`. The bound rises with N where
    cells are not equally likely: compare two of them at equal N.

    Source:
        Chao (1984), Scand. J. Statist. 11, 265; Chao (1987), Biometrics 43, 783, for variance and interval.
    """
    return richness_at(counts, math.inf)


@dataclass(frozen=True)
class Frequencies:
    """What unseen-species estimators need of a sample; expected numbers where it is a subsample.

    Attributes:
        seen: Cells that hold a star.
        once: Cells that hold one.
        twice: Cells that hold two.
        n_stars: Stars in the sample.
    """

    seen: float
    once: float
    twice: float
    n_stars: int

    @classmethod
    def observed(cls, counts: CellCounts, n_stars: int) -> "Frequencies":
        """Of a sample, by its stars in each cell."""
        seen, once, twice = ((counts > 0).sum(), (counts == 1).sum(), (counts == 2).sum())
        return cls(float(seen), float(once), float(twice), n_stars)

    @property
    def asymptote(self) -> float:
        return self.seen + _unseen(self.once, self.twice, self.n_stars)

    def extrapolated(self, n: int | float) -> Estimate:
        """As `richness_at`, for n above `n_stars`."""
        f1, f2, n_stars, extra = self.once, self.twice, self.n_stars, n - self.n_stars
        if f1 < _NO_CELL:  # every cell has been seen again and again: there is nothing left to find
            return Estimate(self.seen, 0.0, self.seen, self.seen)
        found = _unseen_found(f1, f2, n_stars, extra)
        slope1 = 1.0 + _derivative(lambda f: _unseen_found(f, f2, n_stars, extra), f1)
        slope2 = 1.0 + (_derivative(lambda f: _unseen_found(f1, f, n_stars, extra), f2) if f2 > 0 else 0.0)
        others = self.seen - f1 - f2
        squares = slope1**2 * f1 + slope2**2 * f2 + others
        sd = _sd(squares, slope1 * f1 + slope2 * f2 + others, self.asymptote)
        return _above(self.seen, found, sd) if math.isinf(n) else around(self.seen + found, sd)


def sample_coverage(counts: CellCounts) -> Estimate:
    r"""Share of the population that lives in cells the sample has seen.

    .. math:: 1 - \frac{f_1}{N} \frac{(N - 1) f_1}{(N - 1) f_1 + 2 f_2}

    Good's estimate is its first factor alone. One minus it is the chance that the next star of the same
    population opens a new cell.

    Source:
        Good (1953), Biometrika 40, 237; Chao & Jost (2012), Ecology 93, 2533, for the second factor; Esty
        (1983), Ann. Statist. 11, 905, for the variance.
    """
    n = int(counts.sum())
    f1, f2 = int((counts == 1).sum()), int((counts == 2).sum())
    if n == 0:
        return Estimate(0.0, 0.0, 0.0, 1.0)
    correction = (n - 1) * f1 / ((n - 1) * f1 + 2 * f2) if (n - 1) * f1 + 2 * f2 > 0 else 1.0
    sd = math.sqrt(f1 * (1 - f1 / n) + 2 * f2) / n
    value, _, low, high = around(1.0 - f1 / n * correction, sd)
    return Estimate(value, sd, max(low, 0.0), min(high, 1.0))


def _log_binomial(x: CellShares, k: int) -> CellShares:
    log: CellShares = gammaln(x + 1) - gammaln(k + 1) - gammaln(x - k + 1)
    return log


def _unseen(f1: float, f2: float, n: int) -> float:
    pairs = f1**2 / (2 * f2) if f2 > 0 else max(f1 * (f1 - 1) / 2, 0.0)
    return (n - 1) / n * pairs if n > 0 else 0.0


def _unseen_found(f1: float, f2: float, n: int, extra: int | float) -> float:
    unseen = _unseen(max(f1, 0.0), f2, n)
    if unseen <= 0:
        return 0.0
    return unseen * -math.expm1(extra * math.log1p(-f1 / (n * unseen + f1)))


def _derivative(function: Callable[[float], float], at: float) -> float:
    step = 1e-4 * max(1.0, at)
    return (function(at + step) - function(at - step)) / (2 * step)


def _sd(squares: float, total: float, asymptote: float) -> float:
    """From the cells being so many draws of a cell: Colwell et al. (2012), eq. 5, for any sum over cells."""
    return math.sqrt(max(squares - total**2 / asymptote, 0.0)) if asymptote > 0 else 0.0


def _above(seen: float, unseen: float, sd: float) -> Estimate:
    """The interval that stays above what was seen: Chao (1987), log-normal in the unseen number."""
    if unseen <= 0:
        return Estimate(seen, sd, seen, seen)
    spread = math.exp(Z_95 * math.sqrt(math.log1p((sd / unseen) ** 2)))
    return Estimate(seen + unseen, sd, seen + unseen / spread, seen + unseen * spread)
