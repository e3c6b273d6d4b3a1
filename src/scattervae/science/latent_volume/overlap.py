r"""How much of the latent space one set of stars occupies beyond another, at given numbers of stars of each.

All sums are exact expectations over subsamples (Hurlbert 1971), so nothing is drawn at random. Intervals are
by the jackknife over stars, whose variance is not too small on average (Efron & Stein 1981, Ann. Statist. 9,
586): with all stars counted they are up to 1.6 times too wide, with half of them or fewer about right.
"""

import math
from dataclasses import dataclass

import numpy as np

from scattervae.science.latent_volume.richness import (
    RELIABLE_UP_TO,
    CellCounts,
    CellShares,
    Estimate,
    JointCounts,
    around,
    occupied_chance,
    richness_at,
)


@dataclass(frozen=True)
class Extrapolation:
    """What the unlabelled set would add if it had `n_target` stars, relative to the labelled volume.

    Attributes:
        n_target: Stars extrapolated to.
        times_the_sample: `n_target` over the unlabelled stars at hand.
        linear: The paper's: `new` of all stars at hand, times `times_the_sample`. Every star is taken to open
            as many new cells as the first ones did.
        corrected: From the numbers of cells with one and with two stars. A lower bound.
        reliable: Whether `times_the_sample` is within what the corrected one can be trusted for (2).
    """

    n_target: int
    times_the_sample: float
    linear: float
    corrected: Estimate
    reliable: bool


def linear_extrapolation(relative: float, n_target: int, n_unlabelled: int) -> float:
    """The paper's: a relative difference of volumes times the growth of the unlabelled set.

    Source:
        Laroche & Speagle (2023), sect. 3: 220 times 30 %, of a million stars, is "approximately 65".
    """
    return relative * n_target / n_unlabelled


def extrapolate(counts: JointCounts, n_target: int) -> Extrapolation:
    """New volume with `n_target` unlabelled stars: the paper's line, and one that counts unseen cells.

    The labelled stars stay as they are; the second takes the cells that none of them occupies as a population
    of its own, and extrapolates how many of those the unlabelled stars reach. One star occupies a cell.

    Source:
        Laroche & Speagle (2023), sect. 3; Colwell et al. (2012), J. Plant Ecol. 5, 3, eq. 9.
    """
    n = int(counts.unlabelled.sum())
    v_sup = float((counts.labelled > 0).sum())
    elsewhere = counts.unlabelled[counts.labelled == 0]
    reached = richness_at(elsewhere, n_target, n_stars=n)
    return Extrapolation(
        n_target=n_target,
        times_the_sample=n_target / n,
        linear=linear_extrapolation(float((elsewhere > 0).sum()) / v_sup, n_target, n),
        corrected=Estimate(*(part / v_sup for part in reached)),
        reliable=n_target <= RELIABLE_UP_TO * n,
    )


@dataclass(frozen=True)
class Overlap:
    r"""Two sets of stars on one grid, at given numbers of stars.

    The paper's "cover 30 % more" can be read two ways; both are here. Volumes are in prior standard
    deviations to the power of the dimensions, `new` and `difference` are relative to `v_sup`.

    Attributes:
        n_labelled: Stars of the labelled set that are counted.
        n_unlabelled: Stars of the unlabelled set that are counted.
        threshold: Fewest stars in an occupied cell.
        v_sup: Volume occupied by labelled stars.
        v_unsup: Volume occupied by unlabelled stars.
        new: Volume occupied by unlabelled stars and not by labelled ones, over `v_sup`.
        difference: :math:`(V_{unsup} - V_{sup}) / V_{sup}`; below 0 where the unlabelled occupy less.
        new_by_size_alone: What `new` would be if the unlabelled stars were more stars of the labelled
            population; None above a threshold of one, and beyond twice the labelled stars.
        share_new: Share of the unlabelled stars that lie in no cell of the labelled ones.
        share_new_by_size_alone: The same share for further stars of the labelled population, by leaving each
            out in turn. Unlike volumes, the two may be compared at any cell size.
    """

    n_labelled: int
    n_unlabelled: int
    threshold: int
    v_sup: float
    v_unsup: float
    new: Estimate
    difference: Estimate
    new_by_size_alone: float | None
    share_new: Estimate
    share_new_by_size_alone: Estimate


