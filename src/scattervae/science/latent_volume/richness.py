r"""How many cells of the latent space a population reaches, from how many stars each cell got in a sample of it.

Cells are of a fixed grid anchored at zero (Laroche & Speagle 2023, sect. 3, third point, count volumes so). The
question is that of how many species there are: cells are species, stars are individuals. With :math:`f_k` the number
of cells that hold exactly k of N stars, rarefaction looks back to fewer stars, the unseen-species estimators look
forward to more.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import gammaln

CellCounts = Int64[np.ndarray, " cell"]
CellShares = Float64[np.ndarray, " cell"]
Z_95 = NormalDist().inv_cdf(0.975)
RELIABLE_UP_TO = 2.0  # times the sample: Chao et al. (2014), and iNEXT's default end point
_NO_CELL = 1e-6  # an expected number of cells that is none


@dataclass(frozen=True)
class JointCounts:
    """Stars of two sets in each cell that holds a star of either, cell by cell."""

    labelled: CellCounts
    unlabelled: CellCounts


class Estimate(NamedTuple):
    """A number with its standard deviation and 95 % interval."""

    value: float
    sd: float
    low: float
    high: float


def around(value: float, sd: float) -> Estimate:
    """An estimate with the symmetric normal interval."""
    return Estimate(value, sd, value - Z_95 * sd, value + Z_95 * sd)


def count_cells(
    labelled: Float64[np.ndarray, "labelled latent"],
    unlabelled: Float64[np.ndarray, "unlabelled latent"],
    cell: float,
) -> JointCounts:
    """Stars of two sets in the cells of one grid; latents are finite, in the unit of the cell's side."""
    z = np.concatenate([labelled, unlabelled])
    if not np.isfinite(z).all():
        raise ValueError("latents must be finite; leave out stars that could not be encoded")
    if not cell > 0:
        raise ValueError(f"a cell's side must be above 0, not {cell}")
    index = np.floor(z / cell).astype(np.int64)
    order = np.lexsort(index.T[::-1])
    opens_cell = (np.diff(index[order], axis=0, prepend=index[order[:1]] - 1) != 0).any(axis=1)
    of_star = np.empty(len(z), dtype=np.int64)
    of_star[order] = np.cumsum(opens_cell) - 1
    n_cells = int(opens_cell.sum())
    return JointCounts(*(np.bincount(rows, minlength=n_cells) for rows in np.split(of_star, [len(labelled)])))


def occupied_chance(counts: CellCounts, n_stars: int, n: int) -> CellShares:
    r"""Chance that each cell holds one of `n` of the sample's stars drawn without replacement.

    .. math:: 1 - \binom{N - x}{n} / \binom{N}{n}

    Each cell holds x of the sample's N stars.

    Source:
        Hurlbert (1971), Ecology 52, 577.
    """
    if not 0 <= n <= n_stars:
        raise ValueError(f"cannot draw {n} of {n_stars} stars")
    distinct, inverse = np.unique(counts, return_inverse=True)
    others = n_stars - distinct.astype(np.float64)
    can_miss = others >= n
    missed = np.zeros(len(distinct))
    of_all = _log_binomial(np.array([float(n_stars)]), n)
    missed[can_miss] = np.exp(_log_binomial(others[can_miss], n) - of_all)
    return 1.0 - np.minimum(missed, 1.0)[inverse]


def richness_at(counts: CellCounts, n: int | float, *, n_stars: int | None = None) -> Estimate:
    r"""Expected number of occupied cells in another sample of `n` stars of the same population.

    For n up to the sample's N stars by rarefaction. For more by extrapolation, with S the cells seen and

    .. math:: \hat f_0 = \frac{N - 1}{N} \frac{f_1^2}{2 f_2}, \qquad
        S + \hat f_0 \left[ 1 - \left( 1 - \frac{f_1}{N \hat f_0 + f_1} \right)^{n - N} \right]

    and :math:`f_1 (f_1 - 1) / 2` in place of the first's last fraction where :math:`f_2 = 0`. It is a lower bound,
    exact where all cells are equally likely, and biased low beyond about 2 N, the more so the longer the population's
    tails; at 10 N and more it is little but the asymptote. The asymptote rises with N where cells are not equally
    likely: compare two of them at equal N. The interval holds for the bound, not for its bias.

    Args:
        counts: Stars in each cell.
        n: Size of the other sample; infinity for the asymptote, with an interval that is log-normal in the unseen.
        n_stars: Stars in the whole sample, where `counts` are of some of the cells only.

    Source:
        Hurlbert (1971), Ecology 52, 577; Chao (1984), Scand. J. Statist. 11, 265, and Chao (1987), Biometrics 43,
        783, for the asymptote; Colwell et al. (2012), J. Plant Ecol. 5, 3, eqs. 4, 5 and 9, with the variance of the
        extrapolation by the delta method on the same footing; Chao et al. (2014), Ecol. Monogr. 84, 45, for how far
        to trust it.
    """
    n_stars = int(counts.sum()) if n_stars is None else n_stars
    seen, once, twice = (float(k.sum()) for k in (counts > 0, counts == 1, counts == 2))
    frequencies = Frequencies(seen, once, twice, n_stars)
    if n > n_stars:
        return frequencies.extrapolated(n)
    chance = occupied_chance(counts, n_stars, int(n))
    value = float(chance.sum())
    return around(value, _sd(float((chance**2).sum()), value, frequencies.asymptote))


@dataclass(frozen=True)
class Frequencies:
    """What unseen-species estimators need of a sample; expected numbers where it is a subsample."""

    seen: float  # cells that hold a star
    once: float  # cells that hold one
    twice: float  # cells that hold two
    n_stars: int  # stars in the sample

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


def seen_share(counts: CellCounts) -> float:
    r"""Share of the population that lives in cells the sample has seen.

    .. math:: 1 - \frac{f_1}{N} \frac{(N - 1) f_1}{(N - 1) f_1 + 2 f_2}

    One minus it is the chance that the next star of the same population opens a new cell.

    Source:
        Good (1953), Biometrika 40, 237, for the first factor; Chao & Jost (2012), Ecology 93, 2533, for the second.
    """
    n = int(counts.sum())
    f1, f2 = int((counts == 1).sum()), int((counts == 2).sum())
    if n == 0:
        return 0.0
    correction = (n - 1) * f1 / ((n - 1) * f1 + 2 * f2) if (n - 1) * f1 + 2 * f2 > 0 else 1.0
    return 1.0 - f1 / n * correction


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
