"""From the unlabelled stars at hand to all of Gaia: the paper's line, and a count of the cells still unseen.

Laroche & Speagle (2023), sect. 3, third point: 30 % for 1 million stars is taken as about 65 times for 220.
"""

from dataclasses import dataclass

from scattervae.science.latent_volume.cells import JointCounts
from scattervae.science.latent_volume.richness import RELIABLE_UP_TO, Estimate, richness_at


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