def overlap_at(counts: JointCounts, n_labelled: int, n_unlabelled: int, *, threshold: int = 1) -> Overlap:
    """Occupied volumes expected in so many stars of each set, and their relative differences.

    Args:
        counts: Stars of both sets in each cell.
        n_labelled: Labelled stars to count, at most as many as there are, and 1 or more.
        n_unlabelled: Unlabelled stars to count, likewise.
        threshold: Fewest stars in an occupied cell.

    Source:
        Hurlbert (1971), Ecology 52, 577; Good (1953), Biometrika 40, 237, for stars in new cells.
    """
    x, y = counts.labelled, counts.unlabelled
    p, q = _chance(x, n_labelled, threshold), _chance(y, n_unlabelled, threshold)
    sup, unsup, extra = float(p.sum()), float(q.sum()), float((q * (1.0 - p)).sum())
    if sup == 0.0:
        raise ValueError("no cell holds enough labelled stars: no volume to compare with; take larger cells")
    new, difference = extra / sup, unsup / sup - 1.0
    dp = _chance(x, n_labelled, threshold, without=1) - p  # what leaving out one star does to its own cell
    dq = _chance(y, n_unlabelled, threshold, without=1) - q
    return Overlap(
        n_labelled=n_labelled,
        n_unlabelled=n_unlabelled,
        threshold=threshold,
        v_sup=sup * counts.volume,
        v_unsup=unsup * counts.volume,
        new=around(new, math.hypot(_jackknife(-(q + new) * dp / sup, x), _jackknife((1 - p) * dq / sup, y))),
        difference=around(
            difference, math.hypot(_jackknife(-unsup * dp / sup**2, x), _jackknife(dq / sup, y))
        ),
        new_by_size_alone=_growth(x, n_labelled, n_labelled + n_unlabelled, threshold),
        share_new=_share_new(x, y, p, dp),
        share_new_by_size_alone=_share_new_of_the_same(x, n_labelled, threshold),
    )


def _chance(counts: CellCounts, n: int, threshold: int, *, without: int = 0) -> CellShares:
    """Chance that each cell is occupied, after so many of its own stars are left out of the sample."""
    n_stars = max(int(counts.sum()) - without, 0)
    return occupied_chance(np.maximum(counts - without, 0), n_stars, min(n, n_stars), threshold=threshold)


def _jackknife(effect: CellShares, stars: CellCounts) -> float:
    """Standard deviation from what leaving out one star of each cell does to the result."""
    n = int(stars.sum())
    mean = float((stars * effect).sum()) / n
    return math.sqrt(max(float((stars * (effect - mean) ** 2).sum()) * (n - 1) / n, 0.0))


def _share_new(x: CellCounts, y: CellCounts, p: CellShares, dp: CellShares) -> Estimate:
    n = int(y.sum())
    share = float((y * (1.0 - p)).sum()) / n
    return around(share, math.hypot(_jackknife(-y * dp / n, x), _jackknife((1.0 - p - share) / n, y)))


def _share_new_of_the_same(x: CellCounts, n: int, threshold: int) -> Estimate:
    """With all stars counted and a threshold of one, Good's f_1 / N and Esty's (1983) variance."""
    n_stars = int(x.sum())
    alone = 1.0 - _chance(x, n, threshold, without=1)
    share = float((x * alone).sum()) / n_stars
    companions_alone = (x - 1) * (1.0 - _chance(x, n, threshold, without=2))
    return around(share, _jackknife((companions_alone - x * alone + share) / n_stars, x))


def _growth(counts: CellCounts, n_from: int, n_to: int, threshold: int) -> float | None:
    if threshold > 1 or n_to > RELIABLE_UP_TO * int(counts.sum()):
        return None
    return richness_at(counts, n_to).value / richness_at(counts, n_from).value - 1.0
