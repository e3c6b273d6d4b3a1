"""Volumes that two populations of stars reach in the latent space, cells that no star fell in included.

And the share of stars in new cells that further stars of the same population would have.
"""

import math
from dataclasses import dataclass

from scipy.stats import hypergeom

from scattervae.science.latent_volume.comparison import chance_without, jackknife_sd
from scattervae.science.latent_volume.richness import CellCounts, Estimate, Frequencies, JointCounts, around


@dataclass(frozen=True)
class CorrectedOverlap:
    """What `Overlap` would come to if both populations were seen whole, by Chao's lower bound.

    Attributes:
        n_stars: Stars that each bound is taken from.
        new: Volume that the two together reach beyond the labelled one, seen or not, relative to it.
        difference: Of the two volumes, relative to the labelled one.
    """

    n_stars: int
    new: Estimate
    difference: Estimate


def corrected_overlap(counts: JointCounts) -> CorrectedOverlap:
    """Relative differences of the volumes that two populations reach, cells that no star fell in included.

    Every bound is taken at the number of stars of the smaller set, since it rises with that number: from the
    frequencies expected in a subsample, and for the two together in a sample of half of each. Intervals are
    of samples of that number and take the bounds as independent: too wide for `new`, where stars are shared,
    and for the set that has more stars.

    Source:
        Chao (1984), Scand. J. Statist. 11, 265; Chao (1987), Biometrics 43, 783.
    """
    x, y = counts.labelled, counts.unlabelled
    n = min(int(x.sum()), int(y.sum()))
    sup = _mixed_frequencies(counts, n, 0).extrapolated(math.inf)
    unsup = _mixed_frequencies(counts, 0, n).extrapolated(math.inf)
    both = _mixed_frequencies(counts, n - n // 2, n // 2).extrapolated(math.inf)
    return CorrectedOverlap(
        n_stars=n,
        new=relative_to(both, sup),
        difference=relative_to(unsup, sup),
    )


def _mixed_frequencies(counts: JointCounts, n_labelled: int, n_unlabelled: int) -> Frequencies:
    """Frequencies expected in a sample of so many stars of each set, by the law of the sum of two draws."""
    of_x, of_y = (
        [hypergeom.pmf(k, int(of_set.sum()), of_set, n) for k in range(3)]
        for of_set, n in ((counts.labelled, n_labelled), (counts.unlabelled, n_unlabelled))
    )
    none = of_x[0] * of_y[0]
    once = of_x[1] * of_y[0] + of_x[0] * of_y[1]
    twice = of_x[2] * of_y[0] + of_x[1] * of_y[1] + of_x[0] * of_y[2]
    return Frequencies(
        float((1.0 - none).sum()), float(once.sum()), float(twice.sum()), n_labelled + n_unlabelled
    )


def relative_to(volume: Estimate, reference: Estimate) -> Estimate:
    """One volume over another, less one; the interval is normal in the logarithm of their ratio."""
    ratio = volume.value / reference.value
    if ratio == 0:
        return Estimate(-1.0, 0.0, -1.0, -1.0)
    sd = math.hypot(volume.sd / volume.value, reference.sd / reference.value)
    spread = around(0.0, sd)
    return Estimate(
        ratio - 1, ratio * sd, ratio * math.exp(spread.low) - 1, ratio * math.exp(spread.high) - 1
    )


def share_new_of_the_same(counts: CellCounts, n: int) -> Estimate:
    """Share of further stars of a population that would lie in no cell of `n` of these, by leaving each out in turn.

    With all stars counted, Good's (1953) f_1 / N and Esty's (1983) variance.
    """
    n_stars = int(counts.sum())
    alone = 1.0 - chance_without(counts, n, 1)
    share = float((counts * alone).sum()) / n_stars
    others_alone = (counts - 1) * (1.0 - chance_without(counts, n, 2))
    return around(share, jackknife_sd((others_alone - counts * alone + share) / n_stars, counts))
